"""
Kinds of floods in the soak that any server has to bear.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
import time
from contextlib import suppress

from bench.soak.flood import MEGABYTE, Flood, Kind, make_request


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
    body = json.dumps({"access_token": "wrong", "oauth_id": "1", "user": {}})
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


KINDS = [
    Kind(drop_connections, 20),
    Kind(stop_reading, 30),
    Kind(pipeline, 10),
    Kind(never_end_bodies, 100),
    Kind(send_large_bodies, 10),
    Kind(say_nothing, 500),
    Kind(guess_logins, 5, shown={429}),
    Kind(guess_keys, 5),
    Kind(send_bad_bodies, 4),
    Kind(break_uploads, 5),
]
