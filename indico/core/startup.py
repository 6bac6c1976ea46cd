"""
Start-up work that is tried again until it is done, while the server already serves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from indico.core.log import LOGGER
from indico.core.tasks import spawn
from indico.error import IndicoError, Unavailable

FIRST_PAUSE = 0.1  # seconds; each pause is twice as long as the one before
MAX_PAUSE = 5  # seconds, while something is not available
MAX_PAUSE_AFTER_REFUSAL = 60  # seconds, after any other failure: a person has to do something


class StartupTask:
    """
    Work that a server does when it starts. While it is not done, `missing` has its name, and
    `/health/ready` is 503. The first failure is logged, and the success after it.
    """

    def __init__(self, name: str, missing: set[str]) -> None:
        self.name = name
        self.tried = asyncio.Event()  # the first attempt has ended
        self._missing = missing
        self._pause = 0.0  # seconds, since the last attempt failed
        missing.add(name)

    async def run(self, attempt: Callable[[], Awaitable[object]]) -> None:
        """Call and await `attempt` until it raises no exception."""
        while True:
            try:
                await attempt()
            except Exception as error:
                await asyncio.sleep(self.fail(error))
            else:
                return self.succeed()

    def fail(self, error: Exception) -> float:
        """An attempt has failed. Returns the seconds to wait before the next one."""
        if not self._pause:
            text = error.message if isinstance(error, IndicoError) else repr(error)
            cause = f" ({error.__cause__!r})" if error.__cause__ is not None else ""
            LOGGER.warning("%s: %s%s. This is tried again until it succeeds", self.name, text, cause)
        limit = MAX_PAUSE if isinstance(error, Unavailable) else MAX_PAUSE_AFTER_REFUSAL
        self._pause = min(2 * self._pause or FIRST_PAUSE, limit)
        self.tried.set()
        return self._pause

    def succeed(self) -> None:
        """The work is done, or need not be done."""
        if self._pause:
            LOGGER.info("%s: done", self.name)
        self._pause = 0.0
        self._missing.discard(self.name)
        self.tried.set()


@asynccontextmanager
async def run_in_background(work: list[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Run these coroutines as tasks. Cancel them at the end."""
    tasks = [spawn(coroutine) for coroutine in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
