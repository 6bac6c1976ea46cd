"""
Limits on connections: their number, their time and their memory.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from socket import socket
from typing import Protocol, cast

from tornado.httputil import HTTPServerRequest
from tornado.ioloop import PeriodicCallback

from indico import config
from indico.core.http.proxies import is_trusted
from indico.core.http.sockets import raise_file_limit

RESERVED_FILES = 100  # for MongoDB, the log and everything else that is not a client
SWEEP_INTERVAL_MS = 1000  # between checks for connections that are too slow
DISCONNECT_INTERVAL_MS = 500  # between checks for disconnects on paused connections
LAST_REQUEST_SECONDS = 1  # for requests that arrive while the server stops


class Limited(Protocol):
    """The interface of a connection that ConnectionLimits uses."""

    deadline: float  # by time.monotonic; math.inf while nothing is expected from the client

    def unread_bytes(self) -> int:
        """Return the size of the received data that has not been processed yet."""

    def unsent_bytes(self) -> int:
        """Return the size of the responses that are not sent yet."""

    def close(self) -> None:
        """Close the connection now."""


class Connection(Limited, Protocol):
    """The interface of an HTTP connection, for handlers and for ConnectionLimits."""

    def is_closed(self) -> bool:
        """Whether the connection is closed."""

    def close_writing(self) -> None:
        """Send the unsent data, then end the sending side. The connection can still be read from."""

    def has_left(self) -> bool:
        """Whether the client has disconnected. Works while reading is paused."""


class HTTPServer(Protocol):
    """The interface of an HTTP server, for the start and the end of the process."""

    def add_sockets(self, sockets: Iterable[socket]) -> None:
        """Accept connections on these sockets."""

    def stop(self) -> None:
        """Stop listening. Existing connections are still served."""

    async def wait_until_idle(self) -> None:
        """After `stop`, wait LAST_REQUEST_SECONDS at most for the connections to end."""

    async def close_all_connections(self) -> None:
        """Send the unsent data, then close all connections."""


class UnknownConnection:
    """Replaces a connection of an HTTP server that does not implement `Connection`."""

    deadline = math.inf

    def is_closed(self) -> bool:
        return False

    def close_writing(self) -> None:
        """Does nothing: only the server can do it."""

    def close(self) -> None:
        """Does nothing: the server closes after a response with the header `Connection: close`."""


UNKNOWN = UnknownConnection()


def get_connection(request: HTTPServerRequest) -> Connection:
    """Return the connection of a request, on any HTTP server."""
    known = hasattr(request.connection, "close_writing")
    return cast(Connection, request.connection if known else UNKNOWN)


def count_connections(files: int) -> int:
    """Return the number of connections that this limit of open files allows."""
    return max(files - RESERVED_FILES, files // 2)


class ConnectionLimits:
    """
    The connections of a process, and their limits.

    Connections beyond MAX_CONNECTIONS are rejected, and so are those beyond MAX_CONNECTIONS_PER_ADDRESS that
    don't come from a trusted proxy. A connection is closed if the first headers take longer than
    HEADER_TIMEOUT, a body longer than BODY_TIMEOUT, sending a response longer than WRITE_TIMEOUT, or if it is
    idle for IDLE_TIMEOUT. While unprocessed requests exceed MAX_UNREAD bytes in total, or unsent responses
    MAX_UNSENT, the connection with the most of them is closed.
    """

    def __init__(self) -> None:
        self._max = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._max_per_address = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._max // 2)
        self._counts: Counter[str] = Counter()  # connections by address
        self._addresses: dict[Limited, str] = {}
        self._writing: dict[Limited, float] = {}  # when the unsent data was first seen
        self._unread = 0  # bytes, of all connections
        self.paused: set[Connection] = set()  # connections whose reading is paused
        self._timers = [
            PeriodicCallback(self._sweep, SWEEP_INTERVAL_MS),
            PeriodicCallback(self._close_disconnected, DISCONNECT_INTERVAL_MS),
        ]
        for timer in self._timers:
            timer.start()

    def admit(self, connection: Limited, address: str) -> bool:
        """Count this connection until `remove`. Return False if a limit is reached."""
        if len(self._addresses) >= self._max:
            return False
        if self._counts[address] >= self._max_per_address and not is_trusted(address):
            return False
        self._addresses[connection] = address
        self._counts[address] += 1
        return True

    def remove(self, connection: Limited) -> None:
        """Stop counting this connection: it has ended."""
        address = self._addresses.pop(connection, None)
        self._writing.pop(connection, None)
        self.paused.discard(connection)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def replace(self, connection: Limited, other: Limited) -> None:
        """Count `other` in place of `connection`."""
        address = self._addresses.pop(connection)
        self.remove(connection)
        self._addresses[other] = address

    def restart_write_timeout(self, connection: Limited) -> None:
        """The client has taken data of a response that is still being written."""
        self._writing.pop(connection, None)

    def count_unread(self, size: int) -> None:
        """Add received bytes to the total. `size` is negative for bytes that have been processed."""
        self._unread += size
        if self._unread > config.MAX_UNREAD:
            # Go a little below the limit: the search is slow if there are many connections.
            self._close_largest(lambda connection: connection.unread_bytes(), config.MAX_UNREAD * 0.9)

    def stop(self) -> None:
        for timer in self._timers:
            timer.stop()

    async def wait_until_idle(self) -> None:
        """Wait for the connections to end. Each one ends with its next response."""
        deadline = time.monotonic() + LAST_REQUEST_SECONDS
        while self._addresses and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def list_connections(self) -> list[Limited]:
        return list(self._addresses)

    def _sweep(self) -> None:
        now = time.monotonic()
        since = self._writing
        self._writing = {}
        late, unsent = [], 0
        for connection in self._addresses:
            if size := connection.unsent_bytes():
                unsent += size
                self._writing[connection] = began = since.get(connection, now)
                if now - began > config.WRITE_TIMEOUT:
                    late.append(connection)
            if connection.deadline < now:
                late.append(connection)
        for connection in late:
            connection.close()
        if unsent > config.MAX_UNSENT:
            self._close_largest(lambda connection: connection.unsent_bytes(), config.MAX_UNSENT)

    def _close_largest(self, measure: Callable[[Limited], int], limit: float) -> None:
        sizes = {connection: measure(connection) for connection in self._addresses}
        excess = sum(sizes.values()) - limit
        for connection in sorted(sizes, key=sizes.__getitem__, reverse=True):
            if excess > 0:
                excess -= sizes[connection]
                connection.close()

    def _close_disconnected(self) -> None:
        for connection in list(self.paused):
            if connection.has_left():
                connection.close()
