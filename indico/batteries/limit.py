"""
Limit: `@limit("100/minute")` allows each user that many calls of an action, and LOGIN_RATE limits logins.

Further calls are 429 until the window ends. Calls are counted in MongoDB, in windows of a fixed length, so
all workers and machines share the count. What is counted is stored as a digest, until its window ends.

LOGIN_RATE counts per address and per account. A login is the action `login` of any handler. Its account is
the handler's property `subject`, if there is one. A login whose `subject` is None is not counted.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pymongo import ReturnDocument

from indico import config, db
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.hooks import Application
from indico.core.http.proxies import client_address, group_address
from indico.core.setting_values import parse_rate
from indico.core.tasks import Prompt, await_outcome
from indico.db import mongo
from indico.error import IndicoError
from indico.routes.handler import IndicoHandler
from indico.utils import Action

Rate = tuple[int, int]  # the number of calls, and the length of a window in seconds

db.index("rate_limit", "key", unique=True)
db.index("rate_limit", "expires", expireAfterSeconds=0)


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


def limit(text: str) -> Callable[[Action], Action]:
    """
    Allow each user this many calls of an action: `@limit("100/minute")`. The units are second, minute, hour
    and day. Without `@auth` above, it allows them to each client's address. Raises TooManyRequests.
    """
    try:
        rate = parse_rate(str(text))
    except ValueError:
        rate = (0, 0)
    if not rate[0]:
        raise TypeError(f'@limit takes a rate: @limit("100/minute"), not {text!r}')

    def decorator(action: Action) -> Action:
        check_order("limit", action)

        async def run(handler: Any, args: tuple[Any, ...]) -> Any:
            user_id = getattr(handler, "user_id", None)
            subjects = {"user": user_id} if user_id is not None else {"address": find_address(handler)}
            kind = type(handler)
            name = f"{kind.__module__}.{kind.__qualname__}.{action.__name__}"
            await check_rate(handler, rate, name, subjects)
            return await await_outcome(action(handler, *args))

        @functools.wraps(action)
        def wrapper(self: Any, *args: Any) -> Any:
            return Prompt(run(self, args))

        info = get_info(action)
        statuses = {**info.statuses, 429: f"More than {text} calls"}
        add_decorator("limit", wrapper, replace(info, statuses=statuses))
        return wrapper

    return decorator


async def check_login_rate(handler: IndicoHandler) -> None:
    """Raise TooManyRequests if this login exceeds LOGIN_RATE."""
    if handler.action != "login":
        return
    subjects = {"address": find_address(handler)}
    try:
        account = handler.subject  # type: ignore[attr-defined]
        if account is None:
            return
        subjects["account"] = str(account)
    except (AttributeError, IndicoError):
        pass  # no such property, or an invalid body, which the action will reject
    await check_rate(handler, config.LOGIN_RATE, "login", subjects)


def find_address(handler: Any) -> str:
    """Return the client's address. All addresses of an IPv6 network are one."""
    return group_address(client_address(handler.request))


async def check_rate(handler: Any, rate: Rate, action: str, subjects: dict[str, str]) -> None:
    """
    Count a call of the action for each of these subjects, and set the headers RateLimit and RateLimit-Policy
    (draft-ietf-httpapi-ratelimit-headers). Raises TooManyRequests for the first that exceeds the rate.
    """
    most, length = rate
    window, spent = divmod(int(time.time()), length)
    policies, limits = [], []
    for name, subject in subjects.items():
        number = await count(f"{window} {action} {name} {subject}", (window + 1) * length)
        policies.append(f'"{name}";q={most};w={length}')
        limits.append(f'"{name}";r={max(most - number, 0)};t={length - spent}')
        handler.set_header("RateLimit-Policy", ", ".join(policies))
        handler.set_header("RateLimit", ", ".join(limits))
        if number > most:
            raise TooManyRequests(length - spent)


@mongo
async def count(subject: str, expires: int) -> int:
    """Count a call for this subject, and return the number so far. `expires` is a Unix time in seconds."""
    document = await db.mongodb.rate_limit.find_one_and_update(
        {"key": hashlib.sha256(subject.encode()).hexdigest()},
        {
            "$inc": {"count": 1},
            "$setOnInsert": {"expires": datetime.datetime.fromtimestamp(expires, datetime.UTC)},
        },
        upsert=True,
        return_document=ReturnDocument.AFTER,
    )
    return int(document["count"])
