"""
Accounts, and the tokens of links.

    password: {user_id, email, hash, created}
    password_token: {token: digest, purpose, email, expires, user_id, hash, user}

A registration is only a token. Its account is made when the link is used, so an address belongs to the person
who verifies it, with nothing of other registrations.
"""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime, timedelta

from pymongo.errors import DuplicateKeyError

import indico.db.user_db as UserDB
from indico import db
from indico.batteries.password.hashing import verify_password
from indico.core.mongo.drivers import by_majority
from indico.db import Document, current_time, mongo
from indico.db.auth_db import digest
from indico.error import IndicoError, InvalidValue

MAX_EMAIL_LENGTH = 254  # characters
EMAIL = re.compile(r"[a-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[a-z0-9-]{1,63}(\.[a-z0-9-]{1,63})+")
TOKEN_LIFETIME = 3600  # seconds
MAX_TOKENS = 5  # of an address and a purpose at a time; then there are no more mails


class TokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("Token invalid", 400)


def declare_collections() -> None:
    """Declare the indexes, and what the collections hold of a user. Only if the battery is used."""
    db.index("password", "user_id", unique=True)
    db.index("password", "email", unique=True)
    db.index("password_token", "token", unique=True)
    db.index("password_token", "email")
    db.index("password_token", "expires", expireAfterSeconds=0)
    db.on_remove(remove)
    db.on_export(export)


def read_email(text: str) -> str:
    """Return the address, trimmed and in lower case. Raises InvalidValue."""
    email = text.strip().lower()
    if len(email) > MAX_EMAIL_LENGTH or EMAIL.fullmatch(email) is None:
        raise InvalidValue("email should be an e-mail address")
    return email


@mongo
async def find(query: Document) -> Document | None:
    return await db.mongodb.password.find_one(query)


async def check_password(account: Document | None, password: str) -> Document:
    """Return the account. Raises PasswordError if it is None, or if the password is wrong."""
    new_hash = await verify_password(password, None if account is None else account["hash"])
    assert account is not None
    if new_hash is not None and await set_hash(account, new_hash):
        return {**account, "hash": new_hash}
    return account


@mongo
async def set_hash(account: Document, new_hash: str) -> bool:
    """Replace the hash of the password. Returns False if the account has another one now."""
    query = {"user_id": account["user_id"], "hash": account["hash"]}
    result = await by_majority(db.mongodb.password).update_one(query, {"$set": {"hash": new_hash}})
    return bool(result.matched_count)


@mongo
async def make_token(purpose: str, email: str, fields: Document) -> str:
    """Store a new token, and return it. Returns an empty string if the address has MAX_TOKENS."""
    tokens = db.mongodb.password_token
    valid = {"email": email, "purpose": purpose, "expires": {"$gt": datetime.now(UTC)}}
    if await tokens.count_documents(valid) >= MAX_TOKENS:
        return ""
    token = secrets.token_urlsafe(32)
    expires = datetime.now(UTC) + timedelta(seconds=TOKEN_LIFETIME)
    await tokens.insert_one({**fields, **_query(purpose, token), "email": email, "expires": expires})
    return token


@mongo
async def find_token(purpose: str, token: str) -> Document:
    """Return the document of a token. Raises TokenError."""
    found = await db.mongodb.password_token.find_one(_query(purpose, token))
    if found is None:
        raise TokenError()
    return found


async def verify(token: str) -> None:
    """Use a token to make the account of a registration. Raises TokenError."""
    found = await find_token("verify", token)
    email, user_id = found["email"], found["user_id"]
    await UserDB.sync_user({"email": email, **found["user"]}, user_id)
    account = {"user_id": user_id, "email": email, "hash": found["hash"], "created": current_time()}
    if not await insert(account):
        if await find({"user_id": user_id}) is None:  # the address has the account of another registration
            await UserDB.remove(user_id)
        raise TokenError()


@mongo
async def insert(account: Document) -> bool:
    """Store an account, and end the registrations of its address. Returns False if that has an account."""
    try:
        await by_majority(db.mongodb.password).insert_one(account)
    except DuplicateKeyError:
        return False
    finally:
        await db.mongodb.password_token.delete_many({"email": account["email"], "purpose": "verify"})
    return True


@mongo
async def reset(token: str, new_hash: str) -> str:
    """Use a token to replace the hash of the password. Returns the user_id. Raises TokenError."""
    found = await by_majority(db.mongodb.password_token).find_one_and_delete(_query("reset", token))
    if found is None:
        raise TokenError()
    accounts = by_majority(db.mongodb.password)
    await accounts.update_one({"user_id": found["user_id"]}, {"$set": {"hash": new_hash}})
    await db.mongodb.password_token.delete_many({"email": found["email"], "purpose": "reset"})
    return str(found["user_id"])


@mongo
async def remove(user_id: str) -> None:
    account = await db.mongodb.password.find_one({"user_id": user_id})
    if account is not None:
        await db.mongodb.password_token.delete_many({"email": account["email"]})
        await db.mongodb.password.delete_one({"user_id": user_id})


@mongo
async def export(user_id: str) -> Document:
    hidden = {"_id": 0, "user_id": 0, "hash": 0}
    return {"password": await db.mongodb.password.find_one({"user_id": user_id}, projection=hidden)}


def _query(purpose: str, token: str) -> Document:
    return {"token": digest(token), "purpose": purpose, "expires": {"$gt": datetime.now(UTC)}}
