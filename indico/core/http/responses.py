"""
The writing half of a connection. It implements HTTPConnection of Tornado.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import Future
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from indico.core.http.head import Head
from indico.core.http.sockets import limit_unsent

if TYPE_CHECKING:
    from indico.core.http.server import Server

LARGE = 64 * 1024  # bytes; a larger body is not copied to join it with the headers


def fail_future(future: Future[None]) -> None:
    if not future.done():
        future.set_exception(StreamClosedError())
        future.exception()  # asyncio logs exceptions that are never retrieved


class ResponseWriter(HTTPConnection):
    """Writes the responses of a connection, one at a time."""

    __slots__ = (
        "head",
        "remote_ip",
        "_begun",
        "_drained",
        "_finished",
        "_keep_alive",
        "_on_disconnect",
        "_remaining",
        "_server",
        "_transport",
        "_upgrade_response",
        "_write_closed",
    )

    protocol = "http"
    head: Head  # of the request
    _transport: asyncio.Transport

    def __init__(self, server: Server, remote_ip: str) -> None:
        self.remote_ip = remote_ip
        self._server = server
        self._drained = server.done  # done when most of the unsent data has been sent
        self._write_closed = False
        self._on_disconnect: Callable[[], object] | None = None
        self._upgrade_response = b""  # status and headers of a 101; the detached stream sends them

    def _start_response(self, head: Head) -> None:
        self.head = head
        self._keep_alive = head.keep_alive
        self._begun = False
        self._finished = False
        # Bytes of the Content-Length that are not written yet, None for a body in chunks, and infinity for a
        # body that ends with the connection.
        self._remaining: float | None = 0

    @property
    def context(self) -> ResponseWriter:
        """Tornado reads `remote_ip` and `protocol` from this object."""
        return self

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        """Set a function to call if the client disconnects while its request is in flight."""
        self._on_disconnect = callback

    # The interface HTTPConnection

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        assert isinstance(start_line, ResponseStartLine)
        code = start_line.code
        lines = [f"HTTP/1.1 {code} {start_line.reason}"]
        for name, value in headers.get_all():
            if name == "Connection" and value.lower() in ("close", "keep-alive"):
                self._keep_alive = self._keep_alive and value.lower() == "keep-alive"
            else:
                lines.append(f"{name}: {value}")
        if self.head.line.method == "HEAD" or code in (204, 304) or code < 200:  # without a body
            remaining: float | None = 0
        elif "Content-Length" in headers:
            remaining = int(headers["Content-Length"])
        elif self.head.is_http_1_0:
            remaining = math.inf
            self._keep_alive = False
        else:
            remaining = None
            lines.append("Transfer-Encoding: chunked")
        if remaining in (None, math.inf):
            self._transport.set_write_buffer_limits(0)  # `flush` then waits until the client takes the data
            limit_unsent(self._transport.get_extra_info("socket"))
        if code != 101:
            lines += self._get_connection_header()
        text = "\r\n".join(lines)
        if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
            raise ValueError("A header of the response holds a line break")
        self._begun = True
        self._remaining = remaining
        encoded = (text + "\r\n\r\n").encode("latin-1")
        if code == 101:
            self._upgrade_response = encoded
            return self._server.done
        return self._send(encoded, self._frame(chunk) if chunk else b"")

    def _get_connection_header(self) -> list[str]:
        if not self._keep_alive or self._server.stopping:
            self._keep_alive = False
            return ["Connection: close"]
        return ["Connection: keep-alive"] if self.head.is_http_1_0 else []

    def write_response(self, head: bytes, body: bytes) -> None:
        """Write a whole response. `head` has all headers but Content-Length and Connection."""
        for line in self._get_connection_header():
            head += line.encode() + b"\r\n"
        self._begun = True
        self._send(b"%bContent-Length: %d\r\n\r\n" % (head, len(body)), body)
        self._finished = True
        self._on_disconnect = None
        self._end_response()

    def write(self, chunk: bytes) -> Future[None]:
        return self._send(self._frame(chunk) if chunk else b"")

    def _frame(self, chunk: bytes) -> bytes:
        if self._remaining is None:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        self._remaining -= len(chunk)
        if self._remaining < 0:
            self._transport.abort()
            raise HTTPOutputError("Tried to write more data than Content-Length")
        return chunk

    def finish(self) -> None:
        if self._remaining is None:
            self._send(b"0\r\n\r\n")
        elif 0 < self._remaining < math.inf and not self._transport.is_closing():
            self._transport.abort()
            raise HTTPOutputError(f"Tried to write {self._remaining} bytes less than Content-Length")
        self._finished = True
        self._on_disconnect = None
        if not self._upgrade_response:  # after an upgrade the handler detaches the connection
            self._end_response()

    def _end_response(self) -> None:
        """Called when the response is finished."""

    def _send(self, data: bytes, more: bytes = b"") -> Future[None]:
        if self._transport.is_closing():
            failed: Future[None] = self._server.loop.create_future()
            fail_future(failed)
            return failed
        if not self._write_closed:
            if len(more) > LARGE:
                self._transport.writelines([data, more])
            else:
                self._transport.write(data + more)
        return self._drained

    def close_writing(self) -> None:
        """Send the unsent data, then end the sending side."""
        if not self._write_closed and not self._transport.is_closing():
            self._write_closed = True
            with suppress(OSError):  # the client has disconnected
                self._transport.write_eof()

    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        """Close the connection now."""
        self._transport.abort()

    # Callbacks of the transport

    def pause_writing(self) -> None:
        self._drained = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        if not self._drained.done():
            self._drained.set_result(None)
        self._drained = self._server.done  # not the future that a caller may have cancelled
