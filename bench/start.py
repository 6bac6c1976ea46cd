"""
Starting, and staying small.
"""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bench.findings import Finding, at_most
from bench.machine import ROOT, Failure, Running, Server, memory, run_wrk
from bench.mongodb import make_users, start_mongod

SERVER = Server(
    "indico",
    "indico.server",
    {
        "INDICO_ENV": "production",
        "ADDRESS": "127.0.0.1",
        "FACEBOOK_APP_ID": "1",
        "FACEBOOK_APP_SECRET": "1",
        "DEV_TOKEN": "",
    },
)
IMPORT = "import time; begin = time.perf_counter(); import indico.server; print(time.perf_counter() - begin)"
TIMES = 7


def measure(folder: Path, quick: bool = False) -> list[Finding]:
    requests = 10_000 if quick else 200_000
    findings = []
    imports = [
        float(
            subprocess.run([sys.executable, "-c", IMPORT], cwd=ROOT, capture_output=True, check=True).stdout
        )
        for _ in range(TIMES)
    ]
    findings.append(at_most("import indico.server", statistics.median(imports), 0.35, "s"))
    with start_mongod(folder) as mongod:
        make_users(mongod.uri, "bench", 1000, folder / "users")
        settings = mongod.settings()
        starts = [time_to_answer(SERVER, settings, folder) for _ in range(TIMES)]
        findings.append(at_most("from the command to the first answer", statistics.median(starts), 0.8, "s"))
        with Running(Server("indico, growing", "bench.ours"), settings, folder) as running:
            running.wait_ready()
            count = send(running, folder, 10_000)
            small = memory(running.pid)
            findings.append(at_most(f"memory after {count:,} requests", small, 60, "MB", 1))
            send(running, folder, requests // 2)
            middle = memory(running.pid)
            count = send(running, folder, requests // 2)
            large = memory(running.pid)
            findings.append(at_most(f"memory gained over {requests:,} more", large - small, 1, "MB", 1))
            findings.append(Finding("of it in their second half", f"{large - middle:.1f} MB"))
    return findings


def send(running: Running, folder: Path, count: int) -> int:
    """Updates and checks, at least so many."""
    sent = 0
    while sent < count:
        for action in ("update", "check", "echo"):
            sent += run_wrk(running, action, folder / "users", 1 if count <= 10_000 else 5).requests
    return sent


def time_to_answer(server: Server, settings: Mapping[str, str], folder: Path) -> float:
    """Seconds from the command to the first answer of a check, which asks MongoDB."""
    begin = time.monotonic()
    with Running(server, settings, folder, core=None) as running:
        while time.monotonic() < begin + 30:
            with suppress(OSError, http.client.HTTPException):
                connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=5)
                connection.request("POST", "/auth/check", b"", {"indico_key": 56 * "0"})
                answer = json.loads(connection.getresponse().read())
                connection.close()
                if answer["status"] == 401:
                    return time.monotonic() - begin
            time.sleep(0.005)
        raise Failure(f"{server.name} does not answer:\n{running.log[-2000:]}")
