"""
Auth route: logging in and out.
"""

from __future__ import annotations

import re
from typing import Annotated

from typing_extensions import TypedDict

import indico.db.auth_db as AuthDB
import indico.db.user_db as UserDB
from indico.core.types import Described
from indico.db.user_db import LoginUser, User
from indico.error import InvalidValue
from indico.routes.handler import IndicoHandler
from indico.utils import smart_parse, type_check, unpack
from indico.utils.auth.auth_utils import auth, is_dev_token, user_hash
from indico.utils.auth.facebook_utils import check_access_token
from indico.utils.auth.key_utils import end_key, start_key

CONTROL = r"\u0000-\u001f\u007f-\u009f"
OauthId = Annotated[str, Described(pattern=f"^[^{CONTROL}]{{1,128}}$", examples=["1"])]


class Login(TypedDict):
    user: User
    indico_key: str


def is_oauth_id(value: str) -> bool:
    """Whether this can be the id of an account: 1 to 128 characters, none of them a control character."""
    return re.fullmatch(rf"[^{CONTROL}\ud800-\udfff]{{1,128}}", value) is not None


def make_user_id(oauth_id: str) -> str:
    """Return the user_id of a Facebook account. Raises InvalidValue if the oauth_id is not valid."""
    if not is_oauth_id(oauth_id):
        raise InvalidValue("oauth_id should be 1 to 128 characters, none of them a control character")
    return "facebook" + oauth_id


async def log_in(user_id: str, user: LoginUser) -> Login:
    """Store the fields of a verified user, make a key valid, and return the data of the response."""
    key = None
    while key is None:  # if the user logs out or is removed meanwhile, repeat in the next generation
        document = await AuthDB.find_document(user_hash(user_id))
        stored = await UserDB.sync_user(user, user_id)
        key = await start_key(user_id, document["generation"] if document else 0)
    return {"user": stored, "indico_key": key}


class AuthHandler(IndicoHandler):
    @property
    def subject(self) -> str | None:
        """
        The account that a login names, for LOGIN_RATE. None for a login with the development token, which is
        not counted.
        """
        fields = smart_parse(self.request.body)
        return None if is_dev_token(fields.get("access_token")) else f"oauth_id {fields.get('oauth_id')}"

    @unpack("access_token", "oauth_id", "user")
    @type_check(str, OauthId, LoginUser)
    async def login(self, access_token: str, oauth_id: OauthId, user: LoginUser) -> Login:
        """
        Log in with a Facebook token. Returns the user as stored now, and the key for all other actions.

        401: The token is not valid, or belongs to another user.
        """
        await check_access_token(access_token, oauth_id)
        return await log_in(make_user_id(oauth_id), user)

    @auth
    async def check(self, data: bytes) -> bool:
        """Return true if the key is valid."""
        return True

    @auth
    async def logout(self, data: bytes) -> bool:
        """End the key permanently. Other keys of the user stay valid."""
        await end_key(self.key, self.key_owner)
        return True


AuthRoute = (r"/auth/(?P<action>[a-zA-Z]+)?", AuthHandler)
