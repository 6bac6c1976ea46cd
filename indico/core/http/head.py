"""
The parser of request lines and headers.
"""

from __future__ import annotations

import re
from contextlib import suppress
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
    """The request line and the headers of a request, and the size of its body according to them."""

    __slots__ = ("line", "headers", "body_size", "keep_alive")

    def __init__(self, line: RequestStartLine, fields: bytes) -> None:
        self.line = line
        self.headers = HTTPHeaders()
        self.body_size = 0  # or CHUNKED
        self.keep_alive = False
        # The parser stops at an upgrade. The handler decides whether to accept it.
        with suppress(httptools.HttpParserUpgrade):
            httptools.HttpRequestParser(self).feed_data(b"POST / HTTP/1.1\r\n" + fields)

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
    line = RequestStartLine(match[1].decode(), match[2].decode("latin-1"), match[3].decode())
    fields = data[match.end() :]
    try:
        head = Head(line, fields)
    except httptools.HttpParserError:
        try:
            head = Head(line, _write_length_once(fields))
        except httptools.HttpParserError as error:
            raise BadRequest from error
    head.line = take_absolute_target(line, head.headers)
    _set_body_size(head)
    head.keep_alive = _is_kept_alive(head)
    return head


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


def take_absolute_target(line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Replace the target `http://host/path` by `/path`, and the header Host by `host`."""
    if line.path.startswith("/"):
        return line
    match = ABSOLUTE.fullmatch(line.path)
    if match is None or "Host" not in headers:
        return line
    headers["Host"] = match[1]
    path = match[2] if match[2].startswith("/") else f"/{match[2]}"
    return RequestStartLine(line.method, path, line.version)


def _is_kept_alive(head: Head) -> bool:
    is_http_1_0 = head.line.version != "HTTP/1.1"
    if "Connection" not in head.headers:
        return not is_http_1_0
    options = [option.strip() for option in head.headers["Connection"].lower().split(",")]
    return "close" not in options and (not is_http_1_0 or "keep-alive" in options)


def _set_body_size(head: Head) -> None:
    headers = head.headers
    if "Transfer-Encoding" in headers:
        # A proxy may read HTTP/1.0 with chunks as a request without a body, and the body as another request.
        if headers["Transfer-Encoding"].lower() != "chunked" or head.line.version != "HTTP/1.1":
            raise BadRequest
        head.body_size = CHUNKED
    elif "Content-Length" in headers:
        head.body_size = int(headers["Content-Length"].lstrip("0") or "0")
    if head.body_size and head.line.method == "CONNECT":
        raise BadRequest


def is_malformed(data: bytes) -> bool:
    """Whether `data` can't be the beginning of a valid request."""
    return (
        len(data) > LARGEST_HEAD
        or (REQUEST_LINE.match(data) or PARTIAL_REQUEST_LINE.fullmatch(data)) is None
        or data.count(b"\n") != data.count(b"\r\n")
    )
