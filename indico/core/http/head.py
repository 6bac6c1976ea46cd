"""
The parser of request lines and headers.
"""

from __future__ import annotations

import re
from functools import lru_cache

import httptools
from tornado.httputil import HTTPHeaders, RequestStartLine

LARGEST_HEAD = 64 * 1024  # bytes
CHUNKED = -1  # `body_size` of a body in chunks
LARGEST_SIZE = 10**18  # bytes; replaces a larger Content-Length

# httptools supports only some methods and targets, so this module parses the request line itself.
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%b) ([^\x00-\x20\x7f]+) (HTTP/1\.[0-9])\r\n" % TOKEN)
PARTIAL_REQUEST_LINE = re.compile(rb"\r?|%b( [^\x00-\x20\x7f]*( [HTP/1.0-9]{0,8}\r?)?)?" % TOKEN)
ABSOLUTE = re.compile(r"https?://([^/?#@]+)(.*)", re.IGNORECASE)
LENGTH = re.compile(rb"(?im)^content-length:[ \t]*([0-9]+(?:[ \t]*,[ \t]*[0-9]+)*)[ \t]*\r\n")


class BadRequest(Exception):
    """The client has sent data that is not valid HTTP."""


class Head:
    """The request line and the headers of a request, and what they mean for the connection."""

    __slots__ = ("line", "headers", "is_http_1_0", "keep_alive", "expects_continue", "body_size")

    def __init__(self, line: RequestStartLine, headers: HTTPHeaders) -> None:
        self.line = line
        self.headers = headers
        self.is_http_1_0 = line.version != "HTTP/1.1"
        self.keep_alive = not self.is_http_1_0
        if "Connection" in headers:
            options = [option.strip() for option in headers["Connection"].lower().split(",")]
            self.keep_alive = "close" not in options and (not self.is_http_1_0 or "keep-alive" in options)
        self.expects_continue = (  # the client waits for "100 Continue"
            "Expect" in headers and headers["Expect"].lower() == "100-continue" and not self.is_http_1_0
        )
        self.body_size = 0  # bytes, or CHUNKED
        if "Transfer-Encoding" in headers:
            # A proxy may read HTTP/1.0 with chunks as a request without a body, and the body as another
            # request.
            if headers["Transfer-Encoding"].lower() != "chunked" or self.is_http_1_0:
                raise BadRequest
            self.body_size = CHUNKED
        elif "Content-Length" in headers:
            self.body_size = int(headers["Content-Length"].lstrip("0") or "0")
        if self.body_size and line.method == "CONNECT":
            raise BadRequest


class HeaderCollector:
    """The protocol that httptools calls with each header."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers = HTTPHeaders()

    def on_header(self, raw_name: bytes, raw_value: bytes) -> None:
        name, value = _decode_name(raw_name), raw_value.decode("latin-1").rstrip(" \t")
        if name in self.headers:
            self.headers.add(name, value)
        else:
            self.headers[name] = value


@lru_cache(1000)
def _decode_name(name: bytes) -> str:
    return name.decode("latin-1")


def parse_head(data: bytes) -> Head:
    """Parse the head of a request. `data` ends with the empty line. Raises BadRequest."""
    match = REQUEST_LINE.match(data)
    if match is None:
        raise BadRequest
    method, target, version = match[1].decode(), match[2].decode("latin-1"), match[3].decode()
    fields = data[match.end() :]
    try:
        headers = _parse_fields(fields)
    except httptools.HttpParserError:
        try:
            headers = _parse_fields(_write_length_once(fields))
        except httptools.HttpParserError as error:
            raise BadRequest from error
    if target[0] != "/":
        target = _take_absolute_target(target, headers)
    return Head(RequestStartLine(method, target, version), headers)


def _parse_fields(fields: bytes) -> HTTPHeaders:
    collector = HeaderCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(b"POST / HTTP/1.1\r\n" + fields)
    except httptools.HttpParserUpgrade:  # the handler decides whether to accept it
        pass
    return collector.headers


def _write_length_once(fields: bytes) -> bytes:
    """
    Replace a repeated or very large Content-Length by one that httptools accepts. Few clients send such
    headers, so this runs only after httptools has rejected them.
    """
    lengths = [part.strip() for match in LENGTH.finditer(fields) for part in match[1].split(b",")]
    if len(set(lengths)) != 1:
        return fields
    length = lengths[0] if len(lengths[0].lstrip(b"0")) < 18 else b"%d" % LARGEST_SIZE
    return b"Content-Length: %b\r\n%b" % (length, LENGTH.sub(b"", fields))


def _take_absolute_target(target: str, headers: HTTPHeaders) -> str:
    """Return `/path` for the target `http://host/path`, and replace the header Host by `host`."""
    match = ABSOLUTE.fullmatch(target)
    if match is None or "Host" not in headers:
        return target
    headers["Host"] = match[1]
    return match[2] if match[2].startswith("/") else f"/{match[2]}"


def is_malformed(data: bytearray) -> bool:
    """Whether `data` can't be the beginning of a valid request."""
    return (
        len(data) > LARGEST_HEAD
        or (REQUEST_LINE.match(data) or PARTIAL_REQUEST_LINE.fullmatch(data)) is None
        or data.count(b"\n") != data.count(b"\r\n")
    )
