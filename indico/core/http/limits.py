"""
Limits on connections: their number, their time and their memory.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from tornado.ioloop import PeriodicCallback

from indico import config
from indico.core.http.proxies import group_address, is_trusted
from indico.core.http.sockets import raise_file_limit

if TYPE_CHECKING:
    from indico.core.http.connection import ServerConnection
    from indico.core.http.detached import DetachedStream

Connection: TypeAlias = "ServerConnection | DetachedStream"
RESERVED_FILES = 100  # for MongoDB, the log and everything else that is not a client
SWEEP_INTERVAL_MS = 1000  # between checks for connections that are too slow
DISCONNECT_INTERVAL_MS = 500  # between checks for disconnects on paused connections
LAST_REQUEST_SECONDS = 1  # for requests that arrive while the server stops


def count_connections(files: int) -> int:
    """Return the number of connections that this limit of open files allows."""
    return max(files - RESERVED_FILES, files // 2)


class ConnectionLimits:
    """
    The connections of a process, and their limits.

    Connections beyond MAX_CONNECTIONS are rejected, and so are those beyond MAX_CONNECTIONS_PER_ADDRESS that
    don't come from a trusted proxy. The addresses of an IPv6 network count as one. A connection is closed if
    the first headers take longer than HEADER_TIMEOUT, a body longer than BODY_TIMEOUT, sending a response
    longer than WRITE_TIMEOUT, or if it is idle for IDLE_TIMEOUT. While unprocessed requests exceed MAX_UNREAD
    bytes in total, or unsent responses MAX_UNSENT, the connection with the most of them is closed.
    """

    def __init__(self) -> None:
        self._max = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._max_per_address = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._max // 2)
        self._counts: Counter[str] = Counter()  # connections by address
        self.addresses: dict[Connection, str] = {}  # of all connections
        self._writing: dict[Connection, float] = {}  # when the unsent data was first seen
        self._unread = 0  # bytes, of all connections, at the last check
        self._received = 0  # bytes, since the last check
        self.paused: set[ServerConnection] = set()  # connections whose reading is paused
        self._timers = [
            PeriodicCallback(self._sweep, SWEEP_INTERVAL_MS),
            PeriodicCallback(self._close_disconnected, DISCONNECT_INTERVAL_MS),
        ]
        for timer in self._timers:
            timer.start()

    def admit(self, connection: Connection, address: str) -> bool:
        """Count this connection until `remove`. Return False if a limit is reached."""
        if len(self.addresses) >= self._max:
            return False
        group = group_address(address)
        if self._counts[group] >= self._max_per_address and not is_trusted(address):
            return False
        self.addresses[connection] = group
        self._counts[group] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Stop counting this connection: it has ended."""
        address = self.addresses.pop(connection, None)
        self._writing.pop(connection, None)
        self.paused.discard(connection)
        if address is not None:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]

    def replace(self, connection: Connection, other: Connection) -> None:
        """Count `other` in place of `connection`."""
        self.addresses[other] = self.addresses.pop(connection)
        self.remove(connection)

    def restart_write_timeout(self, connection: Connection) -> None:
        """The client has taken data of a response that is still being written."""
        self._writing.pop(connection, None)

    def count_received(self, size: int) -> None:
        """Check MAX_UNREAD, if the bytes received since the last check may exceed it."""
        limit = config.MAX_UNREAD
        self._received += size
        # Not with each request near the limit, because the check is slow if there are many connections.
        if self._received > max(limit - self._unread, limit / 100):
            self._unread = self._close_largest(lambda connection: connection.unread_bytes(), limit)
            self._received = 0

    def stop(self) -> None:
        for timer in self._timers:
            timer.stop()

    async def wait_until_idle(self) -> None:
        """Wait for the connections to end. Each one ends with its next response."""
        deadline = time.monotonic() + LAST_REQUEST_SECONDS
        while self.addresses and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _sweep(self) -> None:
        now = time.monotonic()
        since, self._writing = self._writing, {}
        late = []
        for connection in self.addresses:
            if connection.unsent_bytes():
                self._writing[connection] = began = since.get(connection, now)
                if now - began > config.WRITE_TIMEOUT:
                    late.append(connection)
            if connection.deadline < now:
                late.append(connection)
        for connection in late:
            connection.close()
        self._close_largest(lambda connection: connection.unsent_bytes(), config.MAX_UNSENT)

    def _close_largest(self, measure: Callable[[Connection], int], limit: int) -> int:
        """Close the connections with the most bytes, while all of them exceed the limit. Return their sum."""
        sizes = {connection: size for connection in self.addresses if (size := measure(connection))}
        total = sum(sizes.values())
        while total > limit:
            largest = max(sizes, key=sizes.__getitem__)
            total -= sizes.pop(largest)
            largest.close()
        return total

    def _close_disconnected(self) -> None:
        for connection in list(self.paused):
            if connection.has_left():
                connection.close()
