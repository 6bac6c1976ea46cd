"""
Limits on connections: how many there may be, how long each may take, and how much memory they may hold.
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

RESERVED_FILES = 100  # for MongoDB, the log, and whatever else is no client
SWEEP_INTERVAL_MS = 1000  # between searches for connections that are too slow
LEFT_INTERVAL_MS = 500  # between searches for clients that have left behind unread data
LAST_REQUEST_SECONDS = 1  # for a request that was on its way when the server stopped


class Limited(Protocol):
    """What limits ask of a client's connection."""

    deadline: float  # by time.monotonic; math.inf while nothing is expected from the client

    def unread_bytes(self) -> int:
        """How much has come in and is not served yet."""

    def unsent_bytes(self) -> int:
        """How much of the responses the client has not read yet."""

    def close(self) -> None:
        """Close the connection now."""


class Connection(Limited, Protocol):
    """A connection that speaks HTTP: what handlers may ask of it, and limits beside."""

    def is_closed(self) -> bool:
        """Whether the connection is closed."""

    def close_writing(self) -> None:
        """Send what is written, then tell the client that no more comes. Go on reading."""

    def has_left(self) -> bool:
        """Whether the client has closed its end, of one that is not read from at the moment."""


class HTTPServer(Protocol):
    """What the start and the end of the process ask of an HTTP server."""

    def add_sockets(self, sockets: Iterable[socket]) -> None:
        """Accept connections on these."""

    def stop(self) -> None:
        """Stop listening. Clients that have connected already are still served."""

    async def wait_until_idle(self) -> None:
        """After `stop`, wait for connections to end, for LAST_REQUEST_SECONDS at most."""

    async def close_all_connections(self) -> None:
        """Close all connections, when what is written has been sent."""


class UnknownConnection:
    """The connection of a server that is not ours: nothing can be asked of it."""

    deadline = math.inf

    def is_closed(self) -> bool:
        return False

    def close_writing(self) -> None:
        """Only the server can do that."""

    def close(self) -> None:
        """The header `Connection: close` of the response does it, once the response is finished."""


UNKNOWN = UnknownConnection()


def get_connection(request: HTTPServerRequest) -> Connection:
    """The connection of a request, on whichever server."""
    known = hasattr(request.connection, "close_writing")
    return cast(Connection, request.connection if known else UNKNOWN)


def count_connections(files: int) -> int:
    """How many connections that many files allow."""
    return max(files - RESERVED_FILES, files // 2)


class ConnectionLimits:
    """
    All connections of a process, and the limits on what clients keep open.

    A connection beyond MAX_CONNECTIONS or, unless it comes from a trusted proxy, MAX_CONNECTIONS_PER_ADDRESS
    is rejected. A connection is closed if it has not sent its first headers within HEADER_TIMEOUT, sends
    nothing for IDLE_TIMEOUT, has not sent a body within BODY_TIMEOUT, or has not read a response within
    WRITE_TIMEOUT. While all requests that are not served yet take more than MAX_UNREAD bytes, or all
    responses that are not read yet more than MAX_UNSENT, the connection that holds most is closed.
    """

    def __init__(self) -> None:
        self._max = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._max_per_address = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._max // 2)
        self._counts: Counter[str] = Counter()  # connections by address
        self._addresses: dict[Limited, str] = {}
        self._writing: dict[Limited, float] = {}  # those with unsent data, and since when
        self._unread = 0  # bytes of all connections
        self.paused: set[Connection] = set()  # those that are not read from at the moment
        self._timers = [
            PeriodicCallback(self._sweep, SWEEP_INTERVAL_MS),
            PeriodicCallback(self._close_left, LEFT_INTERVAL_MS),
        ]
        for timer in self._timers:
            timer.start()

    def admit(self, connection: Limited, address: str) -> bool:
        """Whether there is room for another connection from this address. If so it counts until `remove`."""
        if len(self._addresses) >= self._max:
            return False
        if self._counts[address] >= self._max_per_address and not is_trusted(address):
            return False
        self._addresses[connection] = address
        self._counts[address] += 1
        return True

    def remove(self, connection: Limited) -> None:
        """The connection has ended."""
        address = self._addresses.pop(connection, None)
        self._writing.pop(connection, None)
        self.paused.discard(connection)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def replace(self, connection: Limited, other: Limited) -> None:
        """Count the other one in place of this one."""
        address = self._addresses.pop(connection)
        self.remove(connection)
        self._addresses[other] = address

    def count_unread(self, size: int) -> None:
        """So many bytes more have come in, or so many less if they are served."""
        self._unread += size
        if self._unread > config.MAX_UNREAD:
            # Down to a bit less, because to look for the largest takes a while if there are many.
            self._close_largest(lambda connection: connection.unread_bytes(), config.MAX_UNREAD * 0.9)

    def stop(self) -> None:
        for timer in self._timers:
            timer.stop()

    async def wait_until_idle(self) -> None:
        """Wait for the connections to end, as each does with its next response."""
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

    def _close_left(self) -> None:
        for connection in list(self.paused):
            if connection.has_left():
                connection.close()
