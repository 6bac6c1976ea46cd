"""
Tasks that run beside the code that starts them, and the outcome of a call that may be awaitable.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Coroutine
from typing import Any

from tornado.ioloop import IOLoop


class _Later:
    def __repr__(self) -> str:
        return "LATER"


LATER = _Later()  # the outcome of an action that will call `respond` itself
_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """
    Start a coroutine on the current event loop, which need not run yet. The task is kept until it is done:
    asyncio itself keeps weak references only.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = IOLoop.current().asyncio_loop  # type: ignore[attr-defined]
    task = loop.create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def await_outcome(outcome: Any) -> Any:
    """
    What a call of an action resulted in: an awaitable is awaited and its result counts, None included. None
    from a plain function becomes LATER.
    """
    if inspect.isawaitable(outcome):
        return await outcome
    return LATER if outcome is None else outcome
