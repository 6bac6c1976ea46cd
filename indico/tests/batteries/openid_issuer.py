"""
A stub of an OpenID Connect provider on a free loopback port. Tests make its tokens.
"""

from __future__ import annotations

import asyncio
import functools
import json
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import get_default_algorithms
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

CLIENT_ID = "our-app.example.com"
OTHER_CLIENT_ID = "our-phone-app.example.com"  # ours, too
SUBJECT = "110169484474386276334"
DISCOVERY = "/.well-known/openid-configuration"
KEYS = "/keys"


class Key:
    """A private key of the provider, with its key id."""

    def __init__(self, key_id: str, algorithm: str, private: Any) -> None:
        self.key_id = key_id
        self.algorithm = algorithm
        self.private = private

    @property
    def public(self) -> dict[str, Any]:
        """The public key as the provider publishes it."""
        published: dict[str, Any] = get_default_algorithms()[self.algorithm].to_jwk(
            self.private.public_key(), as_dict=True
        )
        return {**published, "kid": self.key_id, "use": "sig", "alg": self.algorithm}


@functools.cache
def make_key(key_id: str, algorithm: str = "ES256") -> Key:
    """Make the key of that id. The same arguments always return the same key."""
    if algorithm.startswith("ES"):
        return Key(key_id, algorithm, ec.generate_private_key(ec.SECP256R1()))
    return Key(key_id, algorithm, rsa.generate_private_key(65537, 2048))


class Issuer:
    """
    The stub. It runs on the event loop of `start`, until `stop`.

    `keys` are the keys that it publishes. `answers` are statuses and bodies by path, which replace the
    default responses. `asked` are the paths of its requests. While `released` is not set, it does not
    respond.
    """

    async def start(self) -> None:
        socket, port = bind_unused_port()
        self.url = f"http://127.0.0.1:{port}"
        self.providers = {"google": [self.url, CLIENT_ID, OTHER_CLIENT_ID]}  # OPENID_PROVIDERS
        self.keys = [make_key("first")]
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.asked: list[str] = []
        self.released = asyncio.Event()
        self.released.set()
        routes = [(".*", _Page, {"issuer": self})]
        self._server = HTTPServer(Application(routes, log_function=lambda handler: None))
        self._server.add_socket(socket)

    async def stop(self) -> None:
        self.released.set()
        self._server.stop()
        await self._server.close_all_connections()

    def make_token(self, key: Key | None = None, **claims: Any) -> str:
        """Make a token, signed with the key or else the first of `keys`. A claim of None is left out."""
        key = key or self.keys[0]
        return jwt.encode(self.make_claims(**claims), key.private, key.algorithm, {"kid": key.key_id})

    def make_claims(self, **claims: Any) -> dict[str, Any]:
        now = int(time.time())
        all_claims = {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": CLIENT_ID,
            "azp": CLIENT_ID,
            "iat": now,
            "exp": now + 3600,
            **claims,
        }
        return {name: value for name, value in all_claims.items() if value is not None}

    def answer(self, path: str) -> tuple[int, bytes]:
        """Return the status and body for a path."""
        pages = {
            DISCOVERY: {"issuer": self.url, "jwks_uri": self.url + KEYS},
            KEYS: {"keys": [key.public for key in self.keys]},
        }
        return self.answers.get(path) or (200, json.dumps(pages[path]).encode())


class _Page(RequestHandler):
    def initialize(self, issuer: Issuer) -> None:
        self.issuer = issuer

    async def get(self) -> None:
        self.issuer.asked.append(self.request.path)
        await self.issuer.released.wait()
        status, body = self.issuer.answer(self.request.path)
        self.set_status(status)
        self.finish(body)
