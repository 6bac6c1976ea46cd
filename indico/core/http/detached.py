"""
The stream of a connection that a handler has detached, for example for a WebSocket.
"""

from __future__ import annotations

import math
import os
import socket
from asyncio import Future
from typing import TYPE_CHECKING

from tornado.iostream import IOStream

if TYPE_CHECKING:
    from indico.core.http.limits import ConnectionLimits


class DetachedStream(IOStream):
    """
    A stream of Tornado's on the socket of a detached connection. It still counts as a connection. Reads first
    return the data that the server had already received. The only timeout is TCP keepalive: it takes hours.
    """

    deadline = math.inf

    def __init__(self, connected: socket.socket, data: bytes, limits: ConnectionLimits) -> None:
        """Duplicate the socket. `data` has been received on it and not been parsed."""
        self._data = memoryview(data)
        self._limits = limits
        self._unsent = 0  # bytes
        duplicate = socket.socket(fileno=os.dup(connected.fileno()))
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        super().__init__(duplicate)

    # Overrides of IOStream

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        if not self._data:
            return super().read_from_fd(buf)
        size = min(len(buf), len(self._data))
        buf[:size] = self._data[:size]
        self._data = self._data[size:]
        return size

    def write_to_fd(self, data: memoryview) -> int:
        size = super().write_to_fd(data)
        self._unsent -= size
        return size

    def write(self, data: bytes | memoryview) -> Future[None]:
        self._unsent += len(data)
        return super().write(data)

    def close_fd(self) -> None:
        self._limits.remove(self)
        super().close_fd()

    def unread_bytes(self) -> int:
        return len(self._data)

    def unsent_bytes(self) -> int:
        return self._unsent
