"""
The processes of the soak's server, also those whose parent has ended, and their memory.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path

from bench.findings import Finding, at_most
from bench.machine import TICK, memory


def find_processes(port: int) -> set[int]:
    """Return all processes that were started with this port in their environment, and have not ended."""
    found = set()
    variable = f"PORT={port}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if variable in (process / "environ").read_bytes().split(b"\0"):
                found.add(int(process.name))
    return found


def is_compute_process(pid: int) -> bool:
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def read_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK
    return 0


class Sampler(threading.Thread):
    """A thread that notes the memory of each process, until the end of a `with` block."""

    def __init__(self, port: int, pause: float) -> None:
        super().__init__()
        self._port = port
        self.pause = pause  # seconds between samples
        self._ended = threading.Event()
        self.samples: defaultdict[int, list[float]] = defaultdict(list)  # MB by process
        self.compute_processes: set[int] = set()  # all that there have been

    def __enter__(self) -> Sampler:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(self.pause):
            for pid in find_processes(self._port):
                with suppress(OSError):
                    self.samples[pid].append(memory(pid))
                if pid not in self.compute_processes and is_compute_process(pid):
                    self.compute_processes.add(pid)

    def judge(self, pid: int, seconds: float) -> list[Finding]:
        """
        Compare the second quarter of the process's life with the last. All kinds of floods take this many
        seconds. A process that was not there for all of them in both quarters may have what MAX_UNREAD and
        MAX_UNSENT allow.
        """
        samples = self.samples[pid]
        quarter = len(samples) // 4
        if quarter < 5:
            return []
        early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
        has_seen_all = quarter * self.pause > seconds
        limit = max(20, 0.15 * early) if has_seen_all else 64
        what = f"memory of process {pid}: {early:.0f} MB, later {late:.0f}"
        return [at_most(what, late - early, limit, "MB more", 1)]


class ComputeProcesses:
    """The compute processes at a time when nobody computes."""

    def __init__(self, port: int) -> None:
        pids = {pid for pid in find_processes(port) if is_compute_process(pid)}
        before = sum(map(read_time, pids))
        time.sleep(1)
        self.seconds = sum(map(read_time, pids)) - before  # of processor time
        self.number = len(pids)
        self.memory = max(map(memory, pids), default=0.0)
