"""
Users: a document each, found by `user_id`.
"""

from __future__ import annotations

from typing import Annotated

from pymongo import ReturnDocument

from indico import db
from indico.core.types import Described
from indico.db import (
    Document,
    Follows,
    Schema,
    blank,
    current_time,
    mongo,
    mongo_obj,
    refuse_changes,
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
OURS = ("_id", "user_id", "created")  # fields that the server alone sets

User = Annotated[Document, Follows(USER_SCHEMA)]
LoginUser = Annotated[
    Document, Follows(USER_SCHEMA, part=True, ignored=OURS), Described(examples=[{"name": "Ada"}])
]
UpdateUser = Annotated[
    Document, Follows(USER_SCHEMA, part=True, refused=OURS), Described(examples=[{"location": "London"}])
]

db.index("user", "user_id", unique=True)


@mongo
async def find_user(user_id: str) -> Document | None:
    """The whole user, or None."""
    user: Document | None = await db.mongodb.user.find_one({"user_id": user_id})
    return user


@mongo
@mongo_obj(USER_SCHEMA, ignore=OURS)
async def sync_user(update_dic: Document, user_id: str) -> Document:
    """
    Store what a login brought, `{"$set": {...}}`, and return the whole user. A user who is new gets
    `created` and the empty value of each required field; one who is known keeps what the login does not
    carry. Fields that only the server sets are ignored.
    """
    first = {**blank(USER_SCHEMA), "created": current_time()}
    missing = {
        name: value for name, value in first.items() if name not in update_dic["$set"] and name != "user_id"
    }
    # Of two first logins at once, MongoDB itself tries the slower one again and finds the user.
    user: Document = await db.mongodb.user.find_one_and_update(
        {"user_id": user_id},
        {**update_dic, "$setOnInsert": missing},
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return user


@mongo
@mongo_obj(USER_SCHEMA)
async def update(update_dic: Document, user_id: str) -> Document:
    """
    Apply operators, such as `{"$set": {"name": "Ada"}}`, and return the whole user as stored now. Raises
    InvalidValue for a field that only the server sets, and AuthError when the user is gone: an update
    never makes one.
    """
    refuse_changes(update_dic, OURS)
    user: Document | None = await db.mongodb.user.find_one_and_update(
        {"user_id": user_id}, update_dic, return_document=ReturnDocument.AFTER
    )
    if user is None:
        raise AuthError()
    return user


@mongo
async def remove(user_id: str) -> None:
    """Delete the user. The keys are `indico.db.auth_db`'s."""
    await db.mongodb.user.delete_one({"user_id": user_id})
