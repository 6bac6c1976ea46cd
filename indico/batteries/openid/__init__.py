"""
OpenID: `POST /openid/login` for those with an account at a provider of OPENID_PROVIDERS, such as Google.
"""

from __future__ import annotations

import importlib.util

from indico import config
from indico.batteries.openid.providers import Provider, make_providers, read_subject
from indico.core.hooks import Application
from indico.db.user_db import LoginUser
from indico.error import InvalidValue
from indico.routes.auth import Login, log_in
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER, smart_parse, type_check, unpack


def install(application: Application) -> None:
    """Add the route, if there are providers."""
    if not config.OPENID_PROVIDERS:
        return
    if not (importlib.util.find_spec("jwt") and importlib.util.find_spec("cryptography")):
        LOGGER.warning(
            "OPENID_PROVIDERS is set, but PyJWT is not installed, so /openid/login is not there:"
            " pip install -e '.[openid]'"
        )
        return
    application.add_handlers(".*", [(*OpenIDRoute, {"providers": make_providers()})])


class OpenIDHandler(IndicoHandler):
    def initialize(self, providers: dict[str, Provider]) -> None:
        self._providers = providers

    @property
    def subject(self) -> str:
        """The account that a login claims, before anything is verified. LOGIN_RATE counts by it."""
        fields = smart_parse(self.request.body)
        return f"{fields.get('provider')}:{read_subject(str(fields.get('id_token')))}"

    @unpack("provider", "id_token", "user")
    @type_check(str, str, LoginUser)
    async def login(self, provider: str, id_token: str, user: LoginUser) -> Login:
        """
        Log in with a provider's ID token: the user as stored now, and the key for all other actions.

        401: The provider did not sign the token for our app, or it has expired.
        """
        if provider not in self._providers:
            raise InvalidValue(f"provider should be {' or '.join(self._providers)}")
        subject = await self._providers[provider].check(id_token)
        # No provider's name has a colon or begins with "facebook", so no two users have the same id.
        return await log_in(f"{provider}:{subject}", user)


OpenIDRoute = (r"/openid/(?P<action>[a-zA-Z]+)?", OpenIDHandler)
