"""
The input buffer of a connection.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from indico.core.http.responses import ResponseWriter

if TYPE_CHECKING:
    from indico.core.http.server import Server

LINGER_SECONDS = 2  # for the rest of a body after a response that closes the connection
READ_AHEAD = 64 * 1024  # bytes to buffer while a request is in flight; more data stays in the kernel
HANGUP = getattr(select, "POLLRDHUP", 0)  # only Linux has POLLRDHUP; other systems set POLLHUP


class BufferedReader(ResponseWriter):
    """Buffers received data until it is parsed. Pauses reading above READ_AHEAD bytes."""

    __slots__ = ("_body_bytes", "_buffer", "_paused", "_start", "_unread")

    def __init__(self, server: Server, remote_ip: str) -> None:
        super().__init__(server, remote_ip)
        self._buffer = b""
        self._start = 0  # index of the first byte in the buffer that is not parsed
        self._paused = False
        self._body_bytes = 0  # received bytes of the current request's body
        self._unread = 0  # bytes that `limits` has counted

    def _take(self, end: int) -> bytes:
        """Remove the unparsed bytes up to the index `end` from the buffer, and return them."""
        buffer, start = self._buffer, self._start
        if end < len(buffer):
            self._start = end
            return buffer[start:end]
        self._buffer, self._start = b"", 0
        return buffer[start:] if start else buffer

    def _take_all(self) -> bytes:
        return self._take(len(self._buffer))

    def _drop_input(self) -> None:
        self._buffer, self._start = b"", 0

    def _pause_reading(self) -> None:
        if len(self._buffer) > READ_AHEAD and not self._paused:
            self._paused = True
            self._server.limits.paused.add(self)
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._paused and len(self._buffer) - self._start <= READ_AHEAD and not self.is_closed():
            self._paused = False
            self._server.limits.paused.discard(self)
            self._transport.resume_reading()

    def _count_unread(self) -> None:
        unread = self.unread_bytes()
        if unread != self._unread:
            change, self._unread = unread - self._unread, unread
            self._server.limits.count_unread(change)

    def unread_bytes(self) -> int:
        return self._body_bytes + len(self._buffer) - self._start

    def has_left(self) -> bool:
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), HANGUP | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    # The interface `Connection`, for handlers and limits

    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def close_writing(self) -> None:
        if not self._write_closed and not self._transport.is_closing():
            self._write_closed = True
            with suppress(OSError):  # the client has disconnected
                self._transport.write_eof()

    def close(self) -> None:
        self._transport.abort()

    def _linger(self) -> None:
        """
        End sending now, and close within LINGER_SECONDS. An immediate close would reset the connection before
        the client could read the response.
        """
        self.close_writing()
        self.deadline = min(self.deadline, time.monotonic() + LINGER_SECONDS)
