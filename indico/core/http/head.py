"""
What a request says before its body: its line and its headers.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import lru_cache

import httptools
from tornado.httputil import HTTPHeaders, RequestStartLine

LARGEST_HEAD = 64 * 1024  # bytes
CHUNKED = -1  # in place of a body's size
LARGEST_SIZE = 10**18  # bytes; no body is larger, whatever the headers say

# The line is read here, because httptools knows only some methods and targets.
TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
REQUEST_LINE = re.compile(rb"(%b) ([^\x00-\x20\x7f]+) (HTTP/1\.[0-9])\r\n" % TOKEN)
BEGINNING = re.compile(rb"\r?|%b( [^\x00-\x20\x7f]*( [HTP/1.0-9]{0,8}\r?)?)?" % TOKEN)
ABSOLUTE = re.compile(r"https?://([^/?#@]+)(.*)", re.IGNORECASE)
LENGTH = re.compile(rb"(?im)^content-length:[ \t]*([0-9]+(?:[ \t]*,[ \t]*[0-9]+)*)[ \t]*\r\n")


class BadRequest(Exception):
    """What has come in is not HTTP."""


class Head:
    """The line and the headers of a request, and what they say of its body and of the connection."""

    __slots__ = ("line", "headers", "body_size", "keep_alive")

    def __init__(self, line: RequestStartLine, fields: bytes) -> None:
        self.line = line
        self.headers = HTTPHeaders()
        self.body_size = 0  # or CHUNKED
        self.keep_alive = False
        # An upgrade is the handler's affair; for the parser it is the end of HTTP.
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
    """The head of a request, up to and with the empty line. Raises BadRequest."""
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
    if line.path[0] != "/":
        _take_absolute_target(head)
    _find_body(head)
    head.keep_alive = _is_kept_alive(head)
    return head


def _write_length_once(fields: bytes) -> bytes:
    """
    What the parser does not take, though nothing is wrong with it: a length that is repeated or very large.
    Few clients send that, so it is tried last.
    """
    lengths = [part.strip() for match in LENGTH.finditer(fields) for part in match[1].split(b",")]
    if len(set(lengths)) != 1:
        return fields
    length = lengths[0] if len(lengths[0].lstrip(b"0")) < 18 else b"%d" % LARGEST_SIZE
    return b"Content-Length: %b\r\n%b" % (length, LENGTH.sub(b"", fields))


def _take_absolute_target(head: Head) -> None:
    """Make `/path` of `http://host/path`, and the header Host of its host."""
    match = ABSOLUTE.fullmatch(head.line.path)
    if match is not None and "Host" in head.headers:
        head.headers["Host"] = match[1]
        path = match[2] if match[2].startswith("/") else f"/{match[2]}"
        head.line = RequestStartLine(head.line.method, path, head.line.version)


def _is_kept_alive(head: Head) -> bool:
    is_old = head.line.version != "HTTP/1.1"
    if "Connection" not in head.headers:
        return not is_old
    options = [option.strip() for option in head.headers["Connection"].lower().split(",")]
    return "close" not in options and (not is_old or "keep-alive" in options)


def _find_body(head: Head) -> None:
    headers = head.headers
    if "Transfer-Encoding" in headers:
        # A proxy may take HTTP/1.0 with chunks for a request without a body, and its body for another.
        if headers["Transfer-Encoding"].lower() != "chunked" or head.line.version != "HTTP/1.1":
            raise BadRequest
        head.body_size = CHUNKED
    elif "Content-Length" in headers:
        head.body_size = int(headers["Content-Length"].lstrip("0") or "0")
    if head.body_size and head.line.method == "CONNECT":
        raise BadRequest


def is_hopeless(data: bytes) -> bool:
    """Whether no continuation can make a request of this beginning."""
    return (
        len(data) > LARGEST_HEAD
        or (REQUEST_LINE.match(data) or BEGINNING.fullmatch(data)) is None
        or data.count(b"\n") != data.count(b"\r\n")
    )
