"""
How many calls of an action and how many logins there may be.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

from indico import config
from indico.batteries.limit import TooManyRequests, limit
from indico.core.decorators import get_info
from indico.core.hooks import Application
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID
from indico.tests.mocks.request_mock import RequestHandler
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.profiler import record_operations
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import mongo_callback, unpack
from indico.utils.auth.auth_utils import auth

DAY = 24 * 3600  # seconds, a window that hardly ever ends within a test


class TeaHandler(IndicoHandler):
    @auth
    @limit("3/day")
    @unpack("cups")
    async def drink(self, cups: int) -> int:
        return cups

    @limit("3/day")
    def smell(self, data: bytes) -> None:
        @mongo_callback(self)
        def answer(result: str) -> None:
            self.respond(result, 201)

        asyncio.get_running_loop().call_soon(answer, "mint")

    @limit("1/day")
    async def pour(self, data: bytes) -> AsyncIterator[str]:
        yield "drop"


class OtherTeaHandler(TeaHandler):
    pass


class LimitedTest(ServerTest):
    routes = [AuthRoute, (r"/tea/(?P<action>[a-zA-Z]+)?", TeaHandler)]
    stores = ("auth", "rate_limit", "user")

    def ask(self, path: str, body: str = "", **headers: str) -> Any:
        return self.fetch(f"/{path}", method="POST", body=body, headers=headers)

    def log_in(self, oauth_id: str) -> dict[str, str]:
        login = self.post("auth/login", {**LOGIN_DATA, "oauth_id": oauth_id}, {})
        return {"indico_key": login["data"]["indico_key"]}


class LimitTest(LimitedTest):
    def test_further_calls_are_refused_and_every_response_says_how_many_are_left(self) -> None:
        key = self.log_in("1")
        for left, code in ((2, 200), (1, 200), (0, 200), (0, 429), (0, 429)):
            response = self.ask("tea/drink", '{"cups": 1}', **key)
            self.assertEqual(response.code, code)
            self.assertEqual(response.headers["RateLimit-Policy"], '"user";q=3;w=86400')
            match = re.fullmatch(rf'"user";r={left};t=(\d+)', response.headers["RateLimit"])
            assert match is not None
            self.assertTrue(0 < int(match[1]) <= DAY)
            self.assertEqual(response.headers.get("Retry-After"), match[1] if code == 429 else None)

    @slow
    def test_users_count_by_themselves_and_so_do_actions_of_other_handlers(self) -> None:
        self._app.add_handlers(".*", [(r"/other/(?P<action>[a-zA-Z]+)?", OtherTeaHandler)])
        first, second = self.log_in("1"), self.log_in("2")
        statuses = [self.ask("tea/drink", '{"cups": 1}', **key).code for key in 4 * [first] + 4 * [second]]
        self.assertEqual(statuses, 2 * [200, 200, 200, 429])
        self.assertEqual(self.ask("other/drink", '{"cups": 1}', **first).code, 200)

    def test_a_request_without_a_key_is_not_counted_and_one_with_a_wrong_body_is(self) -> None:
        key = self.log_in("1")
        self.assertEqual([self.ask("tea/drink").code for _ in range(4)], 4 * [401])
        self.assertEqual([self.ask("tea/drink", "{", **key).code for _ in range(4)], [400, 400, 400, 429])

    @slow
    def test_without_auth_addresses_are_counted_and_a_network_is_one(self) -> None:
        before, config.TRUSTED_PROXIES = config.TRUSTED_PROXIES, [ipaddress.ip_network("127.0.0.1")]
        self.addCleanup(setattr, config, "TRUSTED_PROXIES", before)
        for addresses in (("10.0.0.1", "10.0.0.1:7"), ("2001:db8::1", "2001:db8::2")):
            with self.subTest(addresses):
                codes = [self.ask("tea/smell", **{"X-Forwarded-For": one}).code for one in 2 * addresses]
                self.assertEqual(codes, [201, 201, 201, 429])

    def test_a_stream_is_limited(self) -> None:
        responses = [self.ask("tea/pour") for _ in range(2)]
        self.assertEqual([response.code for response in responses], [200, 429])
        self.assertIn(b'"drop"', responses[0].body)
        self.assertEqual(responses[0].headers["RateLimit-Policy"], '"address";q=1;w=86400')

    def test_its_description_has_the_429(self) -> None:
        self.assertEqual(get_info(TeaHandler.drink).statuses, {429: "More than 3/day calls"})


class OperationTest(LimitedTest):
    @slow
    def test_a_limited_action_adds_one_operation(self) -> None:
        key = self.log_in("1")
        self.ask("tea/drink", '{"cups": 1}', **key)
        for _ in range(4):  # the last ones are refused
            with record_operations(self.database) as operations:
                self.ask("tea/drink", '{"cups": 1}', **key)
            self.assertEqual([each["collection"] for each in operations], ["auth", "rate_limit"])


class LimitedCallTest(MongoTest):
    def test_an_action_that_is_called_directly_is_counted(self) -> None:
        @limit("1/day")
        def act(self: Any, data: bytes) -> str:
            return "done"

        async def call() -> Any:
            handler = RequestHandler()
            headers: dict[str, str] = {}
            setattr(handler, "user_id", USER_ID)  # noqa: B010 - as @auth does
            setattr(handler, "set_header", headers.__setitem__)  # noqa: B010
            return await act(handler, b""), headers["RateLimit-Policy"]

        self.assertEqual(self.io_loop.run_sync(call), ("done", '"user";q=1;w=86400'))
        with self.assertRaises(TooManyRequests):
            self.io_loop.run_sync(call)


class RateTest(StrictTest):
    def test_a_rate_that_makes_no_sense_is_a_type_error(self) -> None:
        for rate in ("off", "100", "0/minute", "100/fortnight", "", 100, None):
            with self.subTest(rate), self.assertRaisesRegex(TypeError, 'takes a rate: @limit\\("100/minute"'):
                limit(rate)  # type: ignore[arg-type]

    def test_it_stands_below_auth_and_above_unpack(self) -> None:
        action = limit("1/day")(unpack("a")(lambda self, a: a))
        with self.assertRaisesRegex(TypeError, "@limit stands above .* twice"):
            limit("1/day")(action)
        with self.assertRaisesRegex(TypeError, "@unpack goes below @limit"):
            unpack("a")(action)


class DoorHandler(IndicoHandler):
    def login(self, data: bytes) -> str:
        return "come in"


class LoginRateTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "rate_limit", "user")

    def get_app(self) -> Application:
        self.set(config, "LOGIN_RATE", (3, DAY))
        return make_app(routes=self.routes)

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

    @slow
    def test_every_response_says_how_many_are_left(self) -> None:
        for left in (2, 1, 0, 0):
            headers = self.fetch("/auth/login", method="POST", body="oauth_id=1").headers
            wait = re.sub(".*=", "", headers["RateLimit"])
            account = f', "account";r={left};t={wait}' if left or not headers.get("Retry-After") else ""
            self.assertEqual(headers["RateLimit"], f'"address";r={left};t={wait}{account}')

    def test_a_new_window_begins_at_none(self) -> None:
        for _ in range(4):
            status = self.login()
        self.assertEqual(status, 429)
        self.set(config, "LOGIN_RATE", (3, DAY // 2))
        self.assertEqual(self.login(), 401)

    def test_logins_with_the_token_of_development_are_not_counted(self) -> None:
        statuses = [self.login(token=config.DEV_TOKEN) for _ in range(5)]
        self.assertEqual([*statuses, self.login()], [200, 200, 200, 200, 200, 401])
        self.assertEqual(self.database.rate_limit.count_documents({}), 2)

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

    @slow
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
        self._app.add_handlers(".*", [(r"/door/(?P<action>[a-zA-Z]+)?", DoorHandler)])
        codes = [self.fetch("/door/login", method="POST", body="").code for _ in range(4)]
        self.assertEqual(codes, [200, 200, 200, 429])

    def test_other_actions_are_not_limited(self) -> None:
        for _ in range(9):
            self.assertEqual(self.post("auth/check", {}, {})["status"], 401)
        self.assertEqual(self.login(), 401)

    def test_neither_address_nor_oauth_id_is_stored_and_what_is_expires(self) -> None:
        self.login("my-oauth-id")
        documents = list(self.database.rate_limit.find())
        self.assertEqual(len(documents), 2)
        self.assertNotIn("my-oauth-id", str(documents))
        self.assertNotIn("127.0.0.1", str(documents))
        indexes = self.database.rate_limit.index_information()
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


LIMITED_SERVER = """
from indico import server
from indico.batteries.limit import limit
from indico.routes.handler import IndicoHandler
from indico.utils.auth.auth_utils import auth

class TeaHandler(IndicoHandler):
    @auth
    @limit("100/minute")
    def drink(self, data):
        return True

server.ROUTES.append((r"/tea/(?P<action>[a-zA-Z]+)?", TeaHandler))
server.main(debug=False, port=0)
"""


@slow
class SharedLimitTest(ProcessTest):
    def test_four_processes_let_exactly_100_a_minute_through(self) -> None:
        servers = [self.start(script=LIMITED_SERVER) for _ in range(4)]
        servers[0].post("auth/login", LOGIN_DATA)
        window = -1.0
        codes: list[int] = []

        def call(server: Any) -> None:
            codes.extend(server.fetch("tea/drink", headers=HEADERS).status for _ in range(15))

        while window != time.time() // 60:  # all calls are to be within one window
            window = time.time() // 60
            codes.clear()
            self.database.rate_limit.delete_many({})  # calls of an attempt that went on in this window
            threads = [threading.Thread(target=call, args=(servers[number % 4],)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        self.assertEqual({code: codes.count(code) for code in set(codes)}, {200: 100, 429: 80})
