"""
Users: one document for each, found by `user_id`.
"""

from __future__ import annotations

from typing import Annotated

from pymongo import ReturnDocument

from indico import db
from indico.core.types import Described
from indico.db import (
    Document,
    DocumentOf,
    Schema,
    check_size,
    current_time,
    empty_document,
    mongo,
    mongo_obj,
    refuse_changes,
    update_document,
)
from indico.error import AuthError

USER_SCHEMA: Schema = {
    "user_id": (str, True),
    "name": (str, True),
    "phone": (str, True),
    "email": (str, True),
    "birthday": (int, True),  # UTC milliseconds
    "profilePic": (str, True),
    "created": (int, False),  # UTC milliseconds
    "location": (str, False),
    "gcm": (str, False),
    "asked": (list, False),
    "favorite": (list, False),
    "discussed": (list, False),
    "hide": (list, False),
}
SERVER_FIELDS = ("_id", "user_id", "created", "roles")  # fields that only the server sets

User = Annotated[Document, DocumentOf(USER_SCHEMA)]
LoginUser = Annotated[
    Document, DocumentOf(USER_SCHEMA, part=True, ignored=SERVER_FIELDS), Described(examples=[{"name": "Ada"}])
]
UpdateUser = Annotated[
    Document,
    DocumentOf(USER_SCHEMA, part=True, refused=SERVER_FIELDS),
    Described(examples=[{"location": "London"}]),
]

db.index("user", "user_id", unique=True)


@mongo
async def find_user(user_id: str) -> Document | None:
    """Return the whole user, or None."""
    return await db.mongodb.user.find_one({"user_id": user_id})


@mongo
@mongo_obj(USER_SCHEMA, ignore=SERVER_FIELDS)
async def sync_user(update_dic: Document, user_id: str) -> Document:
    """
    Store the fields of a login, and return the whole user. A new user gets `created`, and an empty value for
    each missing required field. An existing user keeps the fields that the login does not have. Fields that
    only the server sets are ignored.
    """
    query = {"user_id": user_id}
    existing = await update_document(db.mongodb.user, query, {"$set": update_dic})
    if existing is not None:
        return existing
    first = {**empty_document(USER_SCHEMA), "created": current_time()}
    missing = {name: value for name, value in first.items() if name not in update_dic and name != "user_id"}
    check_size({**query, **missing, **update_dic})
    # If two first logins run at once, one insert fails. MongoDB retries it as an update.
    user: Document = await db.mongodb.user.find_one_and_update(
        query,
        {"$set": update_dic, "$setOnInsert": missing} if update_dic else {"$setOnInsert": missing},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return user


@mongo
@mongo_obj(USER_SCHEMA, operators=True)
async def update(update_dic: Document, user_id: str) -> Document:
    """
    Apply operators, such as `{"$set": {"name": "Ada"}}`, and return the whole user as stored now. Raises
    InvalidValue for a field that only the server sets, and for a user who would become larger than
    MAX_USER_SIZE. Raises AuthError if the user does not exist.
    """
    refuse_changes(update_dic, SERVER_FIELDS)
    user = await update_document(db.mongodb.user, {"user_id": user_id}, update_dic)
    if user is None:
        raise AuthError()
    return user


@mongo
async def remove(user_id: str) -> None:
    """Delete the user, but not the user's keys: see `indico.db.auth_db`."""
    await db.mongodb.user.delete_one({"user_id": user_id})


@mongo
async def export(user_id: str) -> Document:
    return {"user": await db.mongodb.user.find_one({"user_id": user_id})}


db.on_remove(remove)
db.on_export(export)
