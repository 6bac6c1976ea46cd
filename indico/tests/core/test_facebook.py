"""
Facebook, played by a stub on loopback: what it says of a token, and what a login then answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, quote, quote_plus, urlsplit

from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.testing import AsyncTestCase, bind_unused_port, gen_test

from indico import config
from indico.error import FacebookTokenError, Unavailable
from indico.routes.auth import AuthRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, OAUTH_ID, USER_ID, USER_KEY
from indico.tests.testutils import graph, slow
from indico.tests.testutils.graph import Graph, graph_in_thread
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth import facebook_utils
from indico.utils.auth.facebook_utils import check_access_token

REFUSAL = {"status": 401, "data": "Facebook Auth Token invalid"}
OUT_OF_ORDER = {"status": 503, "data": "Facebook does not respond as expected"}
NOT_SET_UP = {"status": 503, "data": "Logins with Facebook are not set up on this server"}


def closed_port() -> str:
    """An address of this machine where nothing listens."""
    socket, port = bind_unused_port()
    socket.close()
    return f"http://127.0.0.1:{port}"


class GraphTest(StrictTest, AsyncTestCase):
    """A test with a stub on its own event loop, which the server under test is set to ask."""

    def setUp(self) -> None:
        super().setUp()
        self.graph = Graph()
        self.io_loop.run_sync(self.graph.start)
        for name, value in self.graph.settings.items():
            self.set(config, name, value)

    def tearDown(self) -> None:
        self.io_loop.run_sync(self.graph.stop)
        super().tearDown()


class CheckAccessTokenTest(GraphTest):
    def check(self, token: str, oauth_id: str = OAUTH_ID) -> bool:
        result: bool = self.io_loop.run_sync(lambda: check_access_token(token, oauth_id))
        return result

    def assert_refused_unasked(self, token: str) -> None:
        with self.assertRaises(FacebookTokenError):
            self.check(token)
        self.assertEqual(self.graph.uris, [])

    def test_what_facebook_calls_valid_is_accepted(self) -> None:
        self.graph.release()
        for token in graph.ACCEPTED:
            with self.subTest(token):
                self.assertIs(self.check(token), True)

    def test_any_other_token_is_refused(self) -> None:
        for token in (*graph.REFUSED, "token-nobody-knows", ""):
            with self.subTest(token), self.assertRaises(FacebookTokenError):
                self.check(token)

    def test_a_valid_token_is_refused_for_another_user(self) -> None:
        for oauth_id in (OAUTH_ID + "1", OAUTH_ID[:-1], " " + OAUTH_ID, "", "None", "True"):
            with self.subTest(oauth_id), self.assertRaises(FacebookTokenError):
                self.check(graph.VALID, oauth_id)

    def test_a_token_of_no_user_is_refused_for_an_oauth_id_that_reads_like_none(self) -> None:
        for oauth_id in ("None", "null", ""):
            with self.subTest(oauth_id), self.assertRaises(FacebookTokenError):
                self.check("token-of-no-user", oauth_id)

    @slow
    def test_an_answer_that_makes_no_sense_is_unavailable(self) -> None:
        for token in (*graph.BROKEN, graph.HANG_UP):
            with self.subTest(token), self.assertRaises(Unavailable) as caught:
                self.check(token)
            self.assertEqual(caught.exception.code, 503)
        self.assertEqual(len(self.graph.uris), len(graph.BROKEN) + 1)

    def test_a_facebook_that_is_slower_than_the_timeout_is_unavailable(self) -> None:
        self.set(facebook_utils, "TIMEOUT", 0.1)
        with self.assertRaises(Unavailable):
            self.check(graph.SLOW)

    def test_a_facebook_that_can_not_be_reached_is_unavailable(self) -> None:
        self.set(config, "FACEBOOK_GRAPH_URL", closed_port())
        with self.assertRaises(Unavailable):
            self.check(graph.VALID)

    def test_credentials_that_facebook_refuses_are_unavailable(self) -> None:
        self.set(config, "FACEBOOK_APP_SECRET", "not the secret")
        with self.assertRaises(Unavailable):
            self.check(graph.VALID)

    def test_token_and_credentials_arrive_escaped_and_whole(self) -> None:
        self.assertTrue(self.check(graph.ODD))
        [uri] = self.graph.uris
        address = urlsplit(uri)
        self.assertEqual(address.path, "/debug_token")
        self.assertEqual(
            parse_qs(address.query, strict_parsing=True),
            {"input_token": [graph.ODD], "access_token": [f"{graph.APP_ID}|{graph.APP_SECRET}"]},
        )
        self.assertRegex(uri, r"\A[A-Za-z0-9/?=&%+._-]+\Z")

    def test_a_graph_url_may_end_in_a_slash(self) -> None:
        self.set(config, "FACEBOOK_GRAPH_URL", self.graph.settings["FACEBOOK_GRAPH_URL"] + "/")
        self.assertTrue(self.check(graph.VALID))

    def test_a_token_of_4096_characters_is_asked_for(self) -> None:
        with self.assertRaises(FacebookTokenError):
            self.check(4096 * "x")
        self.assertEqual(len(self.graph.uris), 1)

    def test_a_longer_token_is_refused_unasked(self) -> None:
        self.assert_refused_unasked(4097 * "x")

    def test_an_empty_token_is_refused_unasked(self) -> None:
        self.assert_refused_unasked("")

    def test_what_no_token_holds_is_refused_unasked(self) -> None:
        for token in ("a b", " a", "a\n", "a\r\nHost: b", "a\tb", "a\0", "\x7f", "é", "🦄", "\ud800"):
            with self.subTest(ascii(token)):
                self.assert_refused_unasked(token)

    def test_the_token_of_development_is_accepted_unasked(self) -> None:
        self.set(config, "DEV_TOKEN", "token-of-development")
        self.assertIs(self.check("token-of-development", "anyone"), True)
        self.assertEqual(self.graph.uris, [])

    def test_the_token_of_development_need_not_look_like_one_of_facebooks(self) -> None:
        for token in ("ein schöner Schlüssel", "not utf-8: \udcff"):
            self.set(config, "DEV_TOKEN", token)
            self.assertIs(self.check(token), True)

    def test_in_production_the_token_of_development_is_a_token_like_any_other(self) -> None:
        self.set(config, "DEV_TOKEN", "token-of-development")
        self.set(config, "PRODUCTION", True)
        with self.assertRaises(FacebookTokenError):
            self.check("token-of-development")
        self.assertEqual(len(self.graph.uris), 1)

    def test_without_a_token_of_development_an_empty_token_is_refused(self) -> None:
        self.set(config, "DEV_TOKEN", "")
        self.assert_refused_unasked("")

    def test_without_credentials_development_refuses_all_tokens_but_its_own(self) -> None:
        for name in ("FACEBOOK_APP_ID", "FACEBOOK_APP_SECRET"):
            with mock.patch.object(config, name, ""):
                self.assert_refused_unasked(graph.VALID)
                self.assertIs(self.check(config.DEV_TOKEN), True)

    def test_without_credentials_production_is_unavailable(self) -> None:
        self.set(config, "PRODUCTION", True)
        for name in ("FACEBOOK_APP_ID", "FACEBOOK_APP_SECRET"):
            with mock.patch.object(config, name, ""), self.assertRaises(Unavailable):
                self.check(graph.VALID)
        self.assertEqual(self.graph.uris, [])


class LoginWithFacebookTest(GraphTest, ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")

    def get_http_client(self) -> AsyncHTTPClient:
        # The shared client sends ten requests at a time, which is what the server must not do.
        return AsyncHTTPClient(force_instance=True, max_clients=20)

    def log_in(self, token: str, **changes: Any) -> Any:
        return self.post("auth/login", {**LOGIN_DATA, "access_token": token, **changes}, {})

    async def send(self, action: str, data: Any) -> HTTPResponse:
        url = self.get_url(f"/auth/{action}")
        return await self.http_client.fetch(
            url, method="POST", body=json.dumps(data), headers=HEADERS, raise_error=False
        )

    async def send_login(self, token: str) -> HTTPResponse:
        return await self.send("login", {**LOGIN_DATA, "access_token": token})

    def assert_nothing_stored(self) -> None:
        for name in self.database.list_collection_names():
            self.assertEqual(list(self.database[name].find()), [], name)

    def test_a_valid_token_logs_in(self) -> None:
        answer = self.log_in(graph.ODD)
        self.assertEqual(answer["status"], 200)
        self.assertEqual(answer["data"]["indico_key"], USER_KEY)
        self.assertEqual(answer["data"]["user"]["user_id"], USER_ID)
        self.assertEqual(self.database.user.count_documents({"user_id": USER_ID}), 1)
        self.assertEqual(self.post("auth/check", {}), {"status": 200, "data": True})

    @slow
    def test_a_refused_token_is_401_and_leaves_nothing_behind(self) -> None:
        for token in (*graph.REFUSED, "token-nobody-knows", "", "a b", 4097 * "x"):
            with self.subTest(token[:50]):
                self.assertEqual(self.log_in(token), REFUSAL)
        self.assert_nothing_stored()

    def test_the_token_of_another_user_is_401_and_leaves_nothing_behind(self) -> None:
        self.assertEqual(self.log_in(graph.VALID, oauth_id="10208"), REFUSAL)
        self.assertEqual(self.log_in("token-of-no-user", oauth_id="None"), REFUSAL)
        self.assert_nothing_stored()

    @slow
    def test_a_broken_facebook_is_503_and_leaves_nothing_behind(self) -> None:
        for token in (*graph.BROKEN, graph.HANG_UP):
            with self.subTest(token):
                self.assertEqual(self.log_in(token), OUT_OF_ORDER)
        self.assert_nothing_stored()

    @slow
    def test_a_slow_facebook_is_503_and_leaves_nothing_behind(self) -> None:
        self.set(facebook_utils, "TIMEOUT", 0.1)
        self.assertEqual(self.log_in(graph.SLOW), OUT_OF_ORDER)
        self.assert_nothing_stored()

    def test_an_unreachable_facebook_is_503_and_leaves_nothing_behind(self) -> None:
        self.set(config, "FACEBOOK_GRAPH_URL", closed_port())
        self.assertEqual(self.log_in(graph.VALID), OUT_OF_ORDER)
        self.assert_nothing_stored()

    def test_why_a_facebook_is_unavailable_goes_to_the_log(self) -> None:
        with self.assertLogs("indico", logging.WARNING) as logs:
            self.log_in("token-status-500")
        self.assertIn("HTTP 500", logs.output[0])

    def test_a_503_tells_the_client_when_to_try_again(self) -> None:
        body = json.dumps({**LOGIN_DATA, "access_token": "token-status-500"})
        response = self.fetch("/auth/login", method="POST", body=body)
        self.assertRegex(response.headers["Retry-After"], r"\A[1-9][0-9]*\Z")

    def test_production_refuses_the_token_of_development_with_401(self) -> None:
        self.set(config, "PRODUCTION", True)
        self.assertEqual(self.log_in(config.DEV_TOKEN), REFUSAL)
        self.assert_nothing_stored()

    def test_production_without_credentials_is_503(self) -> None:
        self.set(config, "PRODUCTION", True)
        self.set(config, "FACEBOOK_APP_SECRET", "")
        self.assertEqual(self.log_in(graph.VALID), NOT_SET_UP)
        self.assert_nothing_stored()

    def test_development_without_credentials_answers_401_to_any_token_but_its_own(self) -> None:
        self.set(config, "FACEBOOK_APP_ID", "")
        self.assertEqual(self.log_in(graph.VALID), REFUSAL)
        self.assert_nothing_stored()
        self.assertEqual(self.log_in(config.DEV_TOKEN)["status"], 200)

    @slow
    @gen_test
    async def test_ten_logins_that_wait_for_facebook_hold_up_nobody_else(self) -> None:
        waiting = [asyncio.ensure_future(self.send_login(graph.SLOW)) for _ in range(10)]
        await self.graph.wait_for_requests(10)
        self.assertEqual((await self.send_login(graph.VALID)).code, 200)
        self.assertEqual((await self.send("check", {})).code, 200)
        self.assertEqual([task.done() for task in waiting], 10 * [False])
        self.graph.release()
        self.assertEqual([(await task).code for task in waiting], 10 * [200])
        self.assertEqual(self.database.user.count_documents({}), 1)

    @gen_test
    async def test_a_client_that_leaves_while_facebook_is_slow_logs_no_error_and_leaves_nothing_behind(
        self,
    ) -> None:
        self.set(facebook_utils, "TIMEOUT", 0.2)
        body = json.dumps({**LOGIN_DATA, "access_token": graph.SLOW})
        head = f"POST /auth/login HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
        writer.write((head + body).encode())
        await self.graph.wait_for_requests(1)
        writer.close()
        await writer.wait_closed()
        await self.graph.left.wait()
        self.assert_nothing_stored()

    @slow
    def test_no_log_line_holds_a_token_a_key_or_a_secret(self) -> None:
        lines = self.record_all_logs()
        self.set(facebook_utils, "TIMEOUT", 0.2)
        tokens = [*graph.ANSWERS, graph.HANG_UP, "token with spaces", config.DEV_TOKEN]
        statuses = [self.log_in(token)["status"] for token in tokens]
        self.set(config, "FACEBOOK_GRAPH_URL", closed_port())
        statuses.append(self.log_in(graph.VALID)["status"])
        for action in ("check", "logout", "check"):
            statuses.append(self.post(f"auth/{action}", {})["status"])
        self.assertEqual(set(statuses), {200, 401, 503})
        self.assertGreater(len(lines), len(statuses))
        secrets = [*tokens, graph.APP_SECRET, USER_KEY, os.environ["USER_SALT"]]
        for secret in secrets:
            for text in {secret, quote(secret, ""), quote_plus(secret)}:
                self.assertEqual([line for line in lines if text in line], [])

    def record_all_logs(self) -> list[str]:
        """What is logged from now on, at any level and by anyone, with tracebacks."""
        lines: list[str] = []
        handler = logging.Handler()
        mock.patch.object(handler, "emit", lambda record: lines.append(handler.format(record))).start()
        root = logging.getLogger()
        self.addCleanup(root.setLevel, root.level)
        self.addCleanup(root.removeHandler, handler)
        root.setLevel(logging.DEBUG)
        root.addHandler(handler)
        return lines


class GraphInThreadTest(ServerTest):
    routes = [AuthRoute]

    @slow
    def test_a_stub_in_a_thread_answers_a_server_on_another_loop(self) -> None:
        with graph_in_thread() as stub, mock.patch.dict(vars(config), stub.settings):
            stub.release()
            login = {**LOGIN_DATA, "access_token": graph.SLOW}
            self.assertEqual(self.post("auth/login", login)["status"], 200)
            self.assertEqual(self.post("auth/login", {**login, "access_token": "x"}), REFUSAL)
            self.assertEqual(len(stub.uris), 2)
