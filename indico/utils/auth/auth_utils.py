"""
Keys and roles, and the decorators that require them.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import inspect
import os
from collections.abc import Callable
from typing import Any

import indico.db.auth_db as AuthDB
import indico.db.key_db as KeyDB
from indico import config
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.development import get_secret
from indico.core.http.credentials import read_key as read_key
from indico.core.mongo import key_cache
from indico.core.tasks import Prompt, await_outcome
from indico.db import Document, current_time
from indico.error import AuthError, Forbidden
from indico.utils import Action

USER_SALT = os.environ.get("USER_SALT")  # if None, `user_hash` sets it
HOUR = 3_600_000  # milliseconds


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


def auth(action: Action) -> Action:
    """
    Run an action only if the request has a valid key. The action can use `self.user_id`, `self.roles` and
    `self.key`.

    Raises AuthError at once if the request has no key, or a malformed one. Otherwise returns an awaitable of
    the action's result. The action runs even if it is not awaited. Must be above all other decorators.
    """
    check_order("auth", action)

    @functools.wraps(action)
    def wrapper(self: Any, *args: Any, **parts: Any) -> Any:  # a page gets the parts of its path
        key = read_key(self.request.headers)
        run = functools.partial(action, self, *args, **parts)
        owner = key_cache.find(key)
        if owner is None:
            return Prompt(_run(run, self, key))
        _authenticate(self, key, owner)
        outcome = run()
        return Prompt(outcome) if inspect.iscoroutine(outcome) else outcome

    add_decorator("auth", wrapper, get_info(action))
    return wrapper


async def _run(run: Callable[[], Any], handler: Any, key: str) -> Any:
    version = key_cache.get_version()
    owner = await AuthDB.get_user_id(key)
    if owner is None:
        raise AuthError()
    key_cache.remember(key, owner, version)
    _authenticate(handler, key, owner)
    return await await_outcome(run())


def _authenticate(handler: Any, key: str, owner: Document) -> None:
    handler.key, handler.key_owner = key, owner
    handler.user_id, handler.roles = owner["user_id"], [*owner["roles"]]
    hour = current_time() // HOUR * HOUR
    if owner["name"] is not None and owner["used"] != hour:
        owner["used"] = hour  # the key cache may have this document
        KeyDB.record_use(key, hour, lambda *_: None)  # not awaited


def allow(*roles: str, api_keys: bool = True) -> Callable[[Action], Action]:
    """
    Run an action only if the key has one of these roles: `@allow("admin")`. With `api_keys=False`, run it
    only with the key of a login. Raises Forbidden otherwise. Must be below `@auth`.
    """
    if not all(isinstance(role, str) for role in roles) or (api_keys and not roles):
        raise TypeError('@allow takes the names of roles: @allow("admin")')

    def decorator(action: Action) -> Action:
        check_order("allow", action)

        @functools.wraps(action)
        def wrapper(self: Any, *args: Any) -> Any:
            lacks_role = roles and not any(role in roles for role in self.roles)
            if lacks_role or (not api_keys and self.key_owner["name"] is not None):
                raise Forbidden()
            return action(self, *args)

        add_decorator("allow", wrapper, get_info(action))
        return wrapper

    return decorator
