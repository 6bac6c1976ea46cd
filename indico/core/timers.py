"""
Timers for timeouts of requests. Nearly all of them are cancelled before they expire.

asyncio's timers get slower as they pile up, cancelled ones included. At thousands of requests a second they
took a tenth of the time of a short request.
"""

from __future__ import annotations

import asyncio
import functools
import math
from collections.abc import Callable
from contextvars import Context

from indico.core.log import LOGGER

TICKS_PER_SECOND = 10  # a timer is at most a tenth of a second late
# Each tick in use takes memory, so longer timers share ticks and may be late by a hundredth of their time.
MAX_EXACT_SECONDS = 20


class Timer:
    """A scheduled call."""

    __slots__ = ("_callback", "_tick")

    def __init__(self, callback: Callable[[], object], tick: set[Timer]) -> None:
        self._callback = callback
        self._tick = tick  # all timers of the same tick
        tick.add(self)

    def cancel(self) -> None:
        """Cancel the call. Does nothing after the call."""
        self._tick.discard(self)

    def call(self) -> None:
        try:
            self._callback()
        except Exception:
            LOGGER.exception("The callback of a timer failed")


_loop: asyncio.AbstractEventLoop | None = None  # the loop that the ticks belong to
_ticks: dict[int, set[Timer]] = {}  # the keys are the loop's time in ticks


def call_after(seconds: float, callback: Callable[[], object]) -> Timer:
    """Schedule a call of `callback` on the running loop."""
    global _loop, _ticks
    loop = asyncio.get_running_loop()
    if loop is not _loop:
        _loop, _ticks = loop, {}  # the timers of another loop keep their ticks
    width = _get_width(seconds)
    number = math.ceil((loop.time() + seconds) * TICKS_PER_SECOND / width) * width
    tick = _ticks.get(number)
    if tick is None:
        tick = _ticks[number] = set()
        # In an empty context. Otherwise the first request's context would stay in memory until the tick.
        loop.call_at(number / TICKS_PER_SECOND, _call_all, _ticks, number, context=Context())
    return Timer(callback, tick)


@functools.lru_cache(100)
def _get_width(seconds: float) -> int:
    """Return how many ticks timers of this time share."""
    return 1 if seconds <= MAX_EXACT_SECONDS else 2 ** math.ceil(math.log2(seconds / MAX_EXACT_SECONDS))


def _call_all(ticks: dict[int, set[Timer]], number: int) -> None:
    tick = ticks.pop(number)
    while tick:
        tick.pop().call()
