"""
Functions that start and end keys.
"""

from __future__ import annotations

import indico.db.auth_db as AuthDB
import indico.db.key_db as KeyDB
from indico import db
from indico.core.mongo import key_cache
from indico.db import Document
from indico.utils.auth.auth_utils import user_hash


async def start_key(user_id: str, generation: int) -> str | None:
    """Make the generation's key valid and return it. Returns None if the generation has ended."""
    key = user_hash(user_id, generation)
    return key if await AuthDB.save_key(key, user_id) else None


async def end_key(key: str, owner: Document) -> None:
    """End a valid key permanently. `owner` is what `AuthDB.get_user_id` returned for it."""
    next_key = user_hash(owner["user_id"], owner["generation"] + 1)
    try:
        await (AuthDB.end_key(key, next_key) if owner["name"] is None else KeyDB.end_key(key))
    finally:
        key_cache.forget(owner["_id"])


async def end_all_keys(user_id: str, also: tuple[str, ...] = ()) -> None:
    """End the user's key and API keys permanently. Removes the fields `also` of the user's document."""
    has_ended = False
    while not has_ended and (document := await AuthDB.find_document(user_hash(user_id))):
        key, next_key = (user_hash(user_id, document["generation"] + number) for number in (0, 1))
        try:
            has_ended = await AuthDB.end_key(key, next_key, ("keys", *also))  # False after a logout
        finally:
            key_cache.forget(document["_id"])


async def remove_user(user_id: str) -> None:
    """
    Delete the user's data in all collections, and end the user's keys. Only two digests and the number of the
    generation stay. If MongoDB fails meanwhile, the key is still valid, and the request can be repeated.
    """
    # In this order, a login that runs in between either creates a new user, or starts again, because its
    # generation has ended.
    await db.remove_data(user_id)
    await end_all_keys(user_id, ("user_id", "roles"))
