"""
The collection of keys and responses: one document for each user, action and key.

    {key: digest of all three, user_id, action, body: digest, run, lease, response}

`run` is the request that runs the action, and `response` its envelope, once there is one. `lease` is the time
until which the document counts. MongoDB's clock decides, and deletes the document later.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from bson.binary import Binary
from pymongo import ReturnDocument

from indico import db
from indico.db import Document, mongo


def declare_collection() -> None:
    """Declare the indexes, and what the collection holds of a user. Only if an action uses it."""
    db.index("idempotency", "key", unique=True)
    db.index("idempotency", "lease", expireAfterSeconds=0)
    db.index("idempotency", "user_id")
    db.on_remove(remove)
    db.on_export(export)


def make_claim(user_id: str, action: str, key: str, body: bytes) -> Document:
    """Return the document of a request that takes a key."""
    return {
        "key": digest(f"{user_id}\n{action}\n{key}".encode()),
        "user_id": user_id,
        "action": action,
        "body": digest(body),
        "run": secrets.token_hex(12),
    }


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@mongo
async def take_key(claim: Document, seconds: float) -> Document:
    """
    Store the claim for so many seconds, unless another claim of the same key counts. Returns the document
    that counts now.
    """
    new = {"$mergeObjects": [{"$literal": claim}, {"lease": add_seconds(seconds)}]}
    is_free = {"$lte": ["$lease", "$$NOW"]}  # also if there is no lease: nothing is less than any date
    change = {"$replaceWith": {"$cond": [is_free, new, "$$ROOT"]}}
    document: Document = await db.mongodb.idempotency.find_one_and_update(
        {"key": claim["key"]}, [change], upsert=True, return_document=ReturnDocument.AFTER
    )
    return document


@mongo
async def extend(claim: Document, seconds: float, response: bytes | None = None) -> None:
    """Keep the claim for so many seconds from now, with the response. Does nothing if it no longer counts."""
    change: dict[str, Any] = {"lease": add_seconds(seconds)}
    if response is not None:
        change["response"] = Binary(response)
    await db.mongodb.idempotency.update_one(query(claim), [{"$set": change}])


@mongo
async def release(claim: Document) -> None:
    """Let the next request with the key run the action."""
    await db.mongodb.idempotency.delete_one(query(claim))


def query(claim: Document) -> Document:
    return {"key": claim["key"], "run": claim["run"]}


def add_seconds(seconds: float) -> Document:
    return {"$add": ["$$NOW", round(seconds * 1000)]}


@mongo
async def remove(user_id: str) -> None:
    await db.mongodb.idempotency.delete_many({"user_id": user_id})


@mongo
async def export(user_id: str) -> Document:
    kept = db.mongodb.idempotency.find({"user_id": user_id})
    return {
        "idempotency": [
            {"action": each["action"], "response": each.get("response", b"").decode()} async for each in kept
        ]
    }
