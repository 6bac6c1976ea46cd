"""
The parser of request lines and headers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

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


class LazyHeaders(HTTPHeaders):
    """Headers that are put into Tornado's dictionaries when something first uses them."""

    def __init__(self, fields: dict[bytes, list[bytes]]) -> None:
        self._fields = fields

    if not TYPE_CHECKING:  # pragma: no branch - with it mypy would accept every attribute

        def __getattr__(self, name: str) -> Any:
            fields = vars(self).pop("_fields", None)
            if fields is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            super().__init__()
            for raw_name, values in fields.items():
                header = raw_name.decode("latin-1")
                self[header] = values[0].decode("latin-1")  # `add` takes three times as long
                for value in values[1:]:
                    self.add(header, value.decode("latin-1"))
            return getattr(self, name)


class HeaderCollector:
    """The protocol that httptools calls with each header."""

    __slots__ = ("fields",)

    def __init__(self) -> None:
        self.fields: dict[bytes, list[bytes]] = {}  # values by the name in lower case

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.setdefault(name.lower(), []).append(value.rstrip(b" \t"))


class Head:
    """The request line and the headers of a request, and what they mean for the connection."""

    __slots__ = ("line", "headers", "host", "is_http_1_0", "keep_alive", "expects_continue", "body_size")

    def __init__(self, line: RequestStartLine, fields: dict[bytes, list[bytes]]) -> None:
        self.line = line
        self.headers = LazyHeaders(fields)
        self.host = _join(fields[b"host"]) if b"host" in fields else None
        self.is_http_1_0 = line.version != "HTTP/1.1"
        self.keep_alive = not self.is_http_1_0
        if b"connection" in fields:
            options = [option.strip() for option in _join(fields[b"connection"]).lower().split(",")]
            self.keep_alive = "close" not in options and (not self.is_http_1_0 or "keep-alive" in options)
        self.expects_continue = False  # whether the client waits for "100 Continue"
        if b"expect" in fields and not self.is_http_1_0:
            self.expects_continue = _join(fields[b"expect"]).lower() == "100-continue"
        self.body_size = 0  # bytes, or CHUNKED
        if b"transfer-encoding" in fields:
            # A proxy may read HTTP/1.0 with chunks as a request without a body, and the body as another
            # request.
            if _join(fields[b"transfer-encoding"]).lower() != "chunked" or self.is_http_1_0:
                raise BadRequest
            self.body_size = CHUNKED
        elif b"content-length" in fields:
            self.body_size = int(fields[b"content-length"][0].lstrip(b"0") or b"0")
        if self.body_size and line.method == "CONNECT":
            raise BadRequest


def _join(values: list[bytes]) -> str:
    return b",".join(values).decode("latin-1")


def parse_head(data: bytes) -> Head:
    """Parse the head of a request. `data` ends with the empty line. Raises BadRequest."""
    match = REQUEST_LINE.match(data)
    if match is None:
        raise BadRequest
    method, target, version = match[1].decode(), match[2].decode("latin-1"), match[3].decode()
    lines = data[match.end() :]
    try:
        fields = _parse_fields(lines)
    except httptools.HttpParserError:
        try:
            fields = _parse_fields(_write_length_once(lines))
        except httptools.HttpParserError as error:
            raise BadRequest from error
    if target[0] != "/" and b"host" in fields:
        target, host = split_target(target)
        if host is not None:
            fields[b"host"] = [host.encode("latin-1")]
    return Head(RequestStartLine(method, target, version), fields)


def _parse_fields(lines: bytes) -> dict[bytes, list[bytes]]:
    collector = HeaderCollector()
    try:
        httptools.HttpRequestParser(collector).feed_data(b"POST / HTTP/1.1\r\n" + lines)
    except httptools.HttpParserUpgrade:  # the handler decides whether to accept it
        return collector.fields
    return collector.fields


def _write_length_once(lines: bytes) -> bytes:
    """
    Replace a repeated or very large Content-Length by one that httptools accepts. Few clients send such
    headers, so this runs only after httptools has rejected them.
    """
    lengths = [part.strip() for match in LENGTH.finditer(lines) for part in match[1].split(b",")]
    if len(set(lengths)) != 1:
        return lines
    length = lengths[0] if len(lengths[0].lstrip(b"0")) < 18 else b"%d" % LARGEST_SIZE
    return b"Content-Length: %b\r\n%b" % (length, LENGTH.sub(b"", lines))


def split_target(target: str) -> tuple[str, str | None]:
    """Return the path and the host of `http://host/path`. All other targets have no host."""
    match = ABSOLUTE.fullmatch(target)
    if match is None:
        return target, None
    return match[2] if match[2].startswith("/") else f"/{match[2]}", match[1]


def take_absolute_target(line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Replace the target `http://host/path` by `/path`, and the header Host by `host`."""
    if line.path.startswith("/") or "Host" not in headers:
        return line
    path, host = split_target(line.path)
    headers["Host"] = host or headers["Host"]
    return RequestStartLine(line.method, path, line.version)


def is_malformed(data: bytearray) -> bool:
    """Whether `data` can't be the beginning of a valid request."""
    return (
        len(data) > LARGEST_HEAD
        or (REQUEST_LINE.match(data) or PARTIAL_REQUEST_LINE.fullmatch(data)) is None
        or data.count(b"\n") != data.count(b"\r\n")
    )
