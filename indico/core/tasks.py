"""
Tasks that run beside the code that starts them, and the outcome of a call that may be awaitable.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine, Generator
from typing import Any

from tornado.ioloop import IOLoop


class _Later:
    def __repr__(self) -> str:
        return "LATER"


LATER = _Later()  # the outcome of an action that will call `respond` itself
_running: set[asyncio.Task[Any]] = set()


def get_loop() -> asyncio.AbstractEventLoop:
    """The current event loop, which need not run yet."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
        return loop


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """
    Start a coroutine on the current event loop, which need not run yet. The task is kept until it is done:
    asyncio itself keeps weak references only.
    """
    task = get_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


class Prompt:
    """
    A coroutine that runs in the task that awaits it. If nothing awaits it by the next turn of the loop, it
    runs as a task of its own.
    """

    __slots__ = ("_coroutine", "_handle", "_task")

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine: Coroutine[Any, Any, Any] | None = coroutine
        self._handle = get_loop().call_soon(self._start)

    def _start(self) -> None:
        assert self._coroutine is not None
        self._task = spawn(self._coroutine)
        self._coroutine = None

    def __await__(self) -> Generator[Any, None, Any]:
        coroutine, self._coroutine = self._coroutine, None
        if coroutine is None:
            return self._task.__await__()
        self._handle.cancel()
        return coroutine.__await__()


async def await_outcome(outcome: Any) -> Any:
    """
    What a call of an action resulted in: an awaitable is awaited and its result counts, None included. None
    from a plain function becomes LATER.
    """
    if inspect.isawaitable(outcome):
        return await outcome
    return LATER if outcome is None else outcome
