"""
Worker processes, and programs that end with their parent process. This module opens no database client and
runs no event loop, so forking is safe.

`supervisor.py <parent pid> <program> <argument> ...` runs that program, and ends it with the parent.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

LOGGER = logging.getLogger("indico")  # not imported: as a script, this file runs without the package
PR_SET_PDEATHSIG = 1  # prctl(2), on Linux only
MIN_WORKER_LIFETIME = 5  # seconds; a worker that dies sooner counts as a failed start
MAX_FAILED_STARTS = 5  # in a row
POLL_INTERVAL = 0.1  # seconds between checks of the workers
COMPUTE_PROCESS = "indico-compute"  # the name of a process that imports the main script to compute
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class WorkersDied(Exception):
    """The workers die as fast as they are started."""


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> None:
    """
    Have the kernel send this process a signal when `parent` ends, even after SIGKILL. Only on Linux: on other
    systems this process goes on running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
        if os.getppid() != parent:
            os._exit(1)  # pragma: no cover - only if the parent ends between these two lines


def is_compute_process() -> bool:
    """Whether a pool has started this process to compute."""
    return multiprocessing.current_process().name == COMPUTE_PROCESS


def start_tied_to_parent(command: list[str], output: str = os.devnull) -> int:
    """
    Start a program that ends with this process. It prints to the file `output` and ignores Ctrl-C. Returns
    its pid.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
    streams: list[Any] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDWR, 0)]
    streams += [(os.POSIX_SPAWN_OPEN, 1, output, flags, 0o600), (os.POSIX_SPAWN_DUP2, 1, 2)]
    shim = [sys.executable, "-I", __file__, str(os.getpid()), *command]
    return os.posix_spawn(sys.executable, shim, os.environ, file_actions=streams)


def has_ended(pid: int) -> bool:
    """Return True if the process has ended (and reap it), or if it is not our child."""
    return get_exit_code(pid) is not None


def get_exit_code(pid: int) -> int | None:
    """
    Return the exit status of a process that has ended (and reap it), or -N if signal N ended it. Returns None
    if it runs, and 0 if it is not our child.
    """
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return 0
    return os.waitstatus_to_exitcode(status) if ended else None


def run_workers(count: int, *callbacks: Callable[..., Any]) -> None:
    """
    Run `count` forked workers until all have ended. `callbacks` are those of a Supervisor.

    A worker that dies is replaced. After more than MAX_FAILED_STARTS failed starts in a row, the other
    workers are stopped and WorkersDied is raised. SIGTERM and SIGINT are passed on as SIGTERM.
    """
    Supervisor(*callbacks).run(count)


@dataclass
class Supervisor:
    """Starts, restarts and stops workers: see `run_workers`."""

    run_worker: Callable[[int], None]  # called in each worker, with its number
    on_tick: Callable[[], object] = lambda: None  # called a few times a second
    before_stop: Callable[[], object] = lambda: None  # called before the workers are told to stop
    workers: dict[int, tuple[int, float]] = field(default_factory=dict, init=False)  # by pid: (number, start)
    stopping = False
    failed_starts = 0  # in a row

    def run(self, count: int) -> None:
        handlers = [signal.signal(number, self.stop) for number in SIGNALS]
        try:
            for number in range(count):
                self.start_worker(number)
            while self.workers:
                self.reap_workers()
                self.on_tick()
                time.sleep(POLL_INTERVAL)
        finally:
            self.stop()  # the remaining workers, after an exception
            for number, handler in zip(SIGNALS, handlers, strict=True):
                signal.signal(number, handler)
        if self.failed_starts > MAX_FAILED_STARTS:
            raise WorkersDied("The workers die as fast as they are started; the log says why.")

    def start_worker(self, number: int) -> None:
        # Block signals: the child must not run the parent's handlers, and `stop` needs the pid of the child.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not self.stopping:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self.become_worker(number, parent)
            self.workers[pid] = number, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    def become_worker(self, number: int, parent: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        die_with_parent(parent)
        # SIGINT stays blocked: Ctrl-C reaches all processes, but the parent already passes it on.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        # Always exit here: the child must never return into the code of the parent.
        status = 1
        try:
            self.run_worker(number)
            status = 0
        except BaseException:
            LOGGER.exception("Worker %d failed", number)
        finally:
            try:
                logging.shutdown()
                sys.stdout.flush()
            finally:
                os._exit(status)

    def reap_workers(self) -> None:
        """Replace the workers that have died."""
        for pid in [pid for pid in self.workers if has_ended(pid)]:
            number, started = self.workers.pop(pid)
            if self.stopping:
                continue
            LOGGER.error("Worker %d (process %d) died; another takes its place", number, pid)
            failed = time.monotonic() - started < MIN_WORKER_LIFETIME
            self.failed_starts = self.failed_starts + 1 if failed else 0
            if self.failed_starts > MAX_FAILED_STARTS:
                self.stop()
            else:
                self.start_worker(number)

    def stop(self, *_: object) -> None:
        """Tell all workers to stop. This method is also the signal handler."""
        self.stopping = True
        self.before_stop()
        for pid in self.workers:
            with suppress(ProcessLookupError):  # the worker has just ended
                os.kill(pid, signal.SIGTERM)


if __name__ == "__main__":
    os.setsid()
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
