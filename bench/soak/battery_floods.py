"""
Kinds of floods in the soak that batteries have to bear.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import time

from bench.soak.flood import Flood, Kind, make_request

DATA = re.compile(rb'"data": ?"([0-9a-f]{16})"')


async def leave_computations(flood: Flood, client: socket.socket) -> None:
    """Ask for a long computation, and disconnect."""
    await flood.send(client, make_request("soak/think", b'{"number": 1, "seconds": 60}', flood.key))
    await asyncio.sleep(random.random() / 2)


async def fill_compute_queue(flood: Flood, client: socket.socket) -> None:
    """Ask for more computations than there are processes and places in the queue."""
    await flood.ask(client, "soak/think", {"number": 1, "seconds": 0.1}, flood.key)


async def add_jobs(flood: Flood, client: socket.socket) -> None:
    """Add jobs of one user, as many as it may and more."""
    for _ in range(10):
        await flood.send(client, make_request("soak/work", b'{"number": 1}', flood.key))
    await flood.read(client, 0.5)


async def send_webhooks_to_private_hosts(flood: Flood, client: socket.socket) -> None:
    """Name a private address, or a name of one, as the receiver of a webhook."""
    host = random.choice(["localhost", "2130706433", "127.0.0.1"])
    url = f"Webhook-URL: http://{host}:{flood.target.private_port}/hook"
    await flood.ask(client, "soak/work", {"number": 1}, flood.key, url)
    await asyncio.sleep(0.2)


async def repeat_key(flood: Flood, client: socket.socket) -> None:
    """Send requests with the same Idempotency-Key, and sometimes another body. The keys change with time."""
    key = f"{time.monotonic():.0f}"
    number = random.choice([1, 1, 1, 2])
    received = await flood.ask(client, "soak/once", {"number": number}, flood.key, f"Idempotency-Key: {key}")
    flood.replays[key].update(DATA.findall(received))


async def guess_passwords(flood: Flood, client: socket.socket) -> None:
    """Log in with wrong passwords, to an account and to addresses without one."""
    email = random.choice([flood.target.email, f"{random.randbytes(8).hex()}@example.com"])
    await flood.ask(client, "password/login", {"email": email, "password": "a wrong guess"})


async def forget_passwords(flood: Flood, client: socket.socket) -> None:
    """Ask for mails to addresses without an account."""
    await flood.ask(client, "password/forgot", {"email": f"{random.randbytes(8).hex()}@example.com"})


KINDS = [
    Kind(leave_computations, 10),
    Kind(fill_compute_queue, 20, shown={503}),
    Kind(send_webhooks_to_private_hosts, 3, {202}, shown={202, 400}),
    Kind(add_jobs, 5, {202}, shown={202}),
    Kind(repeat_key, 10, {409, 422}, shown={409, 422}),
    Kind(guess_passwords, 4, shown={401}),
    Kind(forget_passwords, 5, shown={200}),
]
