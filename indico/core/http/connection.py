"""
The connection of a client to the HTTP server.
"""

from __future__ import annotations

import asyncio
import time
from typing import cast

from tornado.iostream import IOStream

from indico.core.http.detached import DetachedStream
from indico.core.http.requests import BODY, DETACHED, RequestReader


class ServerConnection(RequestReader, asyncio.Protocol):
    """
    The connection of a client. It parses a request only after the previous one has its response. Meanwhile it
    buffers about READ_AHEAD bytes at most. Tornado uses it as the HTTPConnection of each request.
    """

    __slots__ = ()

    # Callbacks of the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if not self._server.limits.admit(self, self.remote_ip):
            self.close()

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer[self._start :] + data if self._buffer else data
        self._start = 0
        if self._state <= BODY:
            self._advance()
            return
        self._pause_reading()
        self._count_unread()

    def resume_writing(self) -> None:
        self._server.limits.restart_write_timeout(self)
        super().resume_writing()

    def eof_received(self) -> None:
        self._drop_request()

    def connection_lost(self, error: Exception | None) -> None:
        if self._state != DETACHED:
            self._server.limits.remove(self)
            self._drop_request()

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
            stream = DetachedStream(self._transport.get_extra_info("socket"), self._take_all(), limits)
        except OSError:  # out of files
            self.close()
            raise
        limits.replace(self, stream)
        upgrade_response, self._upgrade_response = self._upgrade_response, b""
        self._delegate, self._on_disconnect = None, None
        self._drop_request()
        self._state = DETACHED
        self._transport.abort()
        if upgrade_response:
            stream.write(upgrade_response)
        return stream
