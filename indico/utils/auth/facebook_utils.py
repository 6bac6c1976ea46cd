"""
Facebook: checks that a token belongs to the user, and was issued for our app.
"""

from __future__ import annotations

import re

from tornado.httputil import url_concat

from indico import config
from indico.core.fetch import FAILURES, fetch_json
from indico.error import FacebookTokenError, Unavailable
from indico.utils.auth.auth_utils import is_dev_token

TIMEOUT = 5  # seconds, for the whole exchange with Facebook


async def check_access_token(access_token: str, oauth_id: str) -> bool:
    """
    Return True if the token is valid for our app and for `oauth_id`. In development, DEV_TOKEN is valid too.

    Calls `debug_token` of the Graph API, except for strings that can't be tokens. Raises FacebookTokenError
    if the token is not valid, and Unavailable if Facebook does not respond or our app's id or secret is not
    set.
    """
    if is_dev_token(access_token):
        return True
    if not re.fullmatch("[!-~]{1,4096}", access_token):
        raise FacebookTokenError()
    if not (config.FACEBOOK_APP_ID and config.FACEBOOK_APP_SECRET):
        if config.PRODUCTION:
            raise Unavailable("Logins with Facebook are not set up on this server")
        raise FacebookTokenError()
    app_token = f"{config.FACEBOOK_APP_ID}|{config.FACEBOOK_APP_SECRET}"
    fields = {"input_token": access_token, "access_token": app_token}
    url = url_concat(config.FACEBOOK_GRAPH_URL.rstrip("/") + "/debug_token", fields)
    try:
        data = (await fetch_json(url, TIMEOUT))["data"]
        if not isinstance(data, dict):
            raise TypeError("data is not an object")
    except FAILURES as error:
        raise Unavailable("Facebook does not respond as expected") from error
    # Facebook sends ids as strings or numbers. A token without a user has no user_id.
    ids = [str(data[name]) for name in ("app_id", "user_id") if type(data.get(name)) in (str, int)]
    if data.get("is_valid") is not True or ids != [config.FACEBOOK_APP_ID, oauth_id]:
        raise FacebookTokenError()
    return True
