"""
An OpenID Connect provider, played by a stub on loopback: whose tokens let in, and what comes of all others.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import time
import unittest
from typing import Any
from unittest import mock

import jwt
from cryptography.hazmat.primitives import serialization
from tornado.testing import bind_unused_port

from indico import config, db
from indico.batteries import openid
from indico.batteries.openid import providers
from indico.core import fetch
from indico.core.hooks import Application
from indico.core.settings import Environment
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.server import BATTERIES, make_app
from indico.tests.batteries.openid_issuer import (
    CLIENT_ID,
    DISCOVERY,
    KEYS,
    OTHER_CLIENT_ID,
    SUBJECT,
    Issuer,
    make_key,
)
from indico.tests.mocks import USER
from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

USER_ID = "google:" + SUBJECT
REFUSED = {"status": 401, "data": "OpenID token invalid"}
OUT_OF_ORDER = {"status": 503, "data": "google does not respond as expected"}
ASKED_ONCE = [DISCOVERY, KEYS]


def encode(part: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")


class OpenIDTest(ServerTest):
    routes = [AuthRoute, UserRoute]
    stores = ("auth", "user")
    fetches_at_start = False  # most tests change what the provider says before it is asked

    def get_app(self) -> Application:
        self.issuer = Issuer()
        self.io_loop.run_sync(self.issuer.start)
        self.set(config, "OPENID_PROVIDERS", self.issuer.providers)
        self.providers = providers.make_providers()
        self.set(openid, "make_providers", lambda: self.providers)
        application = make_app(routes=self.routes)
        if not self.fetches_at_start:
            lifespans = application.hooks.lifespans
            lifespans[:] = [each for each in lifespans if getattr(each, "func", None) is not openid.lifespan]
        return application

    def tearDown(self) -> None:
        self.io_loop.run_sync(self.issuer.stop)
        super().tearDown()

    def login(self, token: str | None = None, **fields: Any) -> Any:
        data = {"provider": "google", "id_token": token or self.issuer.make_token(), "user": USER, **fields}
        return self.post("openid/login", data, {})

    def assert_refused(self, token: str) -> None:
        """It is a 401, and leaves nothing behind."""
        self.assertEqual(self.login(token), REFUSED)
        self.assertEqual(self.database.user.count_documents({}), 0)
        self.assertEqual(self.database.auth.count_documents({}), 0)


class LoginTest(OpenIDTest):
    def test_a_token_of_the_provider_lets_its_user_in(self) -> None:
        answer = self.login()
        self.assertEqual(answer["status"], 200)
        user, key = answer["data"].pop("user"), answer["data"].pop("indico_key")
        self.assertEqual(answer["data"], {})
        self.assertEqual(user, {**user, **USER, "user_id": USER_ID})
        self.assertEqual(self.post("user/find", {}, {"indico_key": key}), {"status": 200, "data": user})
        self.assertEqual(self.post("auth/logout", {}, {"indico_key": key})["data"], True)
        self.assertEqual(self.post("user/find", {}, {"indico_key": key})["status"], 401)

    def test_a_second_login_finds_the_same_user(self) -> None:
        first, second = self.login(), self.login(user={"name": "Grace"})
        self.assertEqual(second["data"]["user"], {**first["data"]["user"], "name": "Grace"})
        self.assertEqual(second["data"]["indico_key"], first["data"]["indico_key"])

    def test_nobody_gives_themselves_a_role(self) -> None:
        roles = ["admin"]
        logins = [
            self.login(user={**USER, "roles": roles}),
            self.login(roles=roles),
            self.login(self.issuer.make_token(roles=roles)),
        ]
        for login in logins:
            self.assertEqual(login["status"], 200)
            self.assertNotIn("roles", login["data"]["user"])
        for collection in (self.database.user, self.database.auth):
            self.assertEqual(collection.count_documents({}), 1)
            self.assertEqual(collection.count_documents({"roles": {"$exists": True}}), 0)

    def test_rsa_is_taken_as_elliptic_curves_are(self) -> None:
        self.issuer.keys = [make_key("rsa", "RS256")]
        self.assertEqual(self.login()["status"], 200)

    def test_another_app_of_ours_may_have_asked_for_the_token(self) -> None:
        cases: tuple[dict[str, Any], ...] = (
            {"azp": None},
            {"azp": OTHER_CLIENT_ID},
            {"aud": OTHER_CLIENT_ID},
            {"aud": [CLIENT_ID, OTHER_CLIENT_ID]},
        )
        for claims in cases:
            with self.subTest(claims):
                self.assertEqual(self.login(self.issuer.make_token(**claims))["status"], 200)

    def test_the_issuer_may_lack_its_scheme_as_google_has_it(self) -> None:
        provider = self.providers["google"]
        self.assertEqual(self.login()["status"], 200)  # fetches the keys
        provider.issuer = "https://accounts.google.com"
        for issuer, status in (
            ("https://accounts.google.com", 200),
            ("accounts.google.com", 200),
            ("http://accounts.google.com", 401),
        ):
            with self.subTest(issuer):
                self.assertEqual(self.login(self.issuer.make_token(iss=issuer))["status"], status)

    def test_an_unknown_provider_is_a_400_that_names_those_there_are(self) -> None:
        self.assertEqual(self.login(provider="twitter"), {"status": 400, "data": "provider should be google"})

    def test_a_field_that_is_missing_or_of_another_type_is_a_400(self) -> None:
        answer = self.post("openid/login", {"provider": "google", "user": {}}, {})
        self.assertEqual(answer, {"status": 400, "data": "id_token field was not provided"})
        self.assertEqual(
            self.login(provider=7),
            {"status": 400, "data": "Field provider - 7 is type int but should be str"},
        )

    def test_a_user_that_can_not_be_stored_is_a_400_and_leaves_nothing(self) -> None:
        self.assertEqual(self.login(user={"name": 7})["status"], 400)
        self.assertEqual(self.database.user.count_documents({}), 0)


class RefusalTest(OpenIDTest):
    """Tokens that let nobody in."""

    def test_what_is_no_token(self) -> None:
        for token in (
            "token",
            "a.b.c",
            "...",
            "ä.ö.ü",
            "x" * 20_000,
            encode({}) + ".e30.",
            "\x00",
            "e30.e30.e30",
        ):
            with self.subTest(token[:20]):
                self.assert_refused(token)
        self.assertEqual(self.issuer.asked, [])

    def test_headers_that_hold_what_no_header_holds(self) -> None:
        self.assertEqual(self.login(self.issuer.make_token(sub="another"))["status"], 200)
        self.database.user.delete_many({})
        self.database.auth.delete_many({})
        for name in ("alg", "kid", "crit"):
            for value in (None, 7, "first", ["ES256"], {"alg": "ES256"}):
                with self.subTest(name=name, value=value):
                    header = {"alg": "ES256", "kid": "another", name: value}
                    self.assert_refused(f"{encode(header)}.{encode(self.issuer.make_claims())}.e30")

    def test_a_header_nested_too_deep(self) -> None:
        header = base64.urlsafe_b64encode(b"[" * 9_000).decode()
        self.assert_refused(f"{header}.e30.e30")

    def test_claims_that_do_not_hold(self) -> None:
        now = int(time.time())
        cases: tuple[dict[str, Any], ...] = (
            {"exp": now - providers.LEEWAY - 1},
            {"exp": None},
            {"iat": now + providers.LEEWAY + 60},
            {"iat": None},
            {"nbf": now + providers.LEEWAY + 60},
            {"aud": "another-app.example.com"},
            {"aud": ["another-app.example.com", CLIENT_ID]},
            {"aud": []},
            {"aud": None},
            {"azp": "another-app.example.com"},
            {"azp": [CLIENT_ID]},
            {"iss": "https://accounts.google.com"},
            {"iss": None},
            {"sub": None},
            {"sub": ""},
            {"sub": "x" * 129},
            {"sub": "a\nb"},
            {"more": "x" * providers.MAX_TOKEN_LENGTH},
        )
        for claims in cases:
            with self.subTest(claims):
                self.assert_refused(self.issuer.make_token(**claims))

    def test_a_token_that_is_just_within_the_leeway_lets_in(self) -> None:
        token = self.issuer.make_token(exp=int(time.time()) - providers.LEEWAY + 30)
        self.assertEqual(self.login(token)["status"], 200)

    def test_the_signature_of_another_key_by_the_same_id(self) -> None:
        stranger = make_key("stranger")
        token = jwt.encode(self.issuer.make_claims(), stranger.private, "ES256", {"kid": "first"})
        self.assert_refused(token)

    def test_claims_that_were_changed_after_the_signature(self) -> None:
        header, _, signature = self.issuer.make_token().split(".")
        self.assert_refused(f"{header}.{encode(self.issuer.make_claims(sub='1'))}.{signature}")

    def test_no_signature_at_all(self) -> None:
        for algorithm in ("none", "None", "NONE", ""):
            with self.subTest(algorithm):
                header = {"alg": algorithm, "typ": "JWT", "kid": "first"}
                self.assert_refused(f"{encode(header)}.{encode(self.issuer.make_claims())}.")

    def test_an_hmac_with_the_public_key_for_its_secret(self) -> None:
        key = make_key("rsa", "RS256")
        self.issuer.keys = [key]
        secret = key.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        algorithm = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signed = f"{encode({'alg': 'HS256', 'kid': 'rsa'})}.{encode(self.issuer.make_claims())}"
        signature = base64.urlsafe_b64encode(algorithm.sign(signed.encode(), secret)).decode().rstrip("=")
        self.assert_refused(f"{signed}.{signature}")

    def test_another_algorithm_than_the_one_the_key_is_for(self) -> None:
        key = make_key("rsa", "RS256")
        self.issuer.keys = [key]
        self.assert_refused(jwt.encode(self.issuer.make_claims(), key.private, "RS512", {"kid": "rsa"}))

    def test_a_token_of_another_provider(self) -> None:
        other = Issuer()
        self.io_loop.run_sync(other.start)
        other.keys = [make_key("theirs")]
        self.providers["other"] = providers.Provider("other", other.url, [CLIENT_ID])
        try:
            token = other.make_token()
            self.assertEqual(self.login(token), REFUSED)
            self.assertEqual(
                self.login(token, provider="other")["data"]["user"]["user_id"], f"other:{SUBJECT}"
            )
        finally:
            self.io_loop.run_sync(other.stop)


class KeysTest(OpenIDTest):
    """Which keys count, and how often the provider is asked for them."""

    def test_keys_are_fetched_once(self) -> None:
        for _ in range(3):
            self.assertEqual(self.login()["status"], 200)
        self.assertEqual(self.issuer.asked, ASKED_ONCE)

    def test_logins_at_once_wait_for_one_fetch_and_others_do_not_wait(self) -> None:
        self.issuer.released.clear()
        data = {"provider": "google", "id_token": self.issuer.make_token(), "user": {}}

        async def run() -> list[int]:
            logins = [
                asyncio.ensure_future(
                    self.http_client.fetch(
                        self.get_url("/openid/login"), method="POST", body=json.dumps(data), raise_error=False
                    )
                )
                for _ in range(5)
            ]
            while not self.issuer.asked:
                await asyncio.sleep(0.01)
            other = await self.http_client.fetch(self.get_url("/nowhere"), raise_error=False)
            self.assertEqual((other.code, [login.done() for login in logins]), (404, [False] * 5))
            self.issuer.released.set()
            return [response.code for response in await asyncio.gather(*logins)]

        self.assertEqual(self.io_loop.run_sync(run), [200] * 5)
        self.assertEqual(self.issuer.asked, ASKED_ONCE)

    def test_a_key_that_is_new_is_found_when_a_token_names_it(self) -> None:
        self.set(providers, "PAUSE", 0)
        self.assertEqual(self.login()["status"], 200)
        old = self.issuer.make_token()
        self.issuer.keys = [make_key("second")]
        self.assertEqual(self.login()["status"], 200)
        self.assertEqual(self.login(old), REFUSED)

    def test_keys_that_nobody_knows_have_the_provider_asked_once_a_minute(self) -> None:
        self.assertEqual(self.login()["status"], 200)
        for number in range(5):
            self.assertEqual(self.login(self.issuer.make_token(make_key(f"forged {number}"))), REFUSED)
        self.assertEqual(self.issuer.asked, ASKED_ONCE)
        self.providers["google"]._next_fetch_at -= providers.PAUSE
        for number in range(5):
            self.assertEqual(self.login(self.issuer.make_token(make_key(f"forged {number}"))), REFUSED)
        self.assertEqual(self.issuer.asked, ASKED_ONCE * 2)
        self.assertEqual(self.login()["status"], 200)

    def test_keys_are_fetched_again_after_their_lifetime_and_what_is_gone_counts_no_more(self) -> None:
        self.set(providers, "KEYS_LIFETIME", 0)
        self.set(providers, "PAUSE", 0)
        old = self.issuer.make_token()
        self.assertEqual(self.login(old)["status"], 200)
        self.issuer.keys = [make_key("second")]
        self.assertEqual(self.login(old), REFUSED)
        self.assertEqual(self.issuer.asked, ASKED_ONCE * 2)

    def test_a_key_without_an_id_is_that_of_tokens_without_one(self) -> None:
        shown = {
            name: value for name, value in make_key("first").public.items() if name not in ("kid", "alg")
        }
        self.issuer.answers[KEYS] = 200, json.dumps({"keys": [shown]}).encode()
        token = jwt.encode(self.issuer.make_claims(), make_key("first").private, "ES256")
        self.assertEqual(self.login(token)["status"], 200)

    def test_a_token_without_an_id_is_that_of_the_only_key_for_its_algorithm(self) -> None:
        first, second, rsa = make_key("first"), make_key("second"), make_key("rsa", "RS256")
        for keys, signer, status in (
            ([first], first, 200),
            ([first, rsa], first, 200),
            ([first, rsa], rsa, 200),
            ([first], second, 401),
            ([first, second], first, 401),
            ([rsa], first, 401),
        ):
            with self.subTest([key.key_id for key in keys], signer=signer.key_id):
                self.issuer.keys = keys
                self.providers["google"] = providers.make_providers()["google"]
                token = jwt.encode(self.issuer.make_claims(), signer.private, signer.algorithm)
                self.assertEqual(self.login(token)["status"], status)

    def test_keys_of_one_id_are_told_apart_by_their_algorithms(self) -> None:
        rsa = make_key("rsa", "RS256")
        shown = [make_key("first").public, {**rsa.public, "kid": "first"}]
        self.issuer.answers[KEYS] = 200, json.dumps({"keys": shown}).encode()
        self.assertEqual(self.login()["status"], 200)
        token = jwt.encode(self.issuer.make_claims(), rsa.private, "RS256", {"kid": "first"})
        self.assertEqual(self.login(token)["status"], 200)

    def test_what_is_no_key_for_signatures_is_left_out(self) -> None:
        good = make_key("first").public
        shared = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"}
        others = [
            shared,
            {**good, "kid": "encrypts", "use": "enc"},
            {**good, "kid": "none", "alg": "none"},
            {**good, "kid": "hmac", "alg": "HS256"},
            {**good, "kid": "broken", "x": 7},
            {**good, "kid": "curve", "alg": None, "crv": "P-1"},
            {**good, "kid": "exotic", "alg": "ES256K"},
            {"kty": "new", "kid": "new"},
        ]
        self.issuer.answers[KEYS] = 200, json.dumps({"keys": [*others, good]}).encode()
        self.assertEqual(self.login()["status"], 200)
        self.assertEqual([key.key_id for key in self.providers["google"]._keys], ["first"])


class AtStartTest(OpenIDTest):
    fetches_at_start = True

    def get_app(self) -> Application:
        application = super().get_app()
        self.issuer.answers = {DISCOVERY: (500, b"")}
        return application

    def wait_for(self, count: int) -> None:
        async def wait() -> None:
            while len(self.issuer.asked) < count:
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(wait, timeout=10)

    def test_keys_are_fetched_until_the_provider_answers_and_the_server_is_not_ready_before(self) -> None:
        self.wait_for(2)
        self.assertEqual([*self._app.state.missing], ["Keys of google"])
        with self.assertLogs("indico", "INFO") as logs:
            self.issuer.answers = {}
            self.wait_for(len(self.issuer.asked) + 2)
            self.providers["google"]._next_fetch_at = 0.0
            self.assertEqual(self.login()["status"], 200)
        self.assertEqual([*self._app.state.missing], [])
        self.assertIn("INFO:indico:Keys of google: done", logs.output)


class OutOfOrderTest(OpenIDTest):
    """A provider that does not respond as expected: a 503, for the token may be fine."""

    def test_what_a_provider_should_not_say(self) -> None:
        self.set(providers, "PAUSE_AFTER_FAILURE", 0)
        about = {"issuer": self.issuer.url, "jwks_uri": self.issuer.url + KEYS}
        for path, status, said in (
            (DISCOVERY, 500, about),
            (DISCOVERY, 302, about),
            (DISCOVERY, 200, {**about, "issuer": "https://accounts.google.com"}),
            (DISCOVERY, 200, {**about, "jwks_uri": about["jwks_uri"].replace("127.0.0.1", "LOCALHOST")}),
            (DISCOVERY, 200, {**about, "jwks_uri": 7}),
            (DISCOVERY, 200, {"issuer": self.issuer.url}),
            (DISCOVERY, 200, [about]),
            (KEYS, 404, {"keys": [make_key("first").public]}),
            (KEYS, 200, {"keys": []}),
            (KEYS, 200, {"keys": ["first"]}),
            (KEYS, 200, {"keys": None}),
            (KEYS, 200, {}),
            (KEYS, 200, {"keys": [{**make_key("first").public, "kid": ["first"]}]}),
            (KEYS, 200, "x" * 100_000),
        ):
            with self.subTest(path=path, status=status, said=str(said)[:50]):
                self.issuer.answers = {path: (status, json.dumps(said).encode())}
                self.assertEqual(self.login(), OUT_OF_ORDER)
        for body in (b"", b"<html>Sorry</html>", b"[" * 60_000, b"\xff"):
            with self.subTest(body=body[:20]):
                self.issuer.answers = {DISCOVERY: (200, body)}
                self.assertEqual(self.login(), OUT_OF_ORDER)
        self.issuer.answers = {}
        self.assertEqual(self.login()["status"], 200)

    def test_an_issuer_that_differs_is_named_beside_the_setting(self) -> None:
        self.set(providers, "PAUSE_AFTER_FAILURE", 0)
        for issuer in (self.issuer.url + "/", "https://accounts.google.com", None):
            about = {"issuer": issuer, "jwks_uri": self.issuer.url + KEYS}
            self.issuer.answers = {DISCOVERY: (200, json.dumps(about).encode())}
            with self.subTest(issuer), self.assertLogs("indico", "WARNING") as logs:
                self.assertEqual(self.login(), OUT_OF_ORDER)
            self.assertIn(f"its issuer is {issuer!r}, but OPENID_PROVIDERS has", logs.output[0])
            self.assertIn(repr(self.issuer.url), logs.output[0])

    def test_an_issuer_of_tokens_that_differs_is_named_once_the_signature_is_checked(self) -> None:
        issuer = self.issuer.url + "/"
        with self.assertLogs("indico", "WARNING") as logs:
            self.assertEqual(self.login(self.issuer.make_token(iss=issuer)), REFUSED)
        sentence = f"google signs tokens of the issuer {issuer!r}, not {self.issuer.url!r}"
        self.assertEqual(logs.output, [f"WARNING:indico:{sentence}"])
        with self.assertNoLogs("indico", "WARNING"):
            stranger = jwt.encode(
                self.issuer.make_claims(iss=issuer), make_key("stranger").private, "ES256", {"kid": "first"}
            )
            self.assertEqual(self.login(stranger), REFUSED)

    def test_keys_at_an_internal_address_are_not_fetched_unless_the_issuer_is_at_one(self) -> None:
        self.set(providers, "PAUSE_AFTER_FAILURE", 0)
        provider = self.providers["google"]
        provider.issuer = "https://accounts.google.com"
        fetched: list[str] = []
        for address in (
            self.issuer.url + KEYS,
            "http://localhost:27017/",
            "https://localhost/keys",
            "https://app.LOCALHOST./keys",
            "https://127.0.0.1:5000/keys",
            "https://127.1/keys",
            "https://2130706433/keys",
            "https://0x7f.0.0.1/keys",
            "https://0/keys",
            "https://[::1]/keys",
            "https://[::ffff:127.0.0.1]/keys",
            "https://10.0.0.1/keys",
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/keys",
            "https://user@127.0.0.1/keys",
        ):

            async def fetch(url: str, seconds: float) -> Any:
                fetched.append(url)
                return {"issuer": provider.issuer, "jwks_uri": address}  # noqa: B023

            with self.subTest(address):
                self.set(providers, "fetch_json", fetch)
                self.assertEqual(self.login(), OUT_OF_ORDER)
        self.assertEqual(set(fetched), {provider.issuer + DISCOVERY})

    def test_headers_that_are_too_large(self) -> None:
        self.set(fetch, "LARGEST_HEAD", 20)
        self.assertEqual(self.login(), OUT_OF_ORDER)

    def test_a_provider_is_asked_through_the_proxy(self) -> None:
        self.set(providers, "PAUSE_AFTER_FAILURE", 0)
        self.providers["google"].issuer = "https://127.0.0.1:1"
        asked: list[bytes] = []

        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n"))
            writer.write(b"HTTP/1.1 403 Forbidden\r\n\r\n")
            writer.close()

        proxy = self.io_loop.run_sync(lambda: asyncio.start_server(refuse, "127.0.0.1", 0))
        address = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        for no_proxy in ("127.0.0.1", ""):
            with mock.patch.dict(os.environ, HTTPS_PROXY=address, NO_PROXY=no_proxy, no_proxy=no_proxy):
                self.assertEqual(self.login(), OUT_OF_ORDER)
        proxy.close()
        self.assertEqual(asked, [b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n"])

    def test_a_provider_that_is_slow(self) -> None:
        self.set(providers, "TIMEOUT", 0.1)
        self.issuer.released.clear()
        response = self.fetch(
            "/openid/login",
            method="POST",
            body=json.dumps({"provider": "google", "id_token": self.issuer.make_token(), "user": {}}),
        )
        self.assertEqual(json.loads(response.body), OUT_OF_ORDER)
        self.assertEqual(response.headers["Retry-After"], "1")

    def test_a_provider_that_nobody_reaches(self) -> None:
        socket, port = bind_unused_port()
        socket.close()
        self.providers["google"].issuer = f"http://127.0.0.1:{port}"
        self.assertEqual(self.login(), OUT_OF_ORDER)

    def test_after_a_failure_it_is_left_alone_for_a_moment(self) -> None:
        self.issuer.answers = {DISCOVERY: (500, b"")}
        for _ in range(3):
            self.assertEqual(self.login(), OUT_OF_ORDER)
        self.assertEqual(self.issuer.asked, [DISCOVERY])

    def test_users_whose_key_is_known_do_not_notice(self) -> None:
        self.set(providers, "PAUSE", 0)
        self.assertEqual(self.login()["status"], 200)
        self.issuer.answers = {DISCOVERY: (500, b"")}
        self.assertEqual(self.login(self.issuer.make_token(make_key("unknown"))), OUT_OF_ORDER)
        self.assertEqual(self.login()["status"], 200)


@unittest.skipUnless("indico.batteries.limit" in BATTERIES, "the battery was taken out")
class LoginRateTest(OpenIDTest):
    """LOGIN_RATE counts these logins as it does the others."""

    def get_app(self) -> Application:
        self.set(config, "LOGIN_RATE", (3, 24 * 3600))
        self.set(config, "TRUSTED_PROXIES", Environment({"A": "127.0.0.1"}).networks("A"))
        return super().get_app()

    def login_from(self, address: str, token: str) -> int:
        data = {"provider": "google", "id_token": token, "user": {}}
        return int(self.post("openid/login", data, {"X-Forwarded-For": address})["status"])

    def test_an_account_is_limited_whatever_the_address(self) -> None:
        tokens = [self.issuer.make_token(exp=int(time.time()) + 1000 + number) for number in range(4)]
        statuses = [self.login_from(f"10.0.0.{number}", token) for number, token in enumerate(tokens)]
        self.assertEqual(statuses, [200, 200, 200, 429])
        self.assertEqual(self.login_from("10.0.0.9", self.issuer.make_token(sub="another")), 200)

    def test_a_subject_that_is_none_counts_for_the_address_alone(self) -> None:
        token = self.issuer.make_token(sub="\ud800")
        self.assertEqual([self.login_from("10.0.0.1", token) for _ in range(4)], [401, 401, 401, 429])
        token = self.issuer.make_token(make_key("another"), sub="\n")
        self.assertEqual([self.login_from(f"10.0.1.{number}", token) for number in range(4)], 4 * [401])

    def test_a_provider_that_a_client_makes_up_uses_up_nobodys_logins(self) -> None:
        self.set(config, "LOGIN_RATE", (1, 24 * 3600))
        for number, (provider, subject) in enumerate(
            (("address 2001", "db8::/64"), ("account google", SUBJECT), ("address 10.0.0.1", ""))
        ):
            token = self.issuer.make_token(sub=subject)
            data = {"provider": provider, "id_token": token, "user": {}}
            headers = {"X-Forwarded-For": f"10.1.0.{number}"}
            self.assertEqual(self.post("openid/login", data, headers)["status"], 400)
        for address in ("2001:db8::77", "10.0.0.1"):
            self.assertEqual(self.login_from(address, self.issuer.make_token(sub=f"from {address}")), 200)

    def test_an_address_is_limited_whatever_it_sends(self) -> None:
        self.assertEqual([self.login_from("10.0.0.1", "guess") for _ in range(4)], [401, 401, 401, 429])


class InstallTest(StrictTest):
    @slow
    def test_without_providers_there_is_no_route_and_no_import(self) -> None:
        script = (
            "import sys; from indico.server import make_app; application = make_app();"
            "print(any('OpenID' in str(rule.target) for rule in application.routes),"
            " 'jwt' in sys.modules)"
        )
        output = subprocess.check_output([sys.executable, "-c", script], env=make_environment({}), text=True)
        self.assertEqual(output, "False False\n")

    def test_without_pyjwt_it_says_so_in_one_sentence_and_adds_no_route(self) -> None:
        providers = {"google": ["https://accounts.google.com", CLIENT_ID]}
        for missing in ("jwt", "cryptography"):
            with (
                self.subTest(missing),
                mock.patch.object(config, "OPENID_PROVIDERS", providers),
                mock.patch.dict(sys.modules, {missing: None}),
                self.assertLogs("indico", "WARNING") as logs,
            ):
                application = Application(database=db)
                openid.install(application)
                self.assertEqual(
                    [record.getMessage() for record in logs.records],
                    [
                        "OPENID_PROVIDERS is set, but PyJWT is not installed, so there is no /openid/login:"
                        " pip install -e '.[openid]'"
                    ],
                )
                self.assertEqual(application.wildcard_router.rules, [])
