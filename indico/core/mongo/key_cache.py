"""
The key cache: whose key a digest is, kept for KEY_CACHE seconds, so that few requests need to ask MongoDB.

A logout in this process counts at once. A change stream tells of logouts in other processes within a second,
if MongoDB is a replica set or a sharded cluster. While the stream is silent the cache is not used. A single
server has no change streams: there a key that another process has ended opens this one until its entry
expires.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from indico import config
from indico.core.log import LOGGER
from indico.error import MongoError, Unavailable

Document = dict[str, Any]
Watch = Callable[[str, list[Document], int], AsyncIterator[Document | None]]  # `indico.db.watch`

MAX_KEYS = 100_000  # about 80 MB
MAX_SILENCE = 1  # seconds without a sign of life from the stream
RETRY_PAUSE = 1  # seconds before a stream that ended is opened again
HEARTBEAT_MS = 250  # after which the stream gives a sign of life, though nothing has changed
# Logouts are updates that set `secret`; logins don't set it. Every other change was made by another program,
# and then the whole cache is cleared.
LOGOUTS = {
    "$or": [
        {"operationType": {"$nin": ["insert", "update"]}},
        {"updateDescription.updatedFields.secret": {"$exists": True}},
    ]
}

_documents: dict[bytes, tuple[float, Document]] = {}  # by the key's digest: (when it expires, the document)
_digests: dict[Any, bytes] = {}  # the same digests, by the documents' _ids
_trusted_until = 0.0  # by time.monotonic
_version = 0  # how often something was forgotten


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def find(key: str) -> Document | None:
    """The document of a key, as `auth_db.get_user_id` returned it, if it is in the cache and valid."""
    now = time.monotonic()
    if now >= _trusted_until or not _documents:
        return None
    expires, document = _documents.get(_digest(key), (0.0, None))
    return document if now < expires else None


def get_version() -> int:
    """The cache's version, to be read before MongoDB is asked for what is passed to `remember`."""
    return _version


def remember(key: str, document: Document, version: int) -> None:
    """
    Keep the document of a valid key. Does nothing if something was forgotten since `version`: it may have
    been this key.
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
    """Forget the document with this `_id`."""
    global _version
    _version += 1
    _documents.pop(_digests.pop(identity, b""), None)


def forget_all() -> None:
    """Forget everything, and keep nothing until the stream gives a sign of life."""
    global _version, _trusted_until
    _version += 1
    _trusted_until = 0.0
    _documents.clear()
    _digests.clear()


async def follow_logouts(watch: Watch) -> None:
    """Follow other processes' logouts until cancelled, or until it turns out that MongoDB has no streams."""
    global _trusted_until
    followed = False
    while True:
        try:
            async for change in watch("auth", [{"$match": LOGOUTS}], HEARTBEAT_MS):
                if change is not None and change["operationType"] == "update":
                    forget(change["documentKey"]["_id"])
                elif change is not None:
                    forget_all()
                followed = True
                _trusted_until = time.monotonic() + MAX_SILENCE
        except (MongoError, Unavailable) as error:
            if isinstance(error, MongoError) and not followed:
                LOGGER.warning(
                    "KEY_CACHE: logouts in other processes can't be followed (%s)", error.__cause__
                )
                _trusted_until = math.inf
                return
            forget_all()  # the stream may have lost its place; a new one is opened
            await asyncio.sleep(RETRY_PAUSE)
