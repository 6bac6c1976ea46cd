"""
Processes on cores of their own, and what the kernel says of them. Linux alone.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
SERVER_CORE, OTHER_CORE = (sorted(os.sched_getaffinity(0)) * 2)[:2]  # the other: mongod, and who asks
PATIENCE = 30  # seconds; what takes longer will not happen
TICK = os.sysconf("SC_CLK_TCK")  # a second, in /proc
CONNECTIONS = 32


class Failure(Exception):
    """A measurement that doesn't count, and why: one sentence."""


def check_tools() -> None:
    """Raise Failure, which says what to install, unless all that `wrk` measures with is there."""
    for tool, package in (("wrk", "wrk"), ("taskset", "util-linux")):
        if shutil.which(tool) is None:
            raise Failure(f"{tool} is not on PATH: apt-get install {package}")


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder for the time being."""
    folder = Path(tempfile.mkdtemp(prefix="indico-bench-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def free_port() -> int:
    """A port below those that the kernel gives to clients, so that none takes it before the server does."""
    while True:
        port = random.randrange(20_000, 32_000)
        if port not in _given:
            with suppress(OSError), socket.create_server(("127.0.0.1", port)):
                _given.add(port)
                return port


_given: set[int] = set()


def pinned(core: int, command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


# What the kernel says


def family(pid: int) -> list[int]:
    """A process and all below it."""
    pids = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            for child in task.read_text().split():
                pids += family(int(child))
    return pids


def cpu_seconds(pid: int) -> float:
    """What a process and those below it have used so far, in user and kernel mode."""
    total = 0
    for member in family(pid):
        with suppress(OSError):
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICK


def memory(pid: int, kind: str = "Rss") -> float:
    """MB of a process: `Rss`, `Pss` or, as only its own, `Private_Dirty`."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(f"{kind}:")) / 1024


# Servers


class Server(NamedTuple):
    """How to start one: `python -m <module>` with these settings."""

    name: str
    module: str
    settings: Mapping[str, str] = {}


class Running:
    """A server on a free port and on its core, with the settings that all share. To be used with `with`."""

    def __init__(
        self, server: Server, shared: Mapping[str, str], folder: Path, core: int | None = SERVER_CORE
    ) -> None:
        self.name = server.name
        self.port = free_port()
        self._log = folder / (server.name.replace("/", "-") + ".log")
        command = [sys.executable, "-m", server.module]
        command += [str(self.port)] if server.module.startswith("bench.peers") else []  # ours asks PORT
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                command if core is None else pinned(core, command),
                cwd=ROOT,
                env={**clean_environment(), "PORT": str(self.port), **shared, **server.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> None:
        """Return when it takes connections."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        raise Failure(f"{self.name} does not start:\n{self.log[-2000:]}")


def clean_environment() -> dict[str, str]:
    """The environment without what could set something for one server and not for another."""
    ours = (
        "INDICO_",
        "MONGODB",
        "PORT",
        "ADDRESS",
        "WORKERS",
        "USER_SALT",
        "DEV_TOKEN",
        "HTTP_SERVER",
        "KEY_",
    )
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


# Load


class Load(NamedTuple):
    """What came of one turn."""

    rate: float  # requests a second
    p50: float  # milliseconds
    p99: float
    requests: int
    cpu: float  # microseconds of the server's processor time for each request
    mongod: float  # and of mongod's


def run_wrk(
    server: Running,
    action: str,
    users: Path,
    seconds: int,
    token: str = "",
    mongod_pid: int | None = None,
    connections: int = CONNECTIONS,
    prefix: Sequence[str] = (),
) -> Load:
    """One turn. Raises Failure when a client met an error or an answer that is no 200."""
    script = str(Path(__file__).with_name("load.lua"))
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script]
    command += [f"http://127.0.0.1:{server.port}", "--", action, str(users), token]
    before = cpu_seconds(server.pid), cpu_seconds(mongod_pid) if mongod_pid else 0
    done = subprocess.run(
        [*prefix, *pinned(OTHER_CORE, command)], capture_output=True, text=True, check=False
    )
    after = cpu_seconds(server.pid), cpu_seconds(mongod_pid) if mongod_pid else 0
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise Failure(f"wrk failed on {server.name}: {done.stdout} {done.stderr}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    errors = {kind: count for kind, count in result["errors"].items() if count}
    if errors or not result["requests"]:
        raise Failure(
            f"{action} on {server.name}: {result['requests']} requests, errors {errors}\n{server.log[-2000:]}"
        )
    count = result["requests"]
    return Load(
        rate=count / result["seconds"],
        p50=result["p50"],
        p99=result["p99"],
        requests=count,
        cpu=(after[0] - before[0]) / count * 1e6,
        mongod=(after[1] - before[1]) / count * 1e6,
    )
