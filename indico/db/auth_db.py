"""
Keys: which of them are valid, and for which user.

The first half of a key is the same for all keys of a user. The second half belongs to one generation (see
`indico.utils.auth.auth_utils.user_hash`). Each user has one document, found by the digest of the first half.
While the user is logged in, it is

    {key: "sha256:" + digest of the first half, secret: digest of the whole key, generation, user_id, login}

A logout starts the next generation: it replaces `secret` and removes `user_id` and `login`. Every update is
atomic and names the secret, so an operation that races with a logout can't make the old key valid again.
Keys themselves are never stored.
"""

from __future__ import annotations

import hashlib

from pymongo.errors import DuplicateKeyError

from indico import config, db
from indico.db import Document, current_time, mongo

DIGEST = "sha256:"  # prefix of stored digests

db.index("auth", "key", unique=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _current(key: str) -> Document:
    return {"key": DIGEST + _digest(key[: len(key) // 2]), "secret": _digest(key)}


@mongo
async def save_key(key: str, user_id: str) -> bool:
    """
    Make the key valid for the user, for KEY_LIFETIME from now. Returns False, and changes nothing, if the
    key's generation has ended.
    """
    change = {
        "$set": {"user_id": user_id, "login": current_time()},
        "$setOnInsert": {"generation": 0},
    }
    try:
        await db.mongodb.auth.update_one(_current(key), change, upsert=True)
    except DuplicateKeyError:  # the document is of another generation, or was inserted at the same moment
        result = await db.mongodb.auth.update_one(_current(key), change)
        return bool(result.matched_count)
    return True


@mongo
async def get_user_id(key: str) -> Document | None:
    """Return the document of a valid key, with `user_id` and `generation`. Returns None for other keys."""
    since = current_time() - int(config.KEY_LIFETIME * 1000)
    return await db.mongodb.auth.find_one({**_current(key), "login": {"$gt": since}})


@mongo
async def get_generation(key: str) -> int:
    """Return the current generation of a user. `key` is any key of that user."""
    document = await db.mongodb.auth.find_one({"key": _current(key)["key"]})
    return int(document["generation"]) if document else 0


@mongo
async def end_key(key: str, next_key: str) -> bool:
    """End the key permanently. The next one is `next_key`. Returns False if the key had already ended."""
    result = await db.mongodb.auth.update_one(
        _current(key),
        {
            "$set": {"secret": _digest(next_key)},
            "$inc": {"generation": 1},
            "$unset": {"user_id": "", "login": ""},
        },
    )
    return bool(result.matched_count)
