"""
Login rate: LOGIN_RATE logins for each address and each account, then 429 until the minute is over.

A login is the action `login` of any handler, and its account what the handler says by a property, `subject`.
They are counted in MongoDB, in windows of a fixed length, so that all workers and machines share the count.
An address or account is stored as a digest, and only for as long as its window lasts.
"""

from __future__ import annotations

import datetime
import hashlib
import time

from pymongo import ReturnDocument

from indico import config, db
from indico.core.hooks import Application
from indico.core.http.proxies import client_address
from indico.db import mongo
from indico.error import IndicoError
from indico.routes.handler import IndicoHandler

db.index("login_rate", "key", unique=True)
db.index("login_rate", "expires", expireAfterSeconds=0)


class TooManyRequests(IndicoError):
    """429: `retry_after` is the time in seconds until the next try may succeed."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests, try again in {retry_after} seconds", 429)
        self.retry_after = retry_after


def install(application: Application) -> None:
    """Count every login before it runs."""
    if config.LOGIN_RATE[0]:
        application.hooks.before_action.append(check_login_rate)
        application.hooks.extra_statuses.setdefault("login", []).append(429)


async def check_login_rate(handler: IndicoHandler) -> None:
    """Raise TooManyRequests for a login beyond LOGIN_RATE."""
    if handler.action != "login":
        return
    most, length = config.LOGIN_RATE
    window, spent = divmod(int(time.time()), length)
    end = (window + 1) * length
    subjects = [f"address {client_address(handler.request)}"]
    try:
        subjects.append(handler.subject)  # type: ignore[attr-defined]
    except (AttributeError, IndicoError):
        pass  # it has none, or can't tell from this body, which the action answers
    for subject in subjects:
        if await count(f"{window} {subject}", end) > most:
            raise TooManyRequests(length - spent)


@mongo
async def count(subject: str, expires: int) -> int:
    """Count one more of this subject, until this time in seconds; how many there were."""
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
