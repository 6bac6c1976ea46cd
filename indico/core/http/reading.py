"""
What has come in on a connection and is not read yet.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING

from indico.core.http.responses import ResponseWriter

if TYPE_CHECKING:
    from indico.core.http.server import Server

LINGER = 2  # seconds for the rest of a body after a response that closes the connection
READ_AHEAD = 64 * 1024  # bytes that are read while a request is at work; what is more waits in the kernel
LEFT = getattr(select, "POLLRDHUP", 0)  # Linux alone; elsewhere POLLHUP tells


class BufferedReader(ResponseWriter):
    """Keeps what has come in until it is its turn, and does not take more than READ_AHEAD ahead of it."""

    __slots__ = ("_body_bytes", "_buffer", "_paused", "_start", "_unread")

    def __init__(self, server: Server, remote_ip: str) -> None:
        super().__init__(server, remote_ip)
        self._buffer = b""
        self._start = 0  # where in the buffer it is that nothing has been read yet
        self._paused = False
        self._body_bytes = 0  # of the request at work, that have come in
        self._unread = 0  # what limits know of

    def _take(self, end: int) -> bytes:
        """What has come in up to there, and has not been read."""
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
        poll.register(self._transport.get_extra_info("socket"), LEFT | select.POLLHUP | select.POLLERR)
        return bool(poll.poll(0))

    # The connection, for limits and handlers

    def is_closed(self) -> bool:
        return self._transport.is_closing()

    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def close_writing(self) -> None:
        if not self._write_closed and not self._transport.is_closing():
            self._write_closed = True
            self._transport.write_eof()

    def close(self) -> None:
        self._transport.abort()

    def _linger(self) -> None:
        """
        Close, but read for a while what the client still sends: closing at once would reset the connection
        before the client could read the response.
        """
        self.close_writing()
        self.deadline = min(self.deadline, time.monotonic() + LINGER)
