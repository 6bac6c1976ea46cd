"""
Watching over processes: workers, and programs that live and die with this one. It never opens a client of
the database, and runs no event loop: what is forked off here starts clean.

Run as a program, `supervisor.py <parent pid> <program> <argument> ...` becomes that program, bound to its
parent's life.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress

LOGGER = logging.getLogger("indico")
PR_SET_PDEATHSIG = 1  # prctl(2), Linux alone
QUICK_DEATH = 5  # seconds: a worker that lives shorter than this had no chance
MOST_QUICK_DEATHS = 5  # in a row
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class WorkersDied(Exception):
    """Workers die as fast as they are started."""


def die_with_parent(parent: int) -> None:
    """
    Have the kernel send this process SIGTERM when `parent` ends, even by `kill -9`. Elsewhere than on Linux
    nothing does: there a parent killed like that leaves this process running.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)  # pragma: no cover - the parent has to die within these two lines


def start_bound(command: list[str]) -> int:
    """Start a program that dies with this process, silent and out of Ctrl-C's reach; returns its pid."""
    null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_RDWR, 0) for stream in range(3)]
    shim = [sys.executable, "-I", __file__, str(os.getpid()), *command]
    return os.posix_spawn(sys.executable, shim, os.environ, file_actions=null)


def has_ended(pid: int) -> bool:
    """Whether this child is gone; one that has ended is taken leave of, and one that is no child is gone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def supervise(
    count: int,
    work: Callable[[int], None],
    tend: Callable[[], None],
    on_stop: Callable[[], object] = lambda: None,
) -> None:
    """
    Run `work(number)` in `count` forked workers until all have ended, and call `tend` a few times a second,
    and `on_stop` before the workers are told to stop.

    A worker that dies is started again; raises WorkersDied, and ends the others, when that does not help.
    SIGTERM and SIGINT stop it all: each is passed on as SIGTERM, the second as well as the first.
    """
    workers: dict[int, tuple[int, float]] = {}  # pid: (number, when it was started)
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        on_stop()
        for pid in workers:
            with suppress(ProcessLookupError):  # it ended by itself, at this very moment
                os.kill(pid, signal.SIGTERM)

    def start(number: int) -> None:
        # No signal may come while a child has its parent's handlers, or the parent lacks the child's pid.
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        if not stopping:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                die_with_parent(parent)
                # SIGINT stays blocked: Ctrl-C reaches all, and the parent passes it on.
                signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
                _run(work, number)
            workers[pid] = number, time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)

    before = [signal.signal(number, stop) for number in SIGNALS]
    quick_deaths = 0
    try:
        for number in range(count):
            start(number)
        while workers:
            for pid in [pid for pid in workers if has_ended(pid)]:
                number, started = workers.pop(pid)
                if stopping:
                    continue
                LOGGER.error("Worker %d (process %d) died; another takes its place", number, pid)
                quick = time.monotonic() - started < QUICK_DEATH
                quick_deaths = quick_deaths + 1 if quick else 0
                if quick_deaths > MOST_QUICK_DEATHS:
                    stop()
                else:
                    start(number)
            tend()
            time.sleep(0.1)
    finally:
        stop()  # what is left of them, should something have failed here
        for number, handler in zip(SIGNALS, before):
            signal.signal(number, handler)
    if quick_deaths > MOST_QUICK_DEATHS:
        raise WorkersDied("The workers die as fast as they are started; the log says why.")


def _run(work: Callable[[int], None], number: int) -> None:
    # Whatever happens, the worker ends here, and never in the parent's code.
    status = 1
    try:
        work(number)
        status = 0
    except BaseException:
        LOGGER.exception("Worker %d failed", number)
    finally:
        try:
            logging.shutdown()
            sys.stdout.flush()
        finally:
            os._exit(status)


if __name__ == "__main__":
    os.setsid()
    die_with_parent(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
