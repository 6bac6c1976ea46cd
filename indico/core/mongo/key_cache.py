"""
The key cache: keeps the documents of valid keys for KEY_CACHE seconds, so that few requests query MongoDB.

A logout in this process takes effect at once. A logout in another process takes effect within a second, by a
change stream, if MongoDB is a replica set or a sharded cluster. While the stream is silent, the cache is not
used. A standalone server has no change streams: a key that another process has ended stays valid in this one
until its entry expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from indico import config
from indico.core.log import LOGGER
from indico.core.startup import StartupTask
from indico.error import MongoError, Unavailable

Document = dict[str, Any]
Watch = Callable[[str, list[Document], int], AsyncGenerator[Document | None]]  # `indico.db.watch`

MAX_KEYS = 100_000  # about 80 MB
MAX_SILENCE = 1  # seconds without a change or a heartbeat from the stream
NO_STREAMS = 40573  # code: change streams need a replica set
HEARTBEAT_MS = 250  # between heartbeats of the stream when there are no changes
# Logouts are updates that set `secret`; logins don't set it. All other changes come from other programs, and
# clear the whole cache.
LOGOUTS = {
    "$or": [
        {"operationType": {"$nin": ["insert", "update"]}},
        {"updateDescription.updatedFields.secret": {"$exists": True}},
    ]
}

_documents: dict[bytes, tuple[float, Document]] = {}  # digest of the key: (expiry time, document)
_digests: dict[Any, bytes] = {}  # _id of the document: digest of the key
_trusted_until = 0.0  # time.monotonic
_version = 0  # counts removals


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def find(key: str) -> Document | None:
    """Return the document of a key, as `auth_db.get_user_id` does, or None if the cache can't tell."""
    now = time.monotonic()
    if now >= _trusted_until or not _documents:
        return None
    expires, document = _documents.get(_digest(key), (0.0, None))
    return document if now < expires else None


def get_version() -> int:
    """Return the version to pass to `remember`. Call this before querying MongoDB for the document."""
    return _version


def remember(key: str, document: Document, version: int) -> None:
    """
    Keep the document of a valid key. Does nothing if an entry was removed after `version` was read, because
    it may have been this key.
    """
    now = time.monotonic()
    if now >= _trusted_until or version != _version:
        return
    if len(_documents) >= MAX_KEYS:
        forget(next(iter(_digests)))
    digest = _digest(key)
    expires = now + document["login"] / 1000 + config.KEY_LIFETIME - time.time()
    _documents[digest] = min(now + config.KEY_CACHE, expires), document
    _digests[document["_id"]] = digest


def forget(identity: Any) -> None:
    """Remove the document with this `_id`."""
    global _version
    _version += 1
    _documents.pop(_digests.pop(identity, b""), None)


def forget_all() -> None:
    """Clear the cache, and don't use it until the next heartbeat of the stream."""
    global _version, _trusted_until
    _version += 1
    _trusted_until = 0.0
    _documents.clear()
    _digests.clear()


async def follow_logouts(watch: Watch, task: StartupTask) -> None:
    """Follow other processes' logouts until cancelled. Returns if MongoDB has no change streams."""
    global _trusted_until
    while True:
        try:
            async with aclosing(watch("auth", [{"$match": LOGOUTS}], HEARTBEAT_MS)) as changes:
                async for change in changes:
                    if change is not None and change["operationType"] == "update":
                        forget(change["documentKey"]["_id"])
                    elif change is not None:
                        forget_all()
                    task.succeed()
                    _trusted_until = time.monotonic() + MAX_SILENCE
        except (MongoError, Unavailable) as error:
            if getattr(error.__cause__, "code", None) == NO_STREAMS:
                LOGGER.warning(
                    "KEY_CACHE: logouts in other processes can't be followed (%s)", error.__cause__
                )
                _trusted_until = math.inf
                return task.succeed()
            forget_all()  # changes may have been missed
            await asyncio.sleep(task.fail(error))
