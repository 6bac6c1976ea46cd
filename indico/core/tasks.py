"""
Background tasks, and calls whose result may be awaitable.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import aclosing
from typing import Any

from tornado.ioloop import IOLoop


class _Later:
    def __repr__(self) -> str:
        return "LATER"


LATER = _Later()  # the outcome of an action that calls `respond` later
_running: set[asyncio.Task[Any]] = set()


def get_loop() -> asyncio.AbstractEventLoop:
    """Return the current event loop. It need not be running yet."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        loop: asyncio.AbstractEventLoop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
        return loop


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """
    Start a coroutine on the current event loop. The loop need not be running yet. A reference to the task is
    kept until it is done, because asyncio itself keeps only weak references.
    """
    task = get_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


class Prompt:
    """
    Wraps a coroutine. It runs in the task that awaits it. If no task awaits it before the next iteration of
    the loop, it runs as a separate task. If its result is an async generator, that can be iterated over.
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

    async def __aiter__(self) -> AsyncIterator[Any]:
        """Iterate over the result, an async generator."""
        async with aclosing(await self) as values:
            async for value in values:
                yield value


async def await_outcome(outcome: Any) -> Any:
    """
    Return the outcome of a call of an action. If it is awaitable, await it and return the result, even None.
    If a plain function returned None, return LATER.
    """
    if inspect.isawaitable(outcome):
        return await outcome
    return LATER if outcome is None else outcome
