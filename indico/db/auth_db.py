"""
Keys: which of them are valid, for which user, and with which roles. All times are in UTC milliseconds.

The first half of a key is the same for all keys of a user. Each user has one document, found by the digest of
the first half. Keys themselves are never stored.

    {key: "sha256:" + digest of the first half, secret: digest of the login's key, generation, user_id, login,
     roles: [...], keys: [API keys: see `indico.db.key_db`]}

The second half of a login's key belongs to one generation (see `indico.utils.auth.auth_utils.user_hash`). A
logout starts the next generation: it replaces `secret` and removes `login`. Every update is atomic and names
the secret, so an operation that races with a logout can't make the old key valid again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from pymongo.errors import DuplicateKeyError

from indico import config, db
from indico.core.mongo import key_cache
from indico.core.mongo.drivers import by_majority
from indico.db import Document, current_time, mongo
from indico.error import InvalidValue, NotFound

DIGEST = "sha256:"  # prefix of stored digests
MAX_ROLES = 20  # of a user, and of a key
ROLE = re.compile(r"[\w.:-]{1,50}")

db.index("auth", "key", unique=True)
if config.KEY_CACHE:  # removes the documents that indico.core.mongo.key_cache writes
    db.index("auth", "beat", sparse=True, expireAfterSeconds=60)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def query_user(key: str) -> Document:
    """Return the query for the document of the user who has this key, or has had it."""
    return {"key": DIGEST + digest(key[: len(key) // 2])}


def query_login(key: str) -> Document:
    """Return the query for the same document while the key is that of the user's current generation."""
    return {**query_user(key), "secret": digest(key)}


@mongo
async def save_key(key: str, user_id: str) -> bool:
    """
    Make a login's key valid for the user, for KEY_LIFETIME from now. Returns False, and changes nothing, if
    the key's generation has ended.
    """
    set_login = {"$set": {"user_id": user_id, "login": current_time()}}
    insert = {**set_login, "$setOnInsert": {"generation": 0}}
    try:
        await db.mongodb.auth.update_one(query_login(key), insert, upsert=True)
    except DuplicateKeyError:  # the document is of another generation, or was inserted at the same moment
        return bool((await db.mongodb.auth.update_one(query_login(key), set_login)).matched_count)
    return True


@mongo
async def get_user_id(key: str) -> Document | None:
    """
    Return the owner of a key: a document with `_id`, `user_id`, `generation`, `roles`, `expires`, `name` and
    `used`. `name` is None for the key of a login. `roles` contains only roles that the user has now. Returns
    None if the key is not valid.
    """
    secret = digest(key)
    fields: Document = dict.fromkeys(("user_id", "secret", "generation", "login", "roles"), 1)
    fields["keys"] = {"$elemMatch": {"secret": secret}}
    document = await db.mongodb.auth.find_one(query_user(key), projection=fields)
    if document is None or "user_id" not in document:
        return None
    roles = document.get("roles", [])
    if document.get("keys"):
        [entry] = document["keys"]
        entry["roles"] = [role for role in entry["roles"] if role in roles]
    elif document["secret"] == secret and "login" in document:
        expires = document["login"] + int(config.KEY_LIFETIME * 1000)
        entry = {"roles": roles, "expires": expires, "name": None, "used": None}
    else:
        return None
    if entry["expires"] is not None and entry["expires"] <= current_time():
        return None
    return {**entry, **{name: document[name] for name in ("_id", "user_id", "generation")}}


@mongo
async def find_document(key: str) -> Document | None:
    """Return the whole document of the user who has this key, or has had it."""
    return await db.mongodb.auth.find_one(query_user(key))


@mongo
async def end_key(key: str, next_key: str, also: Iterable[str] = ()) -> bool:
    """
    End a login's key permanently, and remove the fields `also`. The next key is `next_key`. Returns False if
    the key had already ended.
    """
    unset = dict.fromkeys(("login", *also), "")
    change = {"$set": {"secret": digest(next_key)}, "$inc": {"generation": 1}, "$unset": unset}
    result = await by_majority(db.mongodb.auth).update_one(query_login(key), change)
    return bool(result.matched_count)


@mongo
async def set_roles(user_id: str, roles: Iterable[str]) -> None:
    """
    Set the roles of a user, such as `["admin"]`. The user's API keys lose roles that are not among them.
    Raises NotFound for a user who has never logged in or was removed.
    """
    from indico.utils.auth.auth_utils import user_hash  # which imports this module

    query = {**query_user(user_hash(user_id)), "user_id": user_id}
    document = await by_majority(db.mongodb.auth).find_one_and_update(
        query, {"$set": {"roles": check_roles(roles)}}, projection={"_id": 1}
    )
    if document is None:
        raise NotFound("user")
    key_cache.forget(document["_id"])


def check_roles(roles: Iterable[str]) -> list[str]:
    """Return the roles, each once. Raises InvalidValue, and TypeError for a string."""
    if isinstance(roles, str):
        raise TypeError("roles are a list")
    unique = sorted(set(roles))
    if len(unique) > MAX_ROLES or not all(map(ROLE.fullmatch, unique)):
        raise InvalidValue(f"roles should be at most {MAX_ROLES} names of letters, digits and ._:-")
    return unique
