"""
What every peer does for a request, whatever framework it is of: the same checks, the same operations on
MongoDB and the same answers as our server.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from typing import Any

from bson import ObjectId
from pymongo import ReturnDocument

try:  # of the extra `fast`, as our server has it
    import orjson
except ImportError:
    orjson = None  # type: ignore[assignment]

PORT = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else 0
MONGODB = os.environ.get("MONGODB", "")  # it says w=majority and journal=true
DRIVER = os.environ.get("MONGODB_DRIVER", "motor")
DATABASE = os.environ.get("MONGODB_DATABASE", "bench")
SALT = os.environ.get("USER_SALT", "")
TOKEN = os.environ.get("DEV_TOKEN", "")
KEY_LIFETIME = 30 * 24 * 3600  # seconds

CONTENT_TYPE = "application/json; charset=UTF-8"
HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}
ALL_HEADERS = {"Content-Type": CONTENT_TYPE, **HEADERS}

REQUIRED = {"name": "", "phone": "", "email": "", "birthday": 0, "profilePic": ""}


class Refused(Exception):
    """What the client is told instead."""

    def __init__(self, message: str, code: int) -> None:
        self.message = message
        self.code = code


# HTTP


def _default(value: Any) -> Any:
    if isinstance(value, ObjectId):
        return str(value)
    raise TypeError(value)


if orjson is None:
    _encode = json.JSONEncoder(ensure_ascii=False, default=_default).encode

    def envelope(data: Any, code: int = 200) -> bytes:
        return _encode({"status": code, "data": data}).encode()

    def parse(body: bytes) -> Any:
        try:
            return json.loads(body)
        except ValueError as error:
            raise Refused("No JSON object could be decoded.", 400) from error
else:

    def envelope(data: Any, code: int = 200) -> bytes:
        return orjson.dumps({"status": code, "data": data}, _default)

    def parse(body: bytes) -> Any:
        try:
            return orjson.loads(body)
        except ValueError as error:
            raise Refused("No JSON object could be decoded.", 400) from error


def take(body: bytes, *fields: tuple[str, type]) -> list[Any]:
    """These fields of a JSON body, in this order."""
    data = parse(body)
    if not isinstance(data, dict):
        raise Refused("No JSON object could be decoded.", 400)
    values = []
    for field, kind in fields:
        if field not in data:
            raise Refused(f"{field} field was not provided", 400)
        if not isinstance(data[field], kind):
            raise Refused(f"Field {field} should be {kind.__name__}", 400)
        values.append(data[field])
    return values


def check_key(key: str | None) -> str:
    """The key, if it has the form of one."""
    if key is None or not re.fullmatch("[0-9a-f]{56}", key):
        raise Refused("User not authenticated", 401)
    return key


# MongoDB


def connect() -> Any:
    """The database. To be called on the event loop that uses it."""
    if DRIVER == "pymongo":
        from pymongo import AsyncMongoClient

        return AsyncMongoClient(MONGODB)[DATABASE]
    from motor.motor_asyncio import AsyncIOMotorClient

    return AsyncIOMotorClient(MONGODB)[DATABASE]


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def stored_key(key: str) -> dict[str, Any]:
    """The document of a key, as `indico.db.auth_db` looks for it."""
    return {"key": "sha256:" + digest(key[:28]), "secret": digest(key)}


def current_time() -> int:
    return time.time_ns() // 1_000_000


async def find_user_id(database: Any, key: str) -> str:
    """The first operation: whose key is it?"""
    since = current_time() - KEY_LIFETIME * 1000
    document = await database.auth.find_one({**stored_key(key), "login": {"$gt": since}})
    if document is None:
        raise Refused("User not authenticated", 401)
    return str(document["user_id"])


async def update_user(database: Any, user_id: str, fields: dict[str, Any]) -> Any:
    """The second operation: the user as stored now."""
    user = await database.user.find_one_and_update(
        {"user_id": user_id}, {"$set": fields}, return_document=ReturnDocument.AFTER
    )
    if user is None:
        raise Refused("User not authenticated", 401)
    return user


async def store_login(database: Any, token: str, oauth_id: str, user: dict[str, Any]) -> dict[str, Any]:
    """The three operations of a login."""
    if not hmac.compare_digest(token.encode(), TOKEN.encode()):
        raise Refused("Facebook Auth Token invalid", 401)
    user_id = "facebook" + oauth_id
    key = hmac.new(SALT.encode(), user_id.encode(), hashlib.sha224).hexdigest()
    await database.auth.find_one({"key": stored_key(key)["key"]})  # the generation
    first = {name: value for name, value in REQUIRED.items() if name not in user}
    stored = await database.user.find_one_and_update(
        {"user_id": user_id},
        {"$set": user, "$setOnInsert": {**first, "created": current_time()}},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    change = {"$set": {"user_id": user_id, "login": current_time()}, "$setOnInsert": {"generation": 0}}
    await database.auth.update_one(stored_key(key), change, upsert=True)
    return {"user": stored, "indico_key": key}


# Actions, for frameworks that hand over a body as it came: (status, body)


Answer = tuple[int, bytes]


def echo(body: bytes) -> Answer:
    try:
        [message] = take(body, ("message", str))
        return 200, envelope({"message": message})
    except Refused as error:
        return error.code, envelope(error.message, error.code)


async def check(database: Any, headers: Mapping[str, str]) -> Answer:
    try:
        await find_user_id(database, check_key(headers.get("indico_key")))
        return 200, envelope(True)
    except Refused as error:
        return error.code, envelope(error.message, error.code)


async def update(database: Any, headers: Mapping[str, str], body: bytes) -> Answer:
    try:
        user_id = await find_user_id(database, check_key(headers.get("indico_key")))
        [fields] = take(body, ("update_user", dict))
        return 200, envelope(await update_user(database, user_id, fields))
    except Refused as error:
        return error.code, envelope(error.message, error.code)


async def login(database: Any, body: bytes) -> Answer:
    try:
        token, oauth_id, user = take(body, ("access_token", str), ("oauth_id", str), ("user", dict))
        return 200, envelope(await store_login(database, token, oauth_id, user))
    except Refused as error:
        return error.code, envelope(error.message, error.code)


def run_uvicorn(application: Any) -> None:
    """Serve an ASGI application by what is usual for it, at its fastest."""
    import uvicorn

    uvicorn.run(
        application,
        host="127.0.0.1",
        port=PORT,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        server_header=False,
        log_level="warning",
    )
