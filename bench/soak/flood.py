"""
What the clients of a flood need.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Set
from typing import Any, NamedTuple

MEGABYTE = 1 << 20
MAX_EXTENSION = 10  # seconds
ADDRESSES = 50  # that clients come from


def make_request(route: str, body: bytes = b"", *headers: str, size: int | None = None) -> bytes:
    lines = [f"POST /{route} HTTP/1.1", "Host: localhost", f"Content-Length: {size or len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Target(NamedTuple):
    """Whom floods harm, and with what."""

    port: int
    key: str  # of a user
    email: str  # of an account with a password
    private_port: int  # where no webhook may arrive


class Flood:
    """What the clients of a flood need, and what became of them."""

    def __init__(self, target: Target, end: float, shown: Set[int] = frozenset()) -> None:
        self.target = target
        self.key = f"indico_key: {target.key}"
        self.end = end
        self._shown = shown
        self.statuses: Counter[int] = Counter()
        self.connections = 0
        self.replays: defaultdict[str, set[bytes]] = defaultdict(set)  # responses by their Idempotency-Key

    def goes_on(self) -> bool:
        """Whether it is not over. It is longer if it has not shown yet what it should, on a busy machine."""
        is_shown = self._shown <= self.statuses.keys()
        return time.monotonic() < self.end + (0 if is_shown else MAX_EXTENSION)

    async def connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.bind((f"127.0.1.{random.randrange(1, ADDRESSES)}", 0))
        self.connections += 1
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.target.port))
        return client

    async def send(self, client: socket.socket, data: bytes) -> None:
        async with asyncio.timeout(5):
            await asyncio.get_running_loop().sock_sendall(client, data)

    async def read(self, client: socket.socket, patience: float) -> bytes:
        """Count the statuses of all responses until it ends, or for so many seconds no data comes."""
        received = b""
        while True:
            async with asyncio.timeout(patience):
                data = await asyncio.get_running_loop().sock_recv(client, MEGABYTE)
            if not data:
                break
            self.statuses.update(int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", data))
            received = data
        return received

    async def ask(self, client: socket.socket, route: str, fields: Any, *headers: str) -> bytes:
        """Send one request, and return the end of what is received until the connection is closed."""
        headers = ("Connection: close", *headers)
        await self.send(client, make_request(route, json.dumps(fields).encode(), *headers))
        return await self.read(client, 5)


class Kind(NamedTuple):
    """A kind of flood. Each client calls the function again and again, with a new connection each time."""

    function: Callable[[Flood, socket.socket], Awaitable[None]]
    clients: int  # at a time
    also_possible: Set[int] = frozenset()  # statuses that only what this kind calls responds with
    shown: Set[int] = frozenset()  # statuses that show that the flood did harm, or was kept from it

    @property
    def name(self) -> str:
        return self.function.__name__
