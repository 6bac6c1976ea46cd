"""
How many logins there may be.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from indico import config
from indico.core.hooks import Application
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest

DAY = 24 * 3600  # seconds, a window that hardly ever ends within a test


class DoorHandler(IndicoHandler):
    def login(self, data: bytes) -> str:
        return "come in"


class LoginRateTest(ServerTest):
    routes = [AuthRoute, (r"/door/(?P<action>[a-zA-Z]+)?", DoorHandler)]

    def get_app(self) -> Application:
        self.set(config, "LOGIN_RATE", (3, DAY))
        return make_app(routes=self.routes)

    def set(self, module: Any, name: str, value: Any) -> None:
        self.addCleanup(setattr, module, name, getattr(module, name))
        setattr(module, name, value)

    def login(self, oauth_id: str = "1", token: str = "guess", forwarded: str = "") -> int:
        data = {**LOGIN_DATA, "oauth_id": oauth_id, "access_token": token}
        headers = {"X-Forwarded-For": forwarded} if forwarded else {}
        return int(self.post("auth/login", data, headers)["status"])

    def test_more_logins_from_an_address_are_refused_until_the_window_ends(self) -> None:
        self.assertEqual([self.login(str(number)) for number in range(5)], [401, 401, 401, 429, 429])

    def test_the_refusal_says_when_to_try_again(self) -> None:
        for _ in range(4):
            response = self.fetch("/auth/login", method="POST", body="oauth_id=1")
        self.assertEqual(response.code, 429)
        wait = int(response.headers["Retry-After"])
        self.assertTrue(0 < wait <= DAY)
        data = f"Too many requests, try again in {wait} seconds"
        self.assertEqual(response.body.decode(), f'{{"status":429,"data":"{data}"}}')

    def test_a_new_window_begins_at_none(self) -> None:
        for _ in range(4):
            status = self.login()
        self.assertEqual(status, 429)
        self.set(config, "LOGIN_RATE", (3, DAY // 2))
        self.assertEqual(self.login(), 401)

    def test_logins_with_the_token_of_development_are_not_counted(self) -> None:
        statuses = [self.login(token=config.DEV_TOKEN) for _ in range(5)]
        self.assertEqual([*statuses, self.login()], [200, 200, 200, 200, 200, 401])
        self.assertEqual(self.database.login_rate.count_documents({}), 2)

    def test_in_production_the_token_of_development_counts_like_any_other(self) -> None:
        self.set(config, "PRODUCTION", True)
        statuses = [self.login(token=config.DEV_TOKEN) for _ in range(4)]
        self.assertEqual(statuses, [401, 401, 401, 429])

    def test_bodies_without_an_oauth_id_count_for_the_address(self) -> None:
        codes = [self.fetch("/auth/login", method="POST", body=body).code for body in ("{", "", "{}", "{}")]
        self.assertEqual(codes, [400, 400, 400, 429])

    def test_an_oauth_id_is_limited_whatever_the_address(self) -> None:
        self.set(config, "TRUSTED_PROXIES", [ipaddress.ip_network("127.0.0.1")])
        statuses = [self.login("1", forwarded=f"10.0.0.{number}") for number in range(4)]
        self.assertEqual(statuses, [401, 401, 401, 429])
        self.assertEqual(self.login("2", forwarded="10.0.0.1"), 401)

    def test_each_client_counts_by_itself_however_the_proxy_writes_its_address(self) -> None:
        self.set(config, "TRUSTED_PROXIES", [ipaddress.ip_network("127.0.0.1")])
        for spellings in (
            ("203.0.113.1:51001", "203.0.113.1:51002", "203.0.113.1", "::ffff:203.0.113.1"),
            ("203.0.113.2:51001", "[::ffff:203.0.113.2]:443", "203.0.113.2", " 203.0.113.2:1 "),
            ("2001:db8::1", "[2001:db8::2]:443", "2001:DB8:0:0:ffff::", "2001:db8::7%eth0"),
            ("2001:db8:0:1::1", "2001:db8:0:1::2", "[2001:db8:0:1::3]", '"[2001:db8:0:1::4]:1"'),
        ):
            with self.subTest(spellings):
                statuses = [self.login(f"{address} {spellings}", forwarded=address) for address in spellings]
                self.assertEqual(statuses, [401, 401, 401, 429])

    def test_a_header_from_whom_we_do_not_trust_changes_no_address(self) -> None:
        statuses = [self.login(str(number), forwarded=f"10.0.0.{number}") for number in range(4)]
        self.assertEqual(statuses, [401, 401, 401, 429])

    def test_any_handler_may_have_a_login(self) -> None:
        codes = [self.fetch("/door/login", method="POST", body="").code for _ in range(4)]
        self.assertEqual(codes, [200, 200, 200, 429])

    def test_other_actions_are_not_limited(self) -> None:
        for _ in range(9):
            self.assertEqual(self.post("auth/check", {}, {})["status"], 401)
        self.assertEqual(self.login(), 401)

    def test_neither_address_nor_oauth_id_is_stored_and_what_is_expires(self) -> None:
        self.login("my-oauth-id")
        documents = list(self.database.login_rate.find())
        self.assertEqual(len(documents), 2)
        self.assertNotIn("my-oauth-id", str(documents))
        self.assertNotIn("127.0.0.1", str(documents))
        indexes = self.database.login_rate.index_information()
        self.assertEqual(indexes["expires_1"]["expireAfterSeconds"], 0)
        self.assertTrue(indexes["key_1"]["unique"])


@slow
class SharedRateTest(ProcessTest):
    def test_two_servers_share_the_count_and_off_means_off(self) -> None:
        servers = [self.start(LOGIN_RATE="2/day") for _ in range(2)]
        login = {**LOGIN_DATA, "access_token": "guess"}
        statuses = [server.post("auth/login", login, {})["status"] for server in servers * 2]
        self.assertEqual(statuses, [401, 401, 429, 429])
        self.assertEqual(config.LOGIN_RATE, (0, 0))
        free = self.start(LOGIN_RATE="off")
        self.assertEqual(free.post("auth/login", login, {})["status"], 401)
