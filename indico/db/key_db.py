"""
API keys: a list in the user's document of the collection `auth` (see `indico.db.auth_db`).

    keys: [{name, secret: digest of the key, roles, created, expires, used}]
"""

from __future__ import annotations

import secrets

from typing_extensions import TypedDict

from indico import db
from indico.core.mongo.drivers import by_majority
from indico.db import Document, current_time, mongo
from indico.db.auth_db import check_roles, digest, query_login, query_user
from indico.error import AuthError, InvalidValue, NotFound, shorten

MAX_KEYS = 100  # of a user
MAX_LIFETIME = 100 * 365 * 24 * 3600  # seconds


class NewKey(TypedDict):
    name: str
    key: str
    created: int  # UTC milliseconds, as all times here
    expires: int | None


class ListedKey(TypedDict):
    name: str
    roles: list[str]
    created: int
    expires: int | None
    used: int | None


@mongo
async def create_key(key: str, name: str, lifetime: int | None, roles: list[str]) -> NewKey:
    """
    Make an API key for the user who logged in with `key`, and return it: `{name, key, created, expires}`. It
    is valid for `lifetime` seconds, or until it is removed. Raises AuthError if `key` has ended, and
    InvalidValue if the user has MAX_KEYS keys or one of this name.
    """
    if not 1 <= len(name) <= 100:
        raise InvalidValue("name should be 1 to 100 characters")
    if lifetime is not None and not 1 <= lifetime <= MAX_LIFETIME:
        raise InvalidValue(f"lifetime should be 1 to {MAX_LIFETIME} seconds")
    new_key = key[: len(key) // 2] + secrets.token_hex(len(key) // 4)
    created = current_time()
    expires = None if lifetime is None else created + lifetime * 1000
    entry = {"name": name, "roles": check_roles(roles), "created": created, "expires": expires, "used": None}
    possible = {"keys.name": {"$ne": name}, f"keys.{MAX_KEYS - 1}": {"$exists": False}}
    change = {"$push": {"keys": {**entry, "secret": digest(new_key)}}}
    if (await db.mongodb.auth.update_one({**query_login(key), **possible}, change)).matched_count:
        return {"name": name, "key": new_key, "created": created, "expires": expires}
    document = await db.mongodb.auth.find_one(query_login(key))
    if document is None:
        raise AuthError()
    if len(document.get("keys", [])) >= MAX_KEYS:
        raise InvalidValue(f"A user has at most {MAX_KEYS} keys")
    raise InvalidValue(f"There is already a key with the name {shorten(name)}")


@mongo
async def list_keys(key: str) -> list[ListedKey]:
    """Return the API keys of the user who has `key`, without the keys themselves."""
    document = await db.mongodb.auth.find_one(query_user(key), projection={"keys": 1})
    entries = document.get("keys", []) if document else []
    return [{name: entry[name] for name in ListedKey.__annotations__} for entry in entries]  # type: ignore[misc]


@mongo
async def remove_key(key: str, name: str) -> None:
    """End the API key of this name, of the user who has `key`. Raises NotFound if there is none."""
    change = {"$pull": {"keys": {"name": name}}}
    result = await by_majority(db.mongodb.auth).update_one(query_user(key), change)
    if not result.modified_count:
        raise NotFound("key")


@mongo
async def end_key(key: str) -> None:
    """End this API key. Does nothing if it has ended."""
    change = {"$pull": {"keys": {"secret": digest(key)}}}
    await by_majority(db.mongodb.auth).update_one(query_user(key), change)


@mongo
async def record_use(key: str, hour: int) -> None:
    """Store that this API key was used in this hour."""
    unused = {"$elemMatch": {"secret": digest(key), "used": {"$ne": hour}}}
    await db.mongodb.auth.update_one({**query_user(key), "keys": unused}, {"$set": {"keys.$.used": hour}})


@mongo
async def export(user_id: str) -> Document:
    from indico.utils.auth.auth_utils import user_hash  # which imports this module

    hidden = dict.fromkeys(("_id", "key", "secret", "generation", "user_id", "keys.secret"), 0)
    return {"auth": await db.mongodb.auth.find_one(query_user(user_hash(user_id)), projection=hidden)}


db.on_export(export)
