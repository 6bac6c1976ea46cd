"""
Keys and roles, and the decorators that require them.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import indico.db.auth_db as AuthDB
import indico.db.key_db as KeyDB
from indico import config, db
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.development import get_secret
from indico.core.mongo import key_cache
from indico.core.tasks import Prompt, await_outcome, spawn
from indico.db import Document
from indico.error import AuthError, Forbidden, IndicoError
from indico.utils import Action

USER_SALT = os.environ.get("USER_SALT")  # if None, `user_hash` sets it
SCHEMES = {"indico_key": "", "authorization": "(?i:Bearer +)"}  # header: pattern before the key
OTHER_SCHEME = re.compile(r"(?i)(?!(.*,)?\s*bearer\b)[a-z][\w-]* +\S")  # commas join repeated headers


def user_hash(user_id: str, generation: int = 0) -> str:
    """
    Return the key of a user's generation, 56 hex digits: an HMAC (RFC 2104) keyed with USER_SALT, so that
    nobody can make a key without the salt. The first half depends only on the user.
    """
    global USER_SALT
    USER_SALT = USER_SALT or config.USER_SALT
    if not USER_SALT:
        if config.PRODUCTION:
            raise config.SettingError("USER_SALT is not set.")
        USER_SALT = get_secret("user_salt")
    first = _hmac(USER_SALT, user_id)
    if generation == 0:
        return first
    return first[:28] + _hmac(USER_SALT, f"{user_id}\n{generation}")[28:]  # a user_id contains no newline


def _hmac(salt: str, message: str) -> str:
    key = salt.encode(errors="surrogateescape")  # the environment may contain bytes that are not UTF-8
    return hmac.new(key, message.encode(), hashlib.sha224).hexdigest()


def is_dev_token(access_token: Any) -> bool:
    """Whether this is DEV_TOKEN. Always False in production."""
    token = "" if config.PRODUCTION else config.DEV_TOKEN
    if not token or not isinstance(access_token, str):
        return False
    given, expected = (text.encode("utf-8", "surrogatepass") for text in (access_token, token))
    return hmac.compare_digest(given, expected)


def read_key(headers: Mapping[str, str]) -> str:
    """
    Return the key of a request, from the header `indico_key` or `Authorization: Bearer <key>`. Raises
    AuthError unless there is exactly one such header, and it has the form of a key. An Authorization of
    another scheme, such as Basic for a proxy, does not count.
    """
    found = [
        (name.lower(), value)
        for name, value in headers.items()
        if name.lower() in SCHEMES and not (name.lower() == "authorization" and OTHER_SCHEME.match(value))
    ]
    if len(found) != 1:
        raise AuthError()
    name, value = found[0]  # for a repeated header, both values, separated by a comma
    match = re.fullmatch(SCHEMES[name] + "([0-9a-f]{56})", value)
    if match is None:
        raise AuthError()
    return match[1]


async def start_key(user_id: str, generation: int) -> str | None:
    """Make the generation's key valid and return it. Returns None if the generation has ended."""
    key = user_hash(user_id, generation)
    return key if await AuthDB.save_key(key, user_id) else None


async def end_key(key: str, owner: Document) -> None:
    """End a valid key permanently. `owner` is what `AuthDB.get_user_id` returned for it."""
    try:
        if owner["name"] is not None:
            await KeyDB.end_key(key)
        else:
            await AuthDB.end_key(key, user_hash(owner["user_id"], owner["generation"] + 1))
    finally:
        key_cache.forget(owner["_id"])


async def end_all_keys(user_id: str, also: tuple[str, ...] = ()) -> None:
    """End the user's key and API keys permanently. Removes the fields `also` of the user's document."""
    first_key = user_hash(user_id)
    document = await AuthDB.find_document(first_key)
    while document is not None:
        key, next_key = (user_hash(user_id, document["generation"] + number) for number in (0, 1))
        try:
            if await AuthDB.end_key(key, next_key, ("keys", *also)):
                return
        finally:
            key_cache.forget(document["_id"])
        document = await AuthDB.find_document(first_key)  # the user has logged out meanwhile


async def remove_user(user_id: str) -> None:
    """
    Delete what all collections hold of a user, and end the user's keys. Of the user only the number of the
    generation stays. If MongoDB fails meanwhile, the key is still valid, and the request can be repeated.
    """
    # In this order, a login that runs in between either creates a new user, or starts again, because its
    # generation has ended.
    await db.remove_data(user_id)
    await end_all_keys(user_id, ("user_id", "roles"))


def auth(action: Action) -> Action:
    """
    Run an action only if the request has a valid key. The action can use `self.user_id`, `self.roles` and
    `self.key`.

    Raises AuthError at once if the request has no key, or a malformed one. Otherwise returns an awaitable of
    the action's result. It runs even if it is not awaited. Must stand above all other decorators.
    """
    check_order("auth", action)

    @functools.wraps(action)
    def wrapper(self: Any, *args: Any) -> Any:
        key = read_key(self.request.headers)
        owner = key_cache.find(key)
        if owner is None:
            return Prompt(_run(action, self, key, args))
        _authenticate(self, key, owner)
        outcome = action(self, *args)
        return Prompt(outcome) if inspect.iscoroutine(outcome) else outcome

    add_decorator("auth", wrapper, get_info(action))
    return wrapper


async def _run(action: Action, handler: Any, key: str, args: tuple[Any, ...]) -> Any:
    version = key_cache.get_version()
    owner = await AuthDB.get_user_id(key)
    if owner is None:
        raise AuthError()
    key_cache.remember(key, owner, version)
    _authenticate(handler, key, owner)
    return await await_outcome(action(handler, *args))


def _authenticate(handler: Any, key: str, owner: Document) -> None:
    handler.key, handler.key_owner = key, owner
    handler.user_id, handler.roles = owner["user_id"], owner["roles"]
    if owner["name"] is not None and KeyDB.is_use_due(owner):
        spawn(_record_use(key))


async def _record_use(key: str) -> None:
    with suppress(IndicoError):  # the next hour is recorded again
        await KeyDB.record_use(key)


def allow(*roles: str, api_keys: bool = True) -> Callable[[Action], Action]:
    """
    Run an action only if the key has one of these roles: `@allow("admin")`. With `api_keys=False`, run it
    only with a login's key. Raises Forbidden otherwise. Must stand below `@auth`.
    """
    if not all(isinstance(role, str) for role in roles) or (api_keys and not roles):
        raise TypeError('@allow takes the names of roles: @allow("admin")')

    def decorator(action: Action) -> Action:
        check_order("allow", action)

        @functools.wraps(action)
        def wrapper(self: Any, *args: Any) -> Any:
            if roles and not any(role in roles for role in self.roles):
                raise Forbidden()
            if not api_keys and self.key_owner["name"] is not None:
                raise Forbidden()
            return action(self, *args)

        add_decorator("allow", wrapper, get_info(action))
        return wrapper

    return decorator
