"""
What MongoDB itself has done for a request, by its profiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo.database import Database


@contextmanager
def record_operations(database: Database[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """
    Yield a list that has the operations on the database when the block has ended: their documents of
    system.profile, each with its `collection`.
    """
    found: list[dict[str, Any]] = []
    database.command("profile", 2)
    try:
        yield found
    finally:
        database.command("profile", 0)
    for document in database["system.profile"].find(sort=[("$natural", 1)]):
        collection = document["ns"].removeprefix(f"{database.name}.")
        if not collection.startswith(("$cmd", "system.")):
            found.append({**document, "collection": collection})
    database.drop_collection("system.profile")
