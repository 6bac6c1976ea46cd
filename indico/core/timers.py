"""
Deadlines: timers that many can share, because nearly all are given up before their time.

An event loop's own timer costs more the more of them there are, also of those that were cancelled: with
thousands of requests a second a tenth of a short one's time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from contextvars import Context

LOGGER = logging.getLogger("indico")
TICKS = 10  # a second; so a deadline is a tenth of a second late at most
FINE = 20  # seconds; a longer time may be late by a hundredth of it, as each tick in use takes some kilobytes

Group = set[Callable[[], object]]

_loop: asyncio.AbstractEventLoop | None = None  # whose the groups are
_groups: dict[int, Group] = {}  # by the tick at which they are called


def call_within(seconds: float, function: Callable[[], object]) -> Group:
    """
    Have the running loop call this once the time is over. Returns the group of those that are called at the
    same tick: discard the function from it, and it won't be.
    """
    global _loop, _groups
    loop = asyncio.get_running_loop()
    if loop is not _loop:
        _loop, _groups = loop, {}  # another loop's timers go on with its own
    width = 1 if seconds <= FINE else 2 ** math.ceil(math.log2(seconds / FINE))  # ticks
    tick = math.ceil((loop.time() + seconds) * TICKS / width) * width
    group = _groups.get(tick)
    if group is None:
        group = _groups[tick] = set()
        # In no context, which would be kept until then, with all that belongs to the request that is first.
        loop.call_at(tick / TICKS, _call, _groups, tick, context=Context())
    group.add(function)
    return group


def _call(groups: dict[int, Group], tick: int) -> None:
    group = groups.pop(tick)
    while group:
        try:
            group.pop()()
        except Exception:  # which is no reason for the others to miss their time
            LOGGER.exception("What was to be called at a deadline failed")
