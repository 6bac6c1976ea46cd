"""
Change streams.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from pymongo.read_concern import ReadConcern

from indico.core.mongo.drivers import Collection
from indico.core.mongo.helper import bounded, wait_for


async def watch(
    collection: Collection, pipeline: list[dict[str, Any]], heartbeat: int
) -> AsyncGenerator[dict[str, Any] | None]:
    """
    Yield the changes of a collection as they are made. Yields None first, and whenever there was no change
    for `heartbeat` milliseconds. Ends when the collection is dropped. Raises Unavailable, and MongoError if
    MongoDB has no change streams because it is a standalone server.
    """
    majority = collection.with_options(read_concern=ReadConcern("majority"))  # whatever the URI says
    opening = majority.watch(pipeline, max_await_time_ms=heartbeat)
    stream = await bounded(opening) if inspect.isawaitable(opening) else opening
    try:
        await bounded(stream.__aenter__())  # Motor opens the stream here
        yield None
        while stream.alive:
            yield await bounded(stream.try_next())
    finally:
        with suppress(Exception):  # MongoDB may be unreachable
            await wait_for(stream.close(), 1)
