"""
Clients that harm: `python -m bench.soak_noise <port> <seconds of each kind> <seconds in all> <key> <token>`.

Each kind of flood comes for some seconds and goes. A line for each says what the server did.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

MEGABYTE = 1 << 20
ADDRESSES = 50  # that clients come from


def make_request(route: str, body: bytes = b"", *headers: str, size: int | None = None) -> bytes:
    lines = [f"POST /{route} HTTP/1.1", "Host: localhost", f"Content-Length: {size or len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Flood:
    """What the clients of a flood need, and what became of them."""

    def __init__(self, port: int, key: str, token: str, end: float) -> None:
        self.port = port
        self.key = f"indico_key: {key}"
        self.token = token
        self.end = end
        self.statuses: Counter[int] = Counter()
        self.connections = 0

    def goes_on(self) -> bool:
        return time.monotonic() < self.end

    async def connect(self) -> socket.socket:
        client = socket.socket()
        client.setblocking(False)
        client.bind((f"127.0.1.{random.randrange(1, ADDRESSES)}", 0))
        self.connections += 1
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", self.port)), 5)
        return client

    async def send(self, client: socket.socket, data: bytes) -> None:
        await asyncio.wait_for(asyncio.get_running_loop().sock_sendall(client, data), 5)

    async def read(self, client: socket.socket, patience: float) -> None:
        """Count the statuses of all responses until there is none for that many seconds."""
        while data := await asyncio.wait_for(
            asyncio.get_running_loop().sock_recv(client, MEGABYTE), patience
        ):
            self.statuses.update(int(status) for status in re.findall(rb"HTTP/1\.1 ([2-5]\d\d) ", data))


Kind = Callable[[Flood, socket.socket], Awaitable[None]]


async def drop_connections(flood: Flood, client: socket.socket) -> None:
    """Leave in the middle of a request or of a response."""
    whole = make_request("user/find", b"", flood.key) + make_request("soak/large", b"", flood.key)
    await flood.send(client, whole[: random.randrange(len(whole) + 1)])
    await asyncio.sleep(random.random() / 20)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def stop_reading(flood: Flood, client: socket.socket) -> None:
    """Ask for large responses and streams, and read nothing."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await flood.send(client, make_request("soak/large", b"", flood.key))
    await flood.send(client, make_request("soak/follow", b'{"until": 1000}', flood.key))
    await asyncio.sleep(flood.end - time.monotonic())


async def pipeline(flood: Flood, client: socket.socket) -> None:
    """Send thousands of requests before reading a response."""
    with suppress(TimeoutError):
        await flood.send(client, 2000 * make_request("auth/check"))
    await flood.read(client, 1)


async def never_end_bodies(flood: Flood, client: socket.socket) -> None:
    """Send a body without its last byte."""
    await flood.send(client, make_request("auth/login", 200_000 * b"a", size=200_001))
    await asyncio.sleep(flood.end - time.monotonic())


async def send_large_bodies(flood: Flood, client: socket.socket) -> None:
    """Send bodies that are larger than allowed."""
    with suppress(TimeoutError):
        await flood.send(client, make_request("user/update", 3 * MEGABYTE * b"a", flood.key))
    await flood.read(client, 1)


async def say_nothing(flood: Flood, client: socket.socket) -> None:
    await asyncio.sleep(flood.end - time.monotonic())


async def guess_logins(flood: Flood, client: socket.socket) -> None:
    """Log in with wrong tokens."""
    body = json.dumps({"access_token": "wrong", "oauth_id": str(random.randrange(3)), "user": {}})
    await flood.send(client, 10 * make_request("auth/login", body.encode()))
    await flood.read(client, 0.5)


async def guess_keys(flood: Flood, client: socket.socket) -> None:
    """Send keys that look valid."""
    for _ in range(20):
        await flood.send(client, make_request("user/find", b"", f"indico_key: {random.randbytes(28).hex()}"))
    await flood.read(client, 0.5)


async def send_bad_bodies(flood: Flood, client: socket.socket) -> None:
    """Send what is slow to parse, or no JSON, or more than a user may hold."""
    bodies = [
        b'{"update_user":{"a":' + 1000 * b"[",
        b'{"update_user":{"a":[' + 100_000 * b"0," + b"0]}}",
        b'{"update_user":{"a":"' + 300_000 * b"a" + b'"}}',
        b'{"update_user":{"$set":1}}',
    ]
    await flood.send(client, make_request("user/update", random.choice(bodies), flood.key))
    await flood.read(client, 0.5)


async def break_uploads(flood: Flood, client: socket.socket) -> None:
    """Begin an upload, and end it too early, without a key, or with a file that is too large."""
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    body = head + random.choice([2, 6]) * MEGABYTE * b"a"
    key = random.choice([flood.key, "X-None: 1"])
    form = "Content-Type: multipart/form-data; boundary=x"
    with suppress(TimeoutError):
        await flood.send(client, make_request("soak/upload", body, key, form, size=len(body) + 10))
    with suppress(TimeoutError):
        await flood.read(client, 0.2)


KINDS: list[tuple[Kind, int]] = [  # and how many clients there are at a time
    (drop_connections, 20),
    (stop_reading, 30),
    (pipeline, 10),
    (never_end_bodies, 100),
    (send_large_bodies, 10),
    (say_nothing, 500),
    (guess_logins, 5),
    (guess_keys, 5),
    (send_bad_bodies, 4),
    (break_uploads, 5),
]


async def flood_with(kind: Kind, flood: Flood) -> None:
    """One client after the other, until the end."""
    while flood.goes_on():
        client = None
        try:
            client = await flood.connect()
            await asyncio.wait_for(kind(flood, client), max(0.1, flood.end - time.monotonic()))
        except (OSError, TimeoutError):
            await asyncio.sleep(0.05)
        finally:
            if client is not None:
                client.close()
        await asyncio.sleep(0.01)


async def main(port: int, seconds: float, total: float, key: str, token: str) -> None:
    end = time.monotonic() + total
    statuses: Counter[int] = Counter()
    number = 0
    while time.monotonic() < end:
        kind, clients = KINDS[number % len(KINDS)]
        number += 1
        flood = Flood(port, key, token, min(end, time.monotonic() + seconds))
        print(f"flood begins: {kind.__name__}, {clients} clients", flush=True)
        await asyncio.gather(*(flood_with(kind, flood) for _ in range(clients)))
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(flood.statuses.items()))
        print(
            f"flood ends: {kind.__name__}, {flood.connections} connections, {answers or 'no answers'}",
            flush=True,
        )
        statuses += flood.statuses
    print("statuses " + json.dumps(statuses), flush=True)


if __name__ == "__main__":
    port, seconds, total, key, token = sys.argv[1:]
    asyncio.run(main(int(port), float(seconds), float(total), key, token))
