"""
Keys: who may come in.

A key's first half is the same for all keys of a user, and its second half is that of one generation (see
`indico.utils.auth.auth_utils.user_hash`). So all that concerns a user's keys is one document, found by
the digest of the first half, and every step on it is atomic: while the user is logged in

    {key: "sha256:" + digest of the first half, secret: digest of the whole key, generation, user_id, login}

and after a logout, which moves the user to the next generation, without `user_id` and `login`. Whatever
races with the logout then finds another secret, and the old key stays dead. Clear keys are never stored.
"""

from __future__ import annotations

import hashlib

from pymongo.errors import DuplicateKeyError

from indico import config, db
from indico.db import Document, current_time, mongo

DIGEST = "sha256:"  # what a stored digest begins with

db.index("auth", "key", unique=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _current(key: str) -> Document:
    return {"key": DIGEST + _digest(key[: len(key) // 2]), "secret": _digest(key)}


@mongo
async def save_key(key: str, user_id: str) -> bool:
    """
    Let the key open the server to the user, for KEY_LIFETIME from now. False, and nothing is changed, when
    the key belongs to a generation that has ended.
    """
    change = {
        "$set": {"user_id": user_id, "login": current_time()},
        "$setOnInsert": {"generation": 0},
    }
    try:
        await db.mongodb.auth.update_one(_current(key), change, upsert=True)
    except DuplicateKeyError:  # there is a document, of another generation or made this very moment
        result = await db.mongodb.auth.update_one(_current(key), change)
        return bool(result.matched_count)
    return True


@mongo
async def get_user_id(key: str) -> Document | None:
    """The document of a key that is valid now, with `user_id` and `generation`, or None."""
    since = current_time() - int(config.KEY_LIFETIME * 1000)
    return await db.mongodb.auth.find_one({**_current(key), "login": {"$gt": since}})


@mongo
async def get_generation(key: str) -> int:
    """The generation that the user of this key, which may be any of theirs, is in."""
    document = await db.mongodb.auth.find_one({"key": _current(key)["key"]})
    return int(document["generation"]) if document else 0


@mongo
async def end_key(key: str, next_key: str) -> bool:
    """End the key for good and expect `next_key`. False when it had ended already."""
    result = await db.mongodb.auth.update_one(
        _current(key),
        {
            "$set": {"secret": _digest(next_key)},
            "$inc": {"generation": 1},
            "$unset": {"user_id": "", "login": ""},
        },
    )
    return bool(result.matched_count)
