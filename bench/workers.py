"""
Two workers beside one.
"""

from __future__ import annotations

import statistics
from pathlib import Path

from bench.findings import Finding, at_least, at_most
from bench.machine import Running, Server, family, memory, run_wrk
from bench.mongodb import make_users, start_mongod

NICE = ("nice", "-n", "5")  # the one who asks: it shares the cores with those who answer


def measure(folder: Path, seconds: int, rounds: int) -> list[Finding]:
    with start_mongod(folder, core=None) as mongod:
        users = folder / "users"
        make_users(mongod.uri, "bench", 1000, users)
        one = Server("one worker", "bench.ours", {"WORKERS": "1"})
        two = Server("two workers", "bench.ours", {"WORKERS": "2"})
        three = Server("three workers", "bench.ours", {"WORKERS": "3"})
        with (
            Running(one, mongod.settings(), folder, core=None) as single,
            Running(two, mongod.settings(), folder, core=None) as double,
            Running(three, mongod.settings(), folder, core=None) as triple,
        ):
            for running in (single, double, triple):
                running.wait_ready()
            ratios, cpus = [], []
            for number in range(rounds + 1):
                alone = run_wrk(single, "echo", users, seconds, connections=64, prefix=NICE)
                both = run_wrk(double, "echo", users, seconds, connections=64, prefix=NICE)
                if number:
                    ratios.append(both.rate / alone.rate)
                    cpus.append(both.cpu / alone.cpu)
            run_wrk(triple, "echo", users, seconds, connections=64)
            sizes = {
                running.name: sum(memory(pid, "Pss") for pid in family(running.pid))
                for running in (double, triple)
            }
        return [
            at_least(
                "echo: two workers against one, the load generator on one of their cores",
                statistics.median(ratios),
                1.8,
            ),
            Finding(
                "echo: processor time for a request, two workers against one",
                f"{statistics.median(cpus):.2f}",
            ),
            at_most(
                "memory for one more worker (PSS)", sizes["three workers"] - sizes["two workers"], 60, "MB", 1
            ),
        ]
