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

    def __init__(self, target: Target, end: float) -> None:
        self.target = target
        self.key = f"indico_key: {target.key}"
        self.end = end
        self.statuses: Counter[int] = Counter()
        self.connections = 0
        self.replays: defaultdict[str, set[bytes]] = defaultdict(set)  # responses by their Idempotency-Key

    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.bind((f"127.0.1.{random.randrange(1, ADDRESSES)}", 0))
        self.connections += 1
        await asyncio.wait_for(
            asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.target.port)), 5
        )
        return client

    async def send(self, client: socket.socket, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(client, data), 5)

    async def read(self, client: socket.socket, patience: float) -> bytes:
        """Count the statuses of all responses until it ends, or for so many seconds no data comes."""
        received = b""
        while data := await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(client, MEGABYTE), patience
        ):
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
