"""
Password: `/password/register`, `verify`, `login` and so on, for users with an e-mail address and a password.
"""

from __future__ import annotations

import importlib.util
import secrets
from typing import Annotated

from indico import config
from indico.batteries.password import accounts, mail
from indico.batteries.password.hashing import Password, PasswordError, check_length, hash_password
from indico.core.hooks import Application
from indico.core.tasks import spawn
from indico.core.types import Described
from indico.db import Document, check_fields, check_size
from indico.db.user_db import SERVER_FIELDS, USER_SCHEMA, LoginUser
from indico.routes.auth import Login, log_in
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER, smart_parse, type_check, unpack
from indico.utils.auth.auth_utils import allow, auth
from indico.utils.auth.key_utils import end_all_keys, remove_user

Email = Annotated[str, Described(maxLength=accounts.MAX_EMAIL_LENGTH, examples=["ada@example.com"])]


def install(application: Application) -> None:
    """Add the route, if PUBLIC_URL is set."""
    if not config.PUBLIC_URL:
        return
    if not all(map(importlib.util.find_spec, ("pwdlib", "argon2", "aiosmtplib"))):
        LOGGER.warning(
            "PUBLIC_URL is set, but pwdlib or aiosmtplib is not installed, so there is no /password/:"
            " pip install -e '.[password]'"
        )
        return
    if config.PRODUCTION and not config.MAIL_URL:
        LOGGER.warning("MAIL_URL is not set: /password/register and /password/forgot respond with 503")
    accounts.declare_collections()
    application.add_handlers(".*", [PasswordRoute])


async def mail_token(purpose: str, email: str, fields: Document, name: str) -> None:
    """Make a token, and mail it in the background. Without a name there is no mail, but it takes as long."""
    connection, token = await mail.connect(), ""
    try:
        token = await accounts.make_token(purpose, email, fields)
    finally:
        spawn(mail.send(connection, name if token else "", email, token))


class PasswordHandler(IndicoHandler):
    @property
    def subject(self) -> str:
        """The account that a login names, before it is verified. LOGIN_RATE counts logins per account."""
        return f"email {accounts.read_email(str(smart_parse(self.request.body).get('email')))}"

    @unpack("email", "password", "user")
    @type_check(Email, Password, LoginUser)
    async def register(self, email: Email, password: Password, user: LoginUser) -> bool:
        """
        Send a mail with a link to verify the address. The account begins when the link is used. Always true:
        the client is not told whether there is an account.
        """
        email = accounts.read_email(email)
        check_length(password)
        user = {field: value for field, value in user.items() if field not in SERVER_FIELDS}
        check_fields(user, USER_SCHEMA)
        check_size(user)
        user_id = "password" + secrets.token_hex(16)
        fields = {"user_id": user_id, "hash": await hash_password(password), "user": user}
        account = await accounts.find({"email": email})
        await mail_token("verify", email, fields, "verify" if account is None else "registered")
        return True

    @unpack("token")
    @type_check(str)
    async def verify(self, token: str) -> bool:
        """
        Begin the account of a registration. Its password is then valid.

        400: The token is not valid, or was used.
        """
        await accounts.verify(token)
        return True

    @unpack("email", "password")
    @type_check(Email, Password)
    async def login(self, email: Email, password: Password) -> Login:
        """
        Log in with a password. Returns the user as stored now, and the key for all other actions.

        401: There is no such account, or the password is wrong.
        """
        account = await accounts.find({"email": accounts.read_email(email)})
        account = await accounts.check_password(account, password)
        user_id = account["user_id"]
        login = await log_in(user_id, {})
        # A reset or a removal that ran since then has not ended this login's key.
        now = await accounts.find({"user_id": user_id})
        if now is not None and now["hash"] == account["hash"]:
            return login
        await (end_all_keys if now is not None else remove_user)(user_id)
        raise PasswordError()

    @auth
    @allow(api_keys=False)
    @unpack("password", "new_password")
    @type_check(Password, Password)
    async def change(self, password: Password, new_password: Password) -> bool:
        """
        Change the password. Keys stay valid.

        401: The password is wrong.
        """
        check_length(new_password)
        account = await accounts.find({"user_id": self.user_id})
        account = await accounts.check_password(account, password)
        if not await accounts.set_hash(account, await hash_password(new_password)):
            raise PasswordError()
        return True

    @unpack("email")
    @type_check(Email)
    async def forgot(self, email: Email) -> bool:
        """
        Send a mail with a link to set a new password. Always true: the client is not told whether there is an
        account.
        """
        email = accounts.read_email(email)
        account = await accounts.find({"email": email})
        user_id = None if account is None else account["user_id"]
        await mail_token("reset", email, {"user_id": user_id}, "reset" if account else "")
        return True

    @unpack("token", "password")
    @type_check(str, Password)
    async def reset(self, token: str, password: Password) -> bool:
        """
        Set a new password, and end all keys of the user.

        400: The token is not valid, or was used.
        """
        check_length(password)
        await accounts.find_token("reset", token)  # an invalid one is not worth a hash
        await end_all_keys(await accounts.reset(token, await hash_password(password)))
        return True


PasswordRoute = (r"/password/(?P<action>[a-zA-Z]+)?", PasswordHandler)
