"""
The writing half of a connection. It implements HTTPConnection of Tornado.
"""

from __future__ import annotations

import asyncio
import math
from asyncio import Future
from collections.abc import Callable
from typing import TYPE_CHECKING

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from indico.core.http.sockets import limit_unsent

if TYPE_CHECKING:
    from indico.core.http.server import Server

LARGE = 64 * 1024  # bytes; a larger body is not copied to join it with the headers


class ResponseWriter(HTTPConnection):
    """Writes the responses of a connection, one at a time."""

    __slots__ = (
        "deadline",
        "remote_ip",
        "_begun",
        "_chunked",
        "_drained",
        "_finished",
        "_is_head",
        "_is_http_1_0",
        "_keep_alive",
        "_on_disconnect",
        "_remaining",
        "_server",
        "_transport",
        "_upgrade_response",
        "_write_closed",
        "_write_paused",
    )

    protocol = "http"
    _transport: asyncio.Transport

    def __init__(self, server: Server, remote_ip: str) -> None:
        self.deadline = math.inf
        self.remote_ip = remote_ip
        self._server = server
        self._drained: Future[None] | None = None  # done when most of the unsent data has been sent
        self._write_paused = False
        self._write_closed = False
        self._on_disconnect: Callable[[], object] | None = None
        self._upgrade_response = b""  # status and headers of a 101; the detached stream sends them
        self._start_response(False, False, True)

    def _start_response(self, is_head: bool, is_http_1_0: bool, keep_alive: bool) -> None:
        self._is_head = is_head
        self._is_http_1_0 = is_http_1_0
        self._keep_alive = keep_alive
        self._begun = False
        self._finished = False
        self._chunked = False
        self._remaining: int | None = None  # bytes of the Content-Length that are not written yet

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
        has_body = not (self._is_head or code in (204, 304) or code < 200)
        length = None
        lines = [f"HTTP/1.1 {code} {start_line.reason}"]
        for name, value in headers.get_all():
            if name == "Connection" and value.lower() in ("close", "keep-alive"):
                self._keep_alive = self._keep_alive and value.lower() == "keep-alive"
                continue
            if name == "Content-Length":
                length = int(value)
            lines.append(f"{name}: {value}")
        if self._server.stopping:
            self._keep_alive = False
        self._remaining = length if has_body else 0
        if has_body and length is None:
            self._transport.set_write_buffer_limits(0)  # `flush` then waits until the client takes the data
            limit_unsent(self._transport.get_extra_info("socket"))
            if self._is_http_1_0:
                self._keep_alive = False
            else:
                lines.append("Transfer-Encoding: chunked")
        if not self._keep_alive and code != 101:
            lines.append("Connection: close")
        elif self._is_http_1_0:
            lines.append("Connection: keep-alive")
        text = "\r\n".join(lines)
        if text.count("\n") >= len(lines) or text.count("\r") >= len(lines):
            raise ValueError("A header of the response holds a line break")
        self._begun = True
        self._chunked = has_body and length is None and not self._is_http_1_0
        head = (text + "\r\n\r\n").encode("latin-1")
        if code == 101:
            self._upgrade_response = head
            return self._server.done
        return self._send(head, self._frame(chunk) if chunk else b"")

    def write_response(self, head: bytes, body: bytes) -> None:
        """Write a whole response. `head` has all headers but Content-Length and Connection."""
        if not self._keep_alive or self._server.stopping:
            self._keep_alive = False
            head += b"Connection: close\r\n"
        elif self._is_http_1_0:
            head += b"Connection: keep-alive\r\n"
        self._begun = True
        self._remaining = 0
        self._send(b"%bContent-Length: %d\r\n\r\n" % (head, len(body)), body)
        self.finish()

    def write(self, chunk: bytes) -> Future[None]:
        return self._send(self._frame(chunk)) if chunk else self._send(b"")

    def _frame(self, chunk: bytes) -> bytes:
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(chunk), chunk)
        if self._remaining is not None:
            self._remaining -= len(chunk)
            if self._remaining < 0:
                self._transport.abort()
                raise HTTPOutputError("Tried to write more data than Content-Length")
        return chunk

    def finish(self) -> None:
        if self._remaining and not self._transport.is_closing():
            self._transport.abort()
            raise HTTPOutputError(f"Tried to write {self._remaining} bytes less than Content-Length")
        if self._chunked:
            self._send(b"0\r\n\r\n")
        self._finished = True
        self._on_disconnect = None
        if not self._upgrade_response:  # after an upgrade the handler detaches the connection
            self._end_response()

    def _end_response(self) -> None:
        """Called when the response is finished."""

    def _send(self, data: bytes, more: bytes = b"") -> Future[None]:
        if self._transport.is_closing():
            return self._fail()
        if not self._write_closed:
            if len(more) > LARGE:
                self._transport.writelines([data, more])
            elif data:
                self._transport.write(data + more if more else data)
        if not self._write_paused:
            return self._server.done
        if self._drained is None or self._drained.done():
            self._drained = asyncio.get_running_loop().create_future()
        return self._drained

    def _fail(self) -> Future[None]:
        failed: Future[None] = asyncio.get_running_loop().create_future()
        failed.set_exception(StreamClosedError())
        failed.exception()  # asyncio logs exceptions that are never retrieved
        return failed

    # Callbacks of the transport

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        self._resolve_drained(None)

    def _resolve_drained(self, error: Exception | None) -> None:
        """Resolve the future that callers await until data has been sent."""
        drained, self._drained = self._drained, None
        if drained is None or drained.done():
            return
        if error is None:
            drained.set_result(None)
        else:
            drained.set_exception(error)
            drained.exception()  # asyncio logs exceptions that are never retrieved
