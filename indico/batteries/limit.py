"""
Limit: allows LOGIN_RATE logins per address and per account. Further logins are 429 until the window ends.

A login is the action `login` of any handler. Its account is the handler's property `subject`, if there is
one. A login whose `subject` is None is not counted. Logins are counted in MongoDB, in windows of a fixed
length, so all workers and machines share the count. Addresses and accounts are stored as digests, until their
window ends.
"""

from __future__ import annotations

import datetime
import hashlib
import time

from pymongo import ReturnDocument

from indico import config, db
from indico.core.hooks import Application
from indico.core.http.proxies import client_address, group_address
from indico.db import mongo
from indico.error import IndicoError
from indico.routes.handler import IndicoHandler

db.index("login_rate", "key", unique=True)
db.index("login_rate", "expires", expireAfterSeconds=0)


class TooManyRequests(IndicoError):
    """429. `retry_after` is the time in seconds until the window ends."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests, try again in {retry_after} seconds", 429)
        self.retry_after = retry_after


def install(application: Application) -> None:
    """Count every login before it runs."""
    if config.LOGIN_RATE[0]:
        application.hooks.before_action.append(check_login_rate)
        application.hooks.extra_statuses.setdefault("login", []).append(429)


async def check_login_rate(handler: IndicoHandler) -> None:
    """Raise TooManyRequests if this login exceeds LOGIN_RATE."""
    if handler.action != "login":
        return
    most, length = config.LOGIN_RATE
    window, spent = divmod(int(time.time()), length)
    end = (window + 1) * length
    subjects = [f"address {group_address(client_address(handler.request))}"]
    try:
        account = handler.subject  # type: ignore[attr-defined]
        if account is None:
            return
        subjects.append(f"account {account}")
    except (AttributeError, IndicoError):
        pass  # no such property, or an invalid body, which the action will reject
    for subject in subjects:
        if await count(f"{window} {subject}", end) > most:
            raise TooManyRequests(length - spent)


@mongo
async def count(subject: str, expires: int) -> int:
    """Count a login of this subject, and return the number so far. `expires` is a Unix time in seconds."""
    document = await db.mongodb.login_rate.find_one_and_update(
        {"key": hashlib.sha256(subject.encode()).hexdigest()},
        {
            "$inc": {"count": 1},
            "$setOnInsert": {"expires": datetime.datetime.fromtimestamp(expires, datetime.UTC)},
        },
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return int(document["count"])
