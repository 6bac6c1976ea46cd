"""
A million users beside a thousand.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from bench.compare import median
from bench.findings import Finding, at_most
from bench.machine import Load, Running, Server, run_wrk
from bench.mongodb import TOKEN, make_users, start_mongod
from bench.start import time_to_answer

FEW, MANY = "few", "many"
LISTED = 50_000  # users that requests are spread over
CONNECTIONS = 4  # so that it is not waiting for each other that is measured


def measure(folder: Path, seconds: int, rounds: int, users: int = 1_000_000) -> list[Finding]:
    findings: list[Finding] = []
    with start_mongod(folder) as mongod:
        begin = time.monotonic()
        make_users(mongod.uri, MANY, users, folder / MANY, LISTED)
        findings.append(at_most(f"making {users:,} users", time.monotonic() - begin, 120, "s", 0))
        make_users(mongod.uri, FEW, 1000, folder / FEW)
        settings = {name: mongod.settings(name) for name in (FEW, MANY)}
        server = {name: Server(f"indico, {name}", "bench.ours") for name in (FEW, MANY)}
        with (
            Running(server[FEW], settings[FEW], folder) as few,
            Running(server[MANY], settings[MANY], folder) as many,
        ):
            running = {FEW: few, MANY: many}
            for one in running.values():
                one.wait_ready()
            for action in ("check", "update", "login"):
                turns: dict[str, list[Load]] = {FEW: [], MANY: []}
                for number in range(rounds + 1):
                    for name, one in running.items():
                        load = run_wrk(one, action, folder / name, seconds, TOKEN, connections=CONNECTIONS)
                        turns[name] += [load] if number else []  # the first warms up
                ratio = statistics.median(many.p50 / few.p50 for few, many in zip(turns[FEW], turns[MANY]))
                few_ms, many_ms = median(turns[FEW], "p50"), median(turns[MANY], "p50")
                what = (
                    f"p50 of {action} with {users:,} users, {many_ms:.2f} ms, against {few_ms:.2f} with 1,000"
                )
                findings.append(at_most(what, ratio, 1.15))
        starts = {
            name: [time_to_answer(server[name], settings[name], folder) for _ in range(5)]
            for name in settings
        }
        late = statistics.median(starts[MANY]) - statistics.median(starts[FEW])
        findings.append(at_most(f"start with {users:,} users, later than with 1,000", late, 0.5, "s"))
    return findings
