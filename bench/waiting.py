"""
Thousands of open requests in one process: what each takes, and whether others notice.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.findings import Finding, at_most
from bench.machine import OTHER_CORE, ROOT, Failure, Running, Server, family, memory, pinned
from bench.mongodb import Mongod, start_mongod
from bench.servers import BARE, TORNADO, find_obstacle

SETTINGS = {"MAX_CONNECTIONS_PER_ADDRESS": "30000"}
SERVERS = (  # and the most KiB for each request
    (Server("indico", "bench.ours", BARE | SETTINGS), 10),
    (Server("indico/batteries", "bench.ours", SETTINGS), 11),
    (Server("indico/tornado", "bench.ours", BARE | TORNADO | SETTINGS), None),
    (Server("bare Tornado", "bench.peers.tornado"), None),
)
WORKERS = Server("indico/batteries, two workers", "bench.ours", SETTINGS | {"WORKERS": "2"})
SECONDS = 20  # that each request takes; all of them have to be there before the first is answered
PROBES = 2000


def measure(folder: Path, quick: bool = False) -> list[Finding]:
    count = 1500 if quick else 15_000
    findings = []
    with start_mongod(folder) as mongod:
        for server, limit in SERVERS:
            if not find_obstacle(server):
                findings += measure_server(server, mongod, folder, count, limit)
        findings += measure_server(WORKERS, mongod, folder, 2 * count, None, crowds=2)
    return findings


def measure_server(
    server: Server, mongod: Mongod, folder: Path, count: int, limit: float | None, crowds: int = 1
) -> list[Finding]:
    with Running(server, mongod.settings(), folder, core=None if crowds > 1 else 0) as running:
        running.wait_ready()
        probe(running, 500)
        idle = probe(running)
        before = measure_memory(running)
        processes = [
            subprocess.Popen(
                pinned(
                    OTHER_CORE,
                    [sys.executable, "-m", "bench.crowd", str(running.port), str(count // crowds)]
                    + [str(SECONDS), str(1 + 10 * number)],
                ),
                cwd=ROOT,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number in range(crowds)
        ]
        lines = [process.stdout.readline() for process in processes if process.stdout]
        if not all(line.startswith("waiting") for line in lines):
            raise Failure(f"{server.name} does not take {count} connections: {lines}\n{running.log[-2000:]}")
        after = settle(running)
        busy = probe(running)
        outcomes = [json.loads(process.communicate()[0]) for process in processes]
    answered = sum(outcome.pop("200", 0) for outcome in outcomes)
    errors = {kind: number for outcome in outcomes for kind, number in outcome.items()}
    name = f"{server.name}, {count:,} waiting requests"
    each = (after - before) * 1024 / count
    what = f"{name}: memory of each"
    return [
        Finding(
            f"{name}: answered",
            f"{answered:,}",
            f"{count:,}, no error" + f" {errors}" * bool(errors),
            answered == count,
        ),
        at_most(what, each, limit, "KiB", 1) if limit else Finding(what, f"{each:.1f} KiB"),
        at_most(
            f"{name}: p99 of a quick request, {busy:.2f} ms, against {idle:.2f} ms without them",
            busy / idle,
            1.5,
        ),
    ]


def measure_memory(running: Running) -> float:
    """MB of the server's processes."""
    return sum(memory(pid) for pid in family(running.pid))


def settle(running: Running) -> float:
    """The same, once it grows no more: what is connected is not read yet."""
    before, after = 0.0, measure_memory(running)
    while after - before > 0.1:
        time.sleep(0.5)
        before, after = after, measure_memory(running)
    return after


def probe(running: Running, count: int = PROBES) -> float:
    """The p99, in milliseconds, of quick requests, one after the other on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    body = json.dumps({"message": "quick"})
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        connection.request("POST", "/echo/echo", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        times.append(time.perf_counter() - begin)
        if response.status != 200:
            raise Failure(f"{running.name} answers a quick request with {response.status}")
    connection.close()
    return statistics.quantiles(times, n=100)[98] * 1000
