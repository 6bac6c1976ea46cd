"""
A lock that one process at a time holds. If its holder dies, it is free again when the lease ends.
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
    """Another process holds the lock: a sentence."""


@contextmanager
def hold_lock(collection: Collection[dict[str, Any]]) -> Iterator[None]:
    """Hold the lock of this collection, its document `lock`. Raises Locked while another process does."""
    holder = ObjectId()
    lease = [{"$set": {"holder": holder, "until": {"$add": ["$$NOW", LEASE * 1000]}}}]
    with suppress(DuplicateKeyError):  # another process holds it, or died while it did
        collection.insert_one({"_id": "lock"})
    free = {"_id": "lock", "$expr": {"$lt": ["$until", "$$NOW"]}}  # a missing field is less than any time
    if not collection.update_one(free, lease).matched_count:
        raise Locked(f"Another process is at it. If it died, try again in {LEASE} seconds.")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE / 5):
            with suppress(PyMongoError):  # there are more attempts before the lease ends
                collection.update_one({"_id": "lock", "holder": holder}, lease)

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        collection.delete_one({"_id": "lock", "holder": holder})
