"""
What costs what: processor time of each layer, each measured alone.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import struct
import subprocess
import sys
import time
import timeit
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import bson

import indico.db.auth_db as AuthDB
import indico.db.user_db as UserDB
from bench import work
from bench.compare import compare, median
from bench.findings import Finding
from bench.machine import OTHER_CORE, SERVER_CORE, Server, cpu_seconds, pinned
from bench.mongodb import Mongod, make_key, make_user, make_users, start_mongod
from indico import config, db
from indico.core.http.encoding import encode
from indico.core.mongo import drivers
from indico.utils import smart_parse
from indico.utils.auth.auth_utils import read_key

BARE_TORNADO = Server("bare Tornado", "bench.peers.tornado")
CORE = Server("core", "bench.ours", {"BATTERIES": "none"})
DEFAULT = Server("default batteries", "bench.ours", {"BATTERIES": "default"})
CONNECTIONS = 32
OPERATIONS = 2000
TURNS = 5
Operation = Callable[[int], Awaitable[Any]]


def measure(folder: Path, seconds: int, rounds: int) -> list[Finding]:
    inner = folder / "http"
    inner.mkdir()
    turns = compare({"echo": [BARE_TORNADO, CORE, DEFAULT]}, seconds, rounds, inner)["echo"]
    bare, core, default = (median(turns[server.name], "cpu") for server in (BARE_TORNADO, CORE, DEFAULT))
    findings = [
        Finding("an echo on a bare Tornado handler", f"{bare:.0f} µs"),
        Finding("an echo on the core: HTTP, dispatch, JSON, limits and timeouts", f"{core:.0f} µs"),
        Finding("the default batteries, beyond that", f"{default - core:.0f} µs"),
        *measure_steps(),
    ]
    with start_mongod(folder) as mongod:
        make_users(mongod.uri, "bench", 1000, folder / "users")
        for driver in drivers.DRIVERS:
            done = subprocess.run(
                pinned(SERVER_CORE, [sys.executable, "-m", "bench.layers", driver]),
                env={**os.environ, **mongod.settings(), "MONGODB_DRIVER": driver},
                capture_output=True,
                text=True,
                check=False,
            )
            findings += [Finding(*line.split("\t")) for line in done.stdout.splitlines()]
            if done.returncode:
                findings.append(Finding(f"driver {driver}", "not measured: " + done.stderr.splitlines()[-1]))
        findings += measure_floor(mongod)
    return findings


def measure_steps() -> list[Finding]:
    """The steps of an update that are not MongoDB's, in this process."""
    key = make_key("7")
    headers = {
        "Host": "localhost",
        "Content-Type": "application/json",
        "indico_key": key,
        "Content-Length": "66",
    }
    body = b'{"update_user": {"name": "Ada 1234567", "location": "Ockham, Surrey"}}'
    fields = {"name": "Ada 1234567", "location": "Ockham, Surrey"}
    user = {"_id": bson.ObjectId(), **make_user("7", 0)}
    steps: dict[str, Callable[[], Any]] = {
        "finding the key among the headers": lambda: read_key(headers),
        "digests of the key": lambda: AuthDB.query_login(key),
        "parsing the body": lambda: smart_parse(body),
        "checking the fields": lambda: db.check_fields(fields, UserDB.USER_SCHEMA),
        "encoding the user": lambda: encode({"status": 200, "data": user}),
    }
    return [Finding(name, f"{time_of(step):.1f} µs") for name, step in steps.items()]


def time_of(step: Callable[[], Any]) -> float:
    number = 5000
    return min(timeit.repeat(step, timer=time.process_time, number=number, repeat=5)) / number * 1e6


# One driver, in a process of its own


def measure_driver(driver: str) -> None:
    spent = {}
    for name, spent[name], rate in asyncio.run(run_operations()):
        print(f"{driver}: {name}\t{spent[name]:.0f} µs, {rate:.0f} a second")
    for name in ("find a key", "update a user"):
        added = spent[f"{name}, through our helper"] - spent[name]
        print(f"{driver}: {name}, what our helper adds\t{added:.0f} µs")


