"""
Jobs a second on one worker that runs one job at a time: each is claimed, run and stored as done.

Run as a module with a number, it adds that many jobs and prints how many of them it runs in a second.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.findings import Finding
from bench.machine import ROOT, SERVER_CORE, Failure, clean_environment, pinned
from bench.mongodb import start_mongod

JOBS = 1000
MODULES = ("bench.jobs", "bench.peers.taskiq_mongodb")


def measure(folder: Path, seconds: int, rounds: int) -> list[Finding]:
    with start_mongod(folder) as mongod:
        settings = {**clean_environment(), **mongod.settings("jobs")}
        turns = [[run(module, settings) for module in MODULES] for _ in range(rounds)]
    ours, others = (statistics.median(rates) for rates in zip(*turns))
    return [
        Finding("jobs a second, one worker", f"{ours:.0f}"),
        Finding("the same with taskiq on MongoDB", f"{others:.0f}"),
        Finding(
            "jobs, times as many as taskiq", f"{statistics.median(mine / its for mine, its in turns):.2f}"
        ),
    ]


def run(module: str, settings: dict[str, str]) -> float:
    """Jobs a second. Raises Failure."""
    command = pinned(SERVER_CORE, [sys.executable, "-m", module, str(JOBS)])
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failure(f"{module} did not run: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


async def run_jobs(count: int) -> float:
    from indico import db
    from indico.batteries.jobs import get_worker, job, store
    from indico.core.lifecycle import lifespan
    from indico.routes.handler import IndicoHandler
    from indico.server import make_app
    from indico.utils.auth.auth_utils import auth

    class EmptyHandler(IndicoHandler):
        @auth
        @job
        async def run(self, data: bytes) -> None:
            """Does nothing."""

    application = make_app(routes=[(r"/empty/(?P<action>[a-zA-Z]+)?", EmptyHandler)])
    worker = get_worker(application)
    assert worker is not None
    async with lifespan(application):
        application.state.draining = True  # claims nothing yet
        for _ in range(count):
            await store.add_job("empty.run", b"{}", {"user_id": "1", "roles": []})
        began = time.monotonic()
        application.state.draining = False
        worker.wake.set()
        while await db.mongodb.job.count_documents({"due": {"$exists": True}}):
            await asyncio.sleep(0.05)
        return count / (time.monotonic() - began)


if __name__ == "__main__":
    print(asyncio.run(run_jobs(int(sys.argv[1]))))
