"""
The queue of the callers of a pool.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Generic, TypeVar

from indico.error import Unavailable

T = TypeVar("T")


class Queue(Generic[T]):
    """Items that one caller at a time uses. If none is free, callers wait in turn, `limit` at most."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.free: list[T] = []
        self.waiting: deque[asyncio.Future[T]] = deque()

    async def take(self) -> T:
        """Return an item, which the caller puts back. Raises Unavailable if too many callers wait."""
        if self.free:
            return self.free.pop()
        if len(self.waiting) >= self.limit:
            raise Unavailable("The server is busy")
        place: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.waiting.append(place)
        try:
            return await place
        except asyncio.CancelledError:
            if not place.cancelled():  # it got an item at the same moment
                self.put(place.result())
            elif place in self.waiting:
                self.waiting.remove(place)
            raise

    def put(self, item: T) -> None:
        """Pass the item to the caller that waits longest."""
        while self.waiting:
            place = self.waiting.popleft()
            if not place.done():
                place.set_result(item)
                return
        self.free.append(item)
