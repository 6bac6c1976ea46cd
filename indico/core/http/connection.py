"""
A client's connection.
"""

from __future__ import annotations

import asyncio
import select
from typing import cast

from tornado.iostream import IOStream

from indico.core.http.detached import DetachedStream
from indico.core.http.requests import BODY, DETACHED, ENDED, RequestReader

READ_AHEAD = 64 * 1024  # bytes that are read while a request is at work; what is more waits in the kernel
LEFT = getattr(select, "POLLRDHUP", 0)  # Linux alone; elsewhere POLLHUP tells


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
        if self._state >= ENDED:
            return
        self._buffer = self._buffer[self._start :] + data if self._buffer else data
        self._start = 0
        if self._state <= BODY:
            self._advance()
            return
        if len(self._buffer) > READ_AHEAD and not self._paused:
            self._paused = True
            self._server.limits.paused.add(self)
            self._transport.pause_reading()
        self._count_unread()

    def eof_received(self) -> None:
        self._lose()

    def connection_lost(self, error: Exception | None) -> None:
        if self._state != DETACHED:
            self._server.limits.remove(self)
            self._lose()

    # What handlers and limits ask

    def has_left(self) -> bool:
        if self.is_closed():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), LEFT | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    def detach(self) -> IOStream:
        """Give the socket to a handler, which speaks another protocol on it."""
        if self.unsent_bytes():
            raise RuntimeError("A connection can be detached when what is written has been sent")
        limits = self._server.limits
        stream = DetachedStream(self._transport.get_extra_info("socket"), self._buffer[self._start :], limits)
        limits.replace(self, stream)
        held, self._held = self._held, b""
        self._delegate, self._on_left = None, None
        self._lose()
        self._state = DETACHED
        self._transport.abort()
        if held:
            stream.write(held)
        return stream
