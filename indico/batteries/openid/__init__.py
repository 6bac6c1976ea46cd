"""
OpenID: `POST /openid/login` for users with an account at a provider of OPENID_PROVIDERS, such as Google.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from indico import config
from indico.batteries.openid.providers import Provider, make_providers, read_subject
from indico.core.hooks import Application
from indico.core.startup import StartupTask, run_in_background
from indico.db.user_db import LoginUser
from indico.error import InvalidValue
from indico.routes.auth import Login, log_in
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER, smart_parse, type_check, unpack


def install(application: Application) -> None:
    """Add the route, if OPENID_PROVIDERS is set."""
    if not config.OPENID_PROVIDERS:
        return
    if not (importlib.util.find_spec("jwt") and importlib.util.find_spec("cryptography")):
        LOGGER.warning(
            "OPENID_PROVIDERS is set, but PyJWT is not installed, so there is no /openid/login:"
            " pip install -e '.[openid]'"
        )
        return
    providers = make_providers()
    application.hooks.lifespans.append(functools.partial(lifespan, providers))
    application.add_handlers(".*", [(*OpenIDRoute, {"providers": providers})])


@asynccontextmanager
async def lifespan(providers: dict[str, Provider], application: Application) -> AsyncIterator[None]:
    """Fetch the keys of all providers when the server starts."""
    missing = application.state.missing
    work = [StartupTask(f"Keys of {name}", missing).run(each.fetch_keys) for name, each in providers.items()]
    async with run_in_background(work):
        yield


class OpenIDHandler(IndicoHandler):
    def initialize(self, providers: dict[str, Provider]) -> None:
        self._providers = providers

    @property
    def subject(self) -> str:
        """The account that a login names, before it is verified. LOGIN_RATE counts logins per account."""
        fields = smart_parse(self.request.body)
        provider = str(fields.get("provider"))
        self._check_name(provider)
        return f"{provider}:{read_subject(str(fields.get('id_token')))}"

    @unpack("provider", "id_token", "user")
    @type_check(str, str, LoginUser)
    async def login(self, provider: str, id_token: str, user: LoginUser) -> Login:
        """
        Log in with a provider's ID token. Returns the user as stored now, and the key for all other actions.

        401: The provider did not sign the token for our app, or it has expired.
        """
        self._check_name(provider)
        subject = await self._providers[provider].check(id_token)
        # Names of providers contain no colon and don't begin with "facebook", so ids are unique.
        return await log_in(f"{provider}:{subject}", user)

    def _check_name(self, provider: str) -> None:
        if provider not in self._providers:
            raise InvalidValue(f"provider should be {' or '.join(self._providers)}")


OpenIDRoute = (r"/openid/(?P<action>[a-zA-Z]+)?", OpenIDHandler)
