"""
OpenID: `POST /openid/login` for those with an account at a provider of OPENID_PROVIDERS, such as Google.

An ID token lets its user in when the provider signed it, for our app, and it has not expired (OpenID Connect
Core 1.0, 3.1.3.7). The provider's keys are found by discovery and kept for an hour. A token that names
another key has them fetched again, but once a minute at most, whatever strangers send; and all who wait for
the keys wait for the same fetch.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from indico import config
from indico.core.fetch import FAILURES, fetch_json
from indico.core.hooks import Application
from indico.core.setting_values import ISSUER
from indico.core.tasks import spawn
from indico.db.user_db import LoginUser
from indico.error import IndicoError, InvalidValue, Unavailable
from indico.routes.auth import Login, is_oauth_id, log_in
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER, smart_parse, type_check, unpack

TIMEOUT = 5  # seconds, for each of the two addresses that a provider is asked at
KEYS_LIFETIME = 3600  # seconds
PAUSE = 60  # seconds between two looks for a key that nobody knows
PAUSE_AFTER_FAILURE = 1  # seconds
LONGEST_TOKEN = 16 * 1024  # characters
LEEWAY = 60  # seconds that the provider's clock and ours may differ

# Signatures by a key that the provider alone has: not `none`, and no HMAC, whose key we would both have.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


class OpenIDTokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("OpenID token invalid", 401)


def install(application: Application) -> None:
    """Add the route, if there are providers."""
    if not config.OPENID_PROVIDERS:
        return
    try:
        import cryptography  # noqa: F401
        import jwt  # noqa: F401
    except ImportError:
        LOGGER.warning(
            "OPENID_PROVIDERS is set, but PyJWT is not installed, so /openid/login is not there:"
            " pip install -e '.[openid]'"
        )
        return
    application.add_handlers(".*", [(*OpenIDRoute, {"providers": make_providers()})])


def make_providers() -> dict[str, Provider]:
    """The providers of OPENID_PROVIDERS, by name."""
    return {
        name: Provider(name, issuer, client_ids)
        for name, (issuer, *client_ids) in config.OPENID_PROVIDERS.items()
    }


class Provider:
    """Who issues ID tokens, for which of our client ids, and the keys that sign them."""

    def __init__(self, name: str, issuer: str, client_ids: list[str]) -> None:
        self.name = name
        self.issuer = issuer
        self.client_ids = client_ids
        self._keys: dict[str | None, Any] = {}  # by their ids
        self._stale_at = 0.0  # when the keys are too old
        self._next_fetch_at = 0.0  # before then nobody asks for keys again
        self._fetching: asyncio.Task[None] | None = None

    async def check(self, id_token: str) -> str:
        """
        The subject of a token: the provider's name for its user. Raises OpenIDTokenError for one that does
        not count, and Unavailable when the provider does not give its keys.
        """
        import jwt

        if len(id_token) > LONGEST_TOKEN:
            raise OpenIDTokenError()
        try:
            header = jwt.get_unverified_header(id_token)
            if header.get("alg") not in ALGORITHMS:
                raise OpenIDTokenError()
            key = await self._find_key(header.get("kid"))
            claims = jwt.decode(
                id_token,
                key,
                [key.algorithm_name],
                audience=self.client_ids,
                issuer=[self.issuer, self.issuer.removeprefix("https://")],  # Google has both
                leeway=LEEWAY,
                options={"require": ["iss", "sub", "aud", "exp", "iat"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, RecursionError) as error:
            raise OpenIDTokenError() from error
        audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        # Whoever else a token was made for, or made by the wish of, could log in here with it.
        if any(who not in self.client_ids for who in (*audience, claims.get("azp", audience[0]))):
            raise OpenIDTokenError()
        if not is_oauth_id(claims["sub"]):
            raise OpenIDTokenError()
        return str(claims["sub"])

    async def _find_key(self, key_id: str | None) -> Any:
        is_stale = time.monotonic() >= self._stale_at
        if is_stale or key_id not in self._keys:
            if self._fetching is None and time.monotonic() >= self._next_fetch_at:
                self._fetching = spawn(self._fetch_keys())
                self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
            if self._fetching is not None:
                await asyncio.shield(self._fetching)  # others wait for it, too
            elif is_stale:
                raise self._unavailable()
        if key_id not in self._keys:
            raise OpenIDTokenError()
        return self._keys[key_id]

    async def _fetch_keys(self) -> None:
        pause = PAUSE_AFTER_FAILURE
        try:
            address = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
            about = await fetch_json(address, TIMEOUT)
            if about["issuer"] != self.issuer or not ISSUER.fullmatch(about["jwks_uri"]):
                raise ValueError("this is another provider, or its keys would travel in the clear")
            keys = read_keys(await fetch_json(about["jwks_uri"], TIMEOUT))
            if not keys:
                raise ValueError("there is no key")
            self._keys, self._stale_at = keys, time.monotonic() + KEYS_LIFETIME
            pause = PAUSE
        except FAILURES as error:
            raise self._unavailable() from error
        finally:
            self._next_fetch_at = time.monotonic() + pause
            self._fetching = None

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"{self.name} does not answer as it should")


def read_keys(key_set: dict[str, Any]) -> dict[str | None, Any]:
    """Of a JWK set (RFC 7517) the keys that sign tokens, by their ids; what is no such key is left out."""
    import jwt

    keys: dict[str | None, Any] = {}
    for data in key_set["keys"]:
        if data.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(data)
        except (jwt.PyJWTError, *FAILURES, NotImplementedError):
            continue
        if key.algorithm_name in ALGORITHMS:
            keys[key.key_id] = key
    return keys


class OpenIDHandler(IndicoHandler):
    def initialize(self, providers: dict[str, Provider]) -> None:
        self._providers = providers

    @property
    def subject(self) -> str:
        """Whom a login says it is for, before anything is verified: what LOGIN_RATE counts."""
        import jwt

        fields = smart_parse(self.request.body)
        try:
            token = str(fields.get("id_token"))[:LONGEST_TOKEN]
            claims = jwt.decode(token, options={"verify_signature": False})
        except (jwt.PyJWTError, RecursionError) as error:
            raise OpenIDTokenError() from error
        subject = claims.get("sub")
        if not isinstance(subject, str) or not is_oauth_id(subject):
            raise OpenIDTokenError()
        return f"{fields.get('provider')}:{subject}"

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
        # A colon, for no name holds one; and no name begins with "facebook", as Facebook's users do.
        return await log_in(f"{provider}:{subject}", user)


OpenIDRoute = (r"/openid/(?P<action>[a-zA-Z]+)?", OpenIDHandler)
