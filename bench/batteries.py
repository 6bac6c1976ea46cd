"""
What `@limit` and `@idempotent` add to an action with a key, and the events of a stream in a second.
"""

from __future__ import annotations

import http.client
import statistics
import time
from pathlib import Path

from bench.batteries_server import EVENTS
from bench.compare import median
from bench.findings import Finding
from bench.machine import Failure, Load, Running, Server, cpu_seconds, run_wrk
from bench.mongodb import make_users, start_mongod

USERS = 1000
ACTIONS = {  # of load.lua
    "plain": "an action with a key",
    "limited": "the same with @limit, one operation more",
    "idempotent": "the same with @idempotent and a new key, two operations more",
    "replay": "the same with @idempotent and a key that has a response, one operation more",
}


def measure(folder: Path, seconds: int, rounds: int) -> list[Finding]:
    with start_mongod(folder) as mongod:
        users = folder / "users"
        make_users(mongod.uri, "bench", USERS, users)
        with Running(Server("batteries", "bench.batteries_server"), mongod.settings(), folder) as running:
            running.wait_ready()
            store_responses(running, users)
            turns: dict[str, list[Load]] = {action: [] for action in ACTIONS}
            streams = []
            for _ in range(rounds):
                for action, loads in turns.items():
                    loads.append(run_wrk(running, action, users, seconds))
                streams.append(read_stream(running))
    bare = median(turns["plain"], "cpu")
    findings = []
    for action, loads in turns.items():
        cpu = median(loads, "cpu")
        measured = f"{cpu:.0f} µs, {median(loads, 'rate'):.0f} a second"
        ratio = "" if action == "plain" else f", {cpu / bare:.1f} times"
        findings.append(Finding(ACTIONS[action], measured + ratio))
    rate, cpu = (statistics.median(values) for values in zip(*streams))
    return [*findings, Finding("events of one stream", f"{cpu:.0f} µs, {rate:.0f} a second")]


def store_responses(running: Running, users: Path) -> None:
    """Send the request of `replay` once for each user, so that each has a response."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    for line in users.read_text().splitlines():
        headers = {"indico_key": line.split()[1], "Idempotency-Key": "1"}
        connection.request("POST", "/cost/idempotent", b"", headers)
        if connection.getresponse().read() != b'{"status":200,"data":true}':
            raise Failure(f"a request of {line} failed:\n{running.log[-2000:]}")
    connection.close()


def read_stream(running: Running) -> tuple[float, float]:
    """Read a stream to its end. Return the events in a second, and the µs of processor time for each."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    began, before = time.monotonic(), cpu_seconds(running.pid)
    connection.request("POST", "/cost/stream", b"")
    received = connection.getresponse().read()
    taken, cpu = time.monotonic() - began, cpu_seconds(running.pid) - before
    connection.close()
    if received.count(b"\ndata:") + received.startswith(b"data:") < EVENTS:
        raise Failure(f"the stream ended early:\n{running.log[-2000:]}")
    return EVENTS / taken, cpu / EVENTS * 1e6