async def run_operations() -> list[tuple[str, float, float]]:
    db.connect()
    key = make_key("7")
    since = {**work.stored_key(key), "login": {"$gt": 0}}
    operations: dict[str, Operation] = {
        "find a key": lambda number: db.mongodb.auth.find_one(since),
        "find a key, through our helper": lambda number: AuthDB.get_user_id(key),
        "update a user": lambda number: work.update_user(
            db.mongodb, f"facebook{number % 1000}", {"name": f"Ada {number}"}
        ),
        "update a user, through our helper": lambda number: UserDB.update(
            {"$set": {"name": f"Ada {number}"}}, f"facebook{number % 1000}"
        ),
    }
    spans: dict[str, list[tuple[float, float]]] = {name: [] for name in operations}
    for _ in range(TURNS):
        for name, operation in operations.items():
            cpu, begin = time.process_time(), time.monotonic()
            await asyncio.gather(*[repeat(operation, first) for first in range(CONNECTIONS)])
            spans[name].append((time.process_time() - cpu, time.monotonic() - begin))
    found = []
    for name, taken in spans.items():
        cpu, wall = min(taken)
        found.append((name, cpu / OPERATIONS * 1e6, OPERATIONS / wall))
    await db.close()
    return found


async def repeat(operation: Operation, first: int) -> None:
    for number in range(first, OPERATIONS, CONNECTIONS):
        await operation(number)


# mongod alone, asked in its own words


def measure_floor(mongod: Mongod, seconds: float = 4) -> list[Finding]:
    """How many requests of two operations mongod's core serves, whoever asks."""
    port = int(mongod.uri.partition("127.0.0.1:")[2].partition("/")[0])
    find = message(
        {"find": "auth", "filter": {**work.stored_key(make_key("7")), "login": {"$gt": 0}}, "limit": 1,
         "singleBatch": True, "$db": "bench"}
    )  # fmt: skip
    updates = [
        message(
            {"findAndModify": "user", "query": {"user_id": f"facebook{number}"}, "new": True,
             "update": {"$set": {"name": f"Ada {number} {turn}"}}, "$db": "bench",
             "writeConcern": {"w": "majority", "j": True}}
        )
        for number in range(1000) for turn in range(2)
    ]  # fmt: skip
    selector = selectors.DefaultSelector()
    waiting: dict[socket.socket, int] = {}
    for _ in range(CONNECTIONS):
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(client, selectors.EVENT_READ)
        client.send(find)
        waiting[client] = 0
    done = 0
    os.sched_setaffinity(0, {SERVER_CORE})
    begin, before = time.monotonic(), cpu_seconds(mongod.pid)
    while time.monotonic() < begin + seconds:
        for ready, _ in selector.select(1):
            client = ready.fileobj
            client.recv(65536)  # type: ignore[union-attr] - answers are small: one piece
            if waiting[client]:  # type: ignore[index]
                done += 1
                client.send(find)  # type: ignore[union-attr]
            else:
                client.send(updates[(done * 7919) % 2000])  # type: ignore[union-attr]
            waiting[client] ^= 1  # type: ignore[index]
    rate = done / (time.monotonic() - begin)
    spent = (cpu_seconds(mongod.pid) - before) / done * 1e6
    for client in waiting:
        client.close()
    os.sched_setaffinity(0, {SERVER_CORE, OTHER_CORE})
    return [
        Finding("mongod: a find and an update", f"{spent:.0f} µs"),
        Finding("mongod's ceiling on one core, asked by sockets alone", f"{rate:.0f} requests a second"),
        Finding("mongod's ceiling by its processor time", f"{1e6 / spent:.0f} requests a second"),
    ]


def message(command: dict[str, Any]) -> bytes:
    """MongoDB's wire protocol: OP_MSG, one section."""
    body = struct.pack("<Ib", 0, 0) + bson.encode(command)
    return struct.pack("<iiii", 16 + len(body), 1, 0, 2013) + body


if __name__ == "__main__":
    config.MONGODB_TIMEOUT = 60
    measure_driver(sys.argv[1])
