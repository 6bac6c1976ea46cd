"""
Facebook: is this token the user's, and was it made for our app?
"""

from __future__ import annotations

import hmac
import re
from typing import Any

from tornado.httputil import url_concat

from indico import config
from indico.core.fetch import FAILURES, fetch_json
from indico.error import FacebookTokenError, Unavailable

TIMEOUT = 5  # seconds, for the whole exchange with Facebook


async def check_access_token(access_token: str, oauth_id: str) -> bool:
    """
    True when the token is valid, belongs to our app and to `oauth_id`; so is DEV_TOKEN, in development.

    Asks the Graph API's `debug_token`, and never for what can't be a token. Raises FacebookTokenError for
    any other token, and Unavailable when Facebook does not answer or our app's credentials are not set.
    """
    if _is_dev_token(access_token):
        return True
    if not re.fullmatch("[!-~]{1,4096}", access_token):
        raise FacebookTokenError()
    if not (config.FACEBOOK_APP_ID and config.FACEBOOK_APP_SECRET):
        if config.PRODUCTION:
            raise Unavailable("Logins with Facebook are not set up on this server")
        raise FacebookTokenError()
    data = await _ask(access_token)
    if (
        data.get("is_valid") is not True
        or not _is_id(data.get("app_id"), config.FACEBOOK_APP_ID)
        or not _is_id(data.get("user_id"), oauth_id)
    ):
        raise FacebookTokenError()
    return True


def _is_dev_token(access_token: str) -> bool:
    token = "" if config.PRODUCTION else config.DEV_TOKEN
    return bool(token) and hmac.compare_digest(_encode(access_token), _encode(token))


def _encode(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")  # a str may hold anything, and so may the environment


def _is_id(value: Any, expected: str) -> bool:
    # Facebook gives ids as strings or numbers, and none at all for a token that is no user's.
    return type(value) in (str, int) and str(value) == expected


async def _ask(access_token: str) -> dict[str, Any]:
    url = url_concat(
        config.FACEBOOK_GRAPH_URL.rstrip("/") + "/debug_token",
        {
            "input_token": access_token,
            "access_token": f"{config.FACEBOOK_APP_ID}|{config.FACEBOOK_APP_SECRET}",
        },
    )
    try:
        data = (await fetch_json(url, TIMEOUT))["data"]
        if not isinstance(data, dict):
            raise TypeError("data is no object")
    except FAILURES as error:
        raise Unavailable("Facebook does not answer as it should") from error
    return data
