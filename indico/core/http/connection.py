"""
The connection of a client to the HTTP server.
"""

from __future__ import annotations

import asyncio
import select
import time
from typing import cast

from tornado.iostream import IOStream

from indico.core.http.detached import DetachedStream
from indico.core.http.requests import BODY, DETACHED, RequestReader

READ_AHEAD = 64 * 1024  # bytes to buffer while a request is in flight; more data stays in the kernel
HANGUP = getattr(select, "POLLRDHUP", 0)  # only Linux has POLLRDHUP; other systems set POLLHUP


class ServerConnection(RequestReader, asyncio.Protocol):
    """
    The connection of a client. It parses a request only after the previous one has its response. Meanwhile it
    buffers about READ_AHEAD bytes at most. It is the HTTPConnection of each request.
    """

    __slots__ = ()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.limits.admit(self, self.remote_ip):
            self.close()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._state <= BODY:
            self._advance()
        elif len(self._buffer) > READ_AHEAD and self not in self._server.limits.paused:
            self._server.limits.paused.add(self)
            self._transport.pause_reading()
        self._server.limits.count_received(len(data))

    def _advance(self) -> None:
        super()._advance()
        paused = self._server.limits.paused
        if self in paused and len(self._buffer) <= READ_AHEAD and not self.is_closed():
            paused.discard(self)
            self._transport.resume_reading()

    def resume_writing(self) -> None:
        self._server.limits.restart_write_timeout(self)
        super().resume_writing()

    def eof_received(self) -> None:
        self._drop_request()

    def connection_lost(self, error: Exception | None) -> None:
        if self._state != DETACHED:
            self._server.limits.remove(self)
            self._drop_request()

    # For ConnectionLimits

    def unread_bytes(self) -> int:
        return self._body_bytes + len(self._buffer)

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def has_left(self) -> bool:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), HANGUP | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    # For handlers

    def set_max_body_size(self, size: int) -> None:
        """Set the limit of this request's body in bytes. Call it in `prepare`, as with Tornado's server."""
        self._max_body = size

    def set_body_timeout(self, seconds: float) -> None:
        """Set the time that this request's body may still take."""
        self.deadline = time.monotonic() + seconds

    def detach(self) -> IOStream:
        """Return a stream on the socket, so that a handler can use another protocol on it."""
        if self.unsent_bytes():
            raise RuntimeError("A connection with unsent data can't be detached")
        limits = self._server.limits
        try:
            stream = DetachedStream(self._transport.get_extra_info("socket"), bytes(self._buffer), limits)
        except OSError:  # out of files
            self.close()
            raise
        limits.replace(self, stream)
        self._delegate, self._on_disconnect = None, None
        self._drop_request()
        self._state = DETACHED
        self._transport.abort()
        stream.write(self._upgrade_response)
        return stream
