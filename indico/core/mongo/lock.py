"""
A lock in MongoDB. One process at a time holds it. If that process dies, the lock is released after LEASE.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bson.objectid import ObjectId
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError

LEASE = 30  # seconds


class Locked(Exception):
    """Another process holds the lock. The message is a sentence for the terminal."""


@contextmanager
def hold_lock(collection: Collection[dict[str, Any]]) -> Iterator[None]:
    """Hold the lock of this collection, its document `lock`. Raises Locked if another process holds it."""
    holder = ObjectId()
    lease = [{"$set": {"holder": holder, "until": {"$add": ["$$NOW", LEASE * 1000]}}}]
    with suppress(DuplicateKeyError):  # the document exists: held, or left by a process that died
        collection.insert_one({"_id": "lock"})
    free = {"_id": "lock", "$expr": {"$lt": ["$until", "$$NOW"]}}  # a missing field is less than any time
    if not collection.update_one(free, lease).matched_count:
        raise Locked(f"Another process holds the lock. If it died, try again in {LEASE} seconds.")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE / 5):
            with suppress(PyMongoError):  # it is tried again before the lease ends
                collection.update_one({"_id": "lock", "holder": holder}, lease)

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        collection.delete_one({"_id": "lock", "holder": holder})
