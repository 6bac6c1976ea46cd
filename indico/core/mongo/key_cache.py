"""
Key cache: whose key a digest is, remembered for KEY_CACHE seconds, so that few requests need ask MongoDB.

A logout in this process counts at once. Of one in another process a change stream tells within a second, if
MongoDB is a replica set or a sharded cluster. A single server has no such streams: there a key that was ended
by another process opens this one until its time is over. While a stream is silent nothing that is remembered
counts.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from typing import Any

from indico import config, db
from indico.db import Document, current_time
from indico.error import MongoError, Unavailable
from indico.utils import LOGGER

MOST_KEYS = 100_000  # some 80 MB
LONGEST_SILENCE = 1  # seconds of the stream
RETRY = 1  # seconds until a stream that ended is opened again
HEARTBEAT = 250  # milliseconds after which the stream speaks, though nothing has happened
# A login sets no other `secret`; all but logins and logouts is foreign, and then everything is forgotten.
LOGOUTS = {
    "$or": [
        {"operationType": {"$nin": ["insert", "update"]}},
        {"updateDescription.updatedFields.secret": {"$exists": True}},
    ]
}

_known: dict[bytes, tuple[float, Document]] = {}  # digest of the key: (until when, its document)
_digests: dict[Any, bytes] = {}  # the same digests, by the documents' _ids
_counts_until = 0.0  # until when all of it counts
_age = 0  # how often something was forgotten


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def find(key: str) -> Document | None:
    """The document of a key that is remembered and counts now, as `auth_db.get_user_id` gave it."""
    now = time.monotonic()
    if now >= _counts_until or not _known:
        return None
    until, document = _known.get(_digest(key), (0.0, None))
    return document if now < until else None


def get_age() -> int:
    """For `remember`; to be taken before MongoDB is asked."""
    return _age


def remember(key: str, document: Document, age: int) -> None:
    """Remember the document of a valid key, unless something was forgotten since: it could be this one."""
    now = time.monotonic()
    if now >= _counts_until or age != _age:
        return
    if len(_known) >= MOST_KEYS:
        forget(next(iter(_digests)))
    digest = _digest(key)
    expires = now + document["login"] / 1000 + config.KEY_LIFETIME - current_time() / 1000
    _known[digest] = min(now + config.KEY_CACHE, expires), document
    _digests[document["_id"]] = digest


def forget(identity: Any) -> None:
    """Forget the document with this `_id`."""
    global _age
    _age += 1
    _known.pop(_digests.pop(identity, b""), None)


def forget_all() -> None:
    """Forget everything, and remember nothing until `watch` is heard again."""
    global _age, _counts_until
    _age += 1
    _counts_until = 0.0
    _known.clear()
    _digests.clear()


async def watch() -> None:
    """Hear of what other processes end, until this is cancelled or there is no hearing of it."""
    global _counts_until
    heard = False
    while True:
        try:
            async for change in db.watch("auth", [{"$match": LOGOUTS}], HEARTBEAT):
                if change is not None and change["operationType"] == "update":
                    forget(change["documentKey"]["_id"])
                elif change is not None:
                    forget_all()
                heard = True
                _counts_until = time.monotonic() + LONGEST_SILENCE
        except (MongoError, Unavailable) as error:
            if isinstance(error, MongoError) and not heard:
                LOGGER.warning("KEY_CACHE: other processes' logouts are not heard of (%s)", error.__cause__)
                _counts_until = math.inf
                return
            forget_all()  # one that was heard may have lost its place, and another is opened
            await asyncio.sleep(RETRY)
