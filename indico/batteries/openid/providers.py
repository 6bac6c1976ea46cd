"""
Providers of OpenID Connect: their keys, and the checks of their ID tokens.

An ID token is valid if the provider signed it for our app and it has not expired (OpenID Connect Core 1.0,
3.1.3.7). The provider's keys are found by discovery when the server starts, and cached for an hour. If a
token names an unknown key, they are fetched again, but at most once a minute.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from indico import config
from indico.batteries.openid.keys import ALGORITHMS, is_internal, read_keys
from indico.core.fetch import FAILURES, fetch_json
from indico.core.setting_values import ISSUER
from indico.core.tasks import spawn
from indico.error import IndicoError, Unavailable
from indico.routes.auth import is_oauth_id
from indico.utils import LOGGER

TIMEOUT = 5  # seconds, for each of the two addresses of a provider
KEYS_LIFETIME = 3600  # seconds
PAUSE = 60  # seconds between two fetches because of an unknown key
PAUSE_AFTER_FAILURE = 1  # seconds
MAX_TOKEN_LENGTH = 16 * 1024  # characters
LEEWAY = 60  # seconds by which the provider's clock and ours may differ


class OpenIDTokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("OpenID token invalid", 401)


def make_providers() -> dict[str, Provider]:
    """Make the providers of OPENID_PROVIDERS, by name."""
    return {
        name: Provider(name, issuer, client_ids)
        for name, (issuer, *client_ids) in config.OPENID_PROVIDERS.items()
    }


class Provider:
    """An issuer of ID tokens, our client ids there, and the keys that sign its tokens."""

    def __init__(self, name: str, issuer: str, client_ids: list[str]) -> None:
        self.name = name
        self.issuer = issuer
        self.client_ids = client_ids
        self._keys: list[Any] = []
        self._stale_at = 0.0  # time.monotonic
        self._next_fetch_at = 0.0  # time.monotonic
        self._fetching: asyncio.Task[None] | None = None

    async def check(self, id_token: str) -> str:
        """
        Return the subject of a token, the provider's id of its user. Raises OpenIDTokenError if the token is
        not valid, and Unavailable if the provider's keys can't be fetched.
        """
        import jwt

        if len(id_token) > MAX_TOKEN_LENGTH:
            raise OpenIDTokenError()
        try:
            header = jwt.get_unverified_header(id_token)
            if header.get("alg") not in ALGORITHMS:
                raise OpenIDTokenError()
            key = await self._find_key(header.get("kid"), header["alg"])
            claims = jwt.decode(
                id_token,
                key,
                [key.algorithm_name],
                audience=self.client_ids,
                issuer=[self.issuer, self.issuer.removeprefix("https://")],  # Google uses both
                leeway=LEEWAY,
                options={"require": ["iss", "sub", "aud", "exp", "iat"], "enforce_minimum_key_length": True},
            )
        except jwt.InvalidIssuerError as error:  # the signature is valid, so the provider wrote this
            issuer = jwt.decode(id_token, options={"verify_signature": False})["iss"]
            LOGGER.warning("%s signs tokens of the issuer %r, not %r", self.name, issuer, self.issuer)
            raise OpenIDTokenError() from error
        except (jwt.PyJWTError, RecursionError) as error:
            raise OpenIDTokenError() from error
        audience = claims["aud"] if isinstance(claims["aud"], list) else [claims["aud"]]
        # Every app in `aud` and `azp` has this token and could log in with it, so all must be ours.
        if any(client_id not in self.client_ids for client_id in (*audience, claims.get("azp", audience[0]))):
            raise OpenIDTokenError()
        if not is_oauth_id(claims["sub"]):
            raise OpenIDTokenError()
        return str(claims["sub"])

    async def _find_key(self, key_id: str | None, algorithm: str) -> Any:
        is_stale = time.monotonic() >= self._stale_at
        if is_stale or self._pick_key(key_id, algorithm) is None:
            if self._fetching is not None or time.monotonic() >= self._next_fetch_at:
                await self.fetch_keys()
            elif is_stale:
                raise self._unavailable()
        key = self._pick_key(key_id, algorithm)
        if key is None:
            raise OpenIDTokenError()
        return key

    def _pick_key(self, key_id: str | None, algorithm: str) -> Any:
        """Return the key for this algorithm and of this id. A token without an id needs a single such key."""
        found = [
            key
            for key in self._keys
            if key.algorithm_name == algorithm and (key_id is None or key.key_id == key_id)
        ]
        return found[0] if len(found) == 1 or (found and key_id is not None) else None

    async def fetch_keys(self) -> None:
        """Fetch the provider's keys. All callers wait for the same fetch. Raises Unavailable if it fails."""
        if self._fetching is None:
            self._fetching = spawn(self._fetch_keys())
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        await asyncio.shield(self._fetching)

    async def _fetch_keys(self) -> None:
        pause = PAUSE_AFTER_FAILURE
        try:
            address = self.issuer.rstrip("/") + "/.well-known/openid-configuration"
            about = await fetch_json(address, TIMEOUT)
            if about["issuer"] != self.issuer:
                raise ValueError(
                    f"its issuer is {about['issuer']!r}, but OPENID_PROVIDERS has {self.issuer!r}"
                )
            address = about["jwks_uri"]
            if not ISSUER.fullmatch(address) or (is_internal(address) and not is_internal(self.issuer)):
                raise ValueError(f"its keys are at {address!r}, which is not https or is an internal address")
            keys = read_keys(await fetch_json(address, TIMEOUT))
            if not keys:
                raise ValueError("no usable keys")
            self._keys, self._stale_at = keys, time.monotonic() + KEYS_LIFETIME
            pause = PAUSE
        except FAILURES as error:
            raise self._unavailable() from error
        finally:
            self._next_fetch_at = time.monotonic() + pause
            self._fetching = None

    def _unavailable(self) -> Unavailable:
        return Unavailable(f"{self.name} does not respond as expected")


def read_subject(id_token: str) -> str:
    """Return the subject of a token without verifying it. Raises OpenIDTokenError if there is none."""
    import jwt

    try:
        claims = jwt.decode(id_token[:MAX_TOKEN_LENGTH], options={"verify_signature": False})
    except (jwt.PyJWTError, RecursionError) as error:
        raise OpenIDTokenError() from error
    subject = claims.get("sub")
    if not isinstance(subject, str) or not is_oauth_id(subject):
        raise OpenIDTokenError()
    return subject
