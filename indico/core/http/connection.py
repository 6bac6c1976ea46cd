"""
A client's connection.
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
    A client's connection. It reads a request only when the one before has its response, and not further ahead
    than READ_AHEAD. To Tornado it is the HTTPConnection of each of its requests.
    """

    __slots__ = ()

    # What the transport says

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

    def eof_received(self) -> None:
        self._lose()

    def connection_lost(self, error: Exception | None) -> None:
        if self._state != DETACHED:
            self._server.limits.remove(self)
            self._lose()

    # What handlers and limits ask

    def set_max_body_size(self, size: int) -> None:
        """The largest body of this request in bytes: for `prepare`, as with Tornado's own server."""
        self._max_body = size

    def set_body_timeout(self, seconds: float) -> None:
        """How long this request's body may take, from now on."""
        self.deadline = time.monotonic() + seconds

    def detach(self) -> IOStream:
        """Give the socket to a handler, which speaks another protocol on it."""
        if self.unsent_bytes():
            raise RuntimeError("A connection can be detached when what is written has been sent")
        limits = self._server.limits
        try:
            stream = DetachedStream(self._transport.get_extra_info("socket"), self._take_all(), limits)
        except OSError:  # out of files
            self.close()
            raise
        limits.replace(self, stream)
        held, self._held = self._held, b""
        self._delegate, self._on_left = None, None
        self._lose()
        self._state = DETACHED
        self._transport.abort()
        if held:
            stream.write(held)
        return stream
