"""
The key cache: keeps the owners of valid keys for KEY_CACHE seconds, so that few requests query MongoDB.

A logout in this process takes effect at once. One in another process takes effect within a second: a change
stream reports it. To know that the stream is up to date, each process writes a document of its own, the beat,
into the same collection. When the stream reports a beat, it has reported everything that was acknowledged
before this beat was written. The cache is used until one second after that. So it is not used while the
stream is silent, or reads from a member that is isolated from the majority.

A standalone server has no change streams. There the cache is not used.
"""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import inspect
import math
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Any

from pymongo.read_concern import ReadConcern

from indico import config
from indico.core.log import LOGGER
from indico.core.mongo.drivers import Collection, Database, by_majority
from indico.core.mongo.helper import bounded, wait_for
from indico.core.mongo.updates import Document
from indico.core.startup import StartupTask
from indico.core.tasks import spawn
from indico.error import IndicoError

MAX_KEYS = 100_000  # about 80 MB
MAX_AGE = 1  # seconds since the last beat that the stream reported was begun
BEAT_PAUSE = 0.3  # seconds between beats
MAX_SILENCE = 3  # seconds without a beat until the stream is reopened
HEARTBEAT_MS = 250  # between heartbeats of the stream when there are no changes
NO_STREAMS = 40573  # error code of a standalone server
BEAT = "beat:"  # prefix of a beat's _id
# Logins and uses of API keys change these fields alone, and are not reported.
HARMLESS = r"^(user_id|login|keys\.\d+\.used)$"

_owners: dict[bytes, tuple[float, Document]] = {}  # digest of a key: (expiry time, its owner)
_digests: dict[Any, set[bytes]] = {}  # _id of an owner: digests of the keys
_trusted_until = 0.0  # time.monotonic
_version = 0  # counts removals


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def find(key: str) -> Document | None:
    """Return the owner of a key, as `auth_db.get_user_id` does, or None if it is not in the cache."""
    now = time.monotonic()
    if now >= _trusted_until or not _owners:
        return None
    expires, owner = _owners.get(_digest(key), (0.0, None))
    return owner if now < expires else None


def get_version() -> int:
    """Return the version to pass to `remember`. Call this before querying MongoDB for the owner."""
    return _version


def remember(key: str, owner: Document, version: int) -> None:
    """
    Keep the owner of a valid key. Does nothing if an entry was removed after `version` was read, because it
    may have been this key.
    """
    now = time.monotonic()
    if now >= _trusted_until or version != _version:
        return
    if len(_owners) >= MAX_KEYS:
        forget(next(iter(_digests)))
    digest = _digest(key)
    expires = math.inf if owner["expires"] is None else now + owner["expires"] / 1000 - time.time()
    _owners[digest] = min(now + config.KEY_CACHE, expires), owner
    _digests.setdefault(owner["_id"], set()).add(digest)


def forget(identity: Any) -> None:
    """Remove all keys of the owner with this `_id`."""
    global _version
    _version += 1
    for digest in _digests.pop(identity, ()):
        del _owners[digest]


def forget_all() -> None:
    """Clear the cache, and don't use it until the stream reports the next beat."""
    global _version, _trusted_until
    _version += 1
    _trusted_until = 0.0
    _owners.clear()
    _digests.clear()


async def follow_logouts(get_database: Callable[[], Database], task: StartupTask) -> None:
    """Follow other processes' logouts until cancelled. Returns if MongoDB has no change streams."""
    beat = BEAT + secrets.token_hex(16)
    beating = None
    try:
        while True:
            try:
                async with aclosing(watch(get_database()["auth"], make_pipeline(beat))) as changes:
                    await anext(changes)  # it is open
                    task.succeed()
                    beating = beating or spawn(write_beats(get_database, beat))
                    await follow(changes, beat)
            except Exception as error:
                forget_all()  # changes may have been missed
                if getattr(error.__cause__, "code", None) == NO_STREAMS:
                    LOGGER.warning("KEY_CACHE is not used: no change stream (%s)", error.__cause__)
                    return task.succeed()
                await asyncio.sleep(task.fail(error))
            finally:
                forget_all()
    finally:
        if beating is not None:
            beating.cancel()


async def watch(collection: Collection, pipeline: list[Document]) -> AsyncGenerator[Document | None]:
    """
    Yield the changes of a collection. Yields None first, and with each heartbeat without a change. Ends when
    the collection is dropped. Raises Unavailable, and MongoError if MongoDB is a standalone server.
    """
    majority = collection.with_options(read_concern=ReadConcern("majority"))  # whatever the URI says
    opening = majority.watch(pipeline, max_await_time_ms=HEARTBEAT_MS)
    stream = await bounded(opening) if inspect.isawaitable(opening) else opening
    try:
        await bounded(stream.__aenter__())  # Motor opens the stream here
        yield None
        while stream.alive:
            yield await bounded(stream.try_next())
    finally:
        with suppress(Exception):  # MongoDB may be unreachable
            await wait_for(stream.close(), 1)


def make_pipeline(beat: str) -> list[Document]:
    """Select this process's beats, and all changes but HARMLESS ones and those of other processes' beats."""
    changed = {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}}
    is_harmless = {"$regexMatch": {"input": "$$field.k", "regex": HARMLESS}}
    logouts = {
        "documentKey._id": {"$not": {"$regex": "^" + BEAT}},
        "operationType": {"$ne": "insert"},
        "$or": [
            {"operationType": {"$ne": "update"}},
            {"updateDescription.removedFields.0": {"$exists": True}},
            {"updateDescription.truncatedArrays.0": {"$exists": True}},
            {
                "$expr": {
                    "$anyElementTrue": {
                        "$map": {"input": changed, "as": "field", "in": {"$not": [is_harmless]}}
                    }
                }
            },
        ],
    }
    return [{"$match": {"$or": [{"documentKey._id": beat, "operationType": {"$ne": "delete"}}, logouts]}}]


async def follow(changes: AsyncGenerator[Document | None], beat: str) -> None:
    """Apply the changes. Returns when there was no beat for MAX_SILENCE."""
    global _trusted_until
    forget_all()  # lookups that began before the stream was open may be outdated
    last_beat = time.monotonic()
    async for change in changes:
        identity = change.get("documentKey", {}).get("_id") if change is not None else None
        if change is not None and identity == beat:
            fields = change.get("fullDocument") or change["updateDescription"]["updatedFields"]
            last_beat = time.monotonic()
            _trusted_until = fields["began"] + MAX_AGE
        elif change is not None and change["operationType"] == "update":
            forget(identity)
        elif change is not None:
            forget_all()
        if time.monotonic() > last_beat + MAX_SILENCE:
            return


async def write_beats(get_database: Callable[[], Database], beat: str) -> None:
    """Write beats until cancelled. A TTL index removes the document later."""
    while True:
        # `began` is this process's own clock, and only this process reads it.
        fields = {"began": time.monotonic(), "beat": datetime.datetime.now(datetime.UTC)}
        auth = by_majority(get_database()["auth"])
        with suppress(IndicoError):  # without beats, the cache is not used
            await bounded(
                auth.update_one({"key": beat}, {"$set": fields, "$setOnInsert": {"_id": beat}}, upsert=True)
            )
        await asyncio.sleep(BEAT_PAUSE)
