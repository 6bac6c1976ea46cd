"""
Functions that tests run in the processes of `compute`. The module imports little, so that these start fast.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from indico.error import MissingField

loaded: list[int] = []  # pids of processes that have called `load`


def load() -> None:
    loaded.append(os.getpid())


def load_broken() -> None:
    raise RuntimeError("the model is missing")


def load_once_broken() -> None:
    """Fail in the first process that calls it."""
    mark = Path(os.environ["COMPUTE_MARK"])
    if not mark.exists():
        mark.touch()
        raise RuntimeError("the model is missing")
    load()


def describe() -> dict[str, Any]:
    """What a process is: its pid, its niceness, and the pids that the hook has left."""
    return {"pid": os.getpid(), "nice": os.nice(0), "loaded": loaded}


def add(first: int, second: int) -> int:
    return first + second


def burn(seconds: float) -> int:
    """Compute for so long. Returns the pid."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


def hold(count: int) -> int:
    """Compute in C without a pause, in which no other thread of Python runs."""
    return sum(range(count))


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    sys.exit(3)


def fail(kind: str) -> Any:
    if kind == "missing":
        raise MissingField("text")
    if kind == "value":
        raise ValueError("a detail")
    if kind == "unpicklable":
        raise Unpicklable("a", "b")
    return lambda: None


class Unpicklable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)
