"""
Requests that are sent again with the same Idempotency-Key.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from http.client import HTTPException
from typing import Any
from unittest import mock

from tornado.httpclient import HTTPResponse
from tornado.web import HTTPError

from indico import config, db
from indico.batteries import idempotency
from indico.batteries.idempotency import HEADER, idempotent, run, store
from indico.core.decorators import get_info
from indico.core.hooks import Application
from indico.core.lifecycle import drain
from indico.db import mongo
from indico.error import IndicoError, InvalidValue, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.mocks.request_mock import RequestHandler
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, report_figures, wait_until
from indico.tests.testutils.profiler import record_operations
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

calls: Counter[str] = Counter()  # of each action
gate: asyncio.Event  # actions that wait for it end when it is set


@mongo
async def insert(order: dict[str, Any]) -> None:
    await db.mongodb.order.insert_one(order)


class OrderHandler(IndicoHandler):
    request_timeout = 1

    @auth
    @idempotent
    @unpack("item")
    @type_check(str)
    async def create(self, item: str) -> dict[str, Any]:
        calls["create"] += 1
        return {"item": item, "number": calls["create"], "price": 1.5}

    @auth
    @idempotent
    def answer(self, data: bytes) -> None:
        """Respond later, with another status than 200."""
        calls["answer"] += 1
        asyncio.get_running_loop().call_later(0.01, self.respond, {"number": calls["answer"]}, 201)

    @auth
    @idempotent
    async def never(self, data: bytes) -> Any:
        """Call `respond`, and fail after that."""
        calls["never"] += 1
        self.respond(calls["never"])
        raise InvalidValue("too late")

    @auth
    @idempotent
    def forget(self, data: bytes) -> None:
        """Return, and never respond."""
        calls["forget"] += 1

    @auth
    @idempotent
    @unpack("status")
    async def refuse(self, status: int) -> Any:
        calls[str(status)] += 1
        if status == 404:
            raise HTTPError(404)
        if status == 500:
            raise ValueError("unexpected")
        if status == 502:
            raise HTTPError(502)
        if status == 200:
            return object()
        raise IndicoError(f"number {calls[str(status)]}", status)

    @auth
    @idempotent
    @unpack("size")
    async def fill(self, size: int) -> str:
        calls["fill"] += 1
        return size * "x"

    @auth
    @idempotent
    async def wait(self, data: bytes) -> int:
        calls["wait"] += 1
        await gate.wait()
        calls["ended"] += 1
        return calls["wait"]


class PatientHandler(OrderHandler):
    request_timeout = None  # type: ignore[assignment]


class IdempotencyBase(ServerTest):
    routes = [
        AuthRoute,
        UserRoute,
        (r"/order/(?P<action>[a-zA-Z]+)?", OrderHandler),
        (r"/patient/(?P<action>[a-zA-Z]+)?", PatientHandler),
    ]
    stores = ("auth", "idempotency", "user")

    def setUp(self) -> None:
        global gate
        super().setUp()
        calls.clear()
        gate = asyncio.Event()
        self.post("auth/login", LOGIN_DATA)

    def send(self, path: str, data: Any = None, key: str = "1", **headers: str) -> HTTPResponse:
        sent = {**HEADERS, HEADER: key, **headers}
        return self.fetch(f"/{path}", method="POST", body=json.dumps(data), headers=sent)

    def start(self, path: str) -> asyncio.Future[HTTPResponse]:
        """Send a request, and return when its action runs."""
        number = calls["wait"]

        async def start() -> asyncio.Future[HTTPResponse]:
            sent = {**HEADERS, HEADER: "1"}
            task = asyncio.ensure_future(
                self.http_client.fetch(
                    self.get_url(f"/{path}"), method="POST", body="", headers=sent, raise_error=False
                )
            )
            while calls["wait"] == number:
                await asyncio.sleep(0.01)
            return task

        task: asyncio.Future[HTTPResponse] = self.io_loop.run_sync(start)
        return task

    def run_until(self, condition: Callable[[], object]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(poll, 10)

    def leave(self, path: str) -> None:
        """Send a request and disconnect when its action runs."""

        async def leave() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            head = f"POST /{path} HTTP/1.1\r\nHost: localhost\r\nindico_key: {HEADERS['indico_key']}\r\n"
            writer.write(f"{head}{HEADER}: 1\r\nContent-Length: 0\r\n\r\n".encode())
            number = calls["wait"] + calls["forget"]
            while calls["wait"] + calls["forget"] == number:
                await asyncio.sleep(0.01)
            writer.close()
            await writer.wait_closed()

        self.io_loop.run_sync(leave)

    def count_claims(self) -> int:
        return self.database.idempotency.count_documents({})


class IdempotencyTest(IdempotencyBase):
    # What is kept

    def test_the_first_response_is_given_again_without_running_the_action(self) -> None:
        responses = [self.send("order/create", {"item": "tea"}) for _ in range(3)]
        expected = {"status": 200, "data": {"item": "tea", "number": 1, "price": 1.5}}
        self.assertEqual([json.loads(response.body) for response in responses], 3 * [expected])
        replayed = [response.headers.get("Idempotent-Replayed") for response in responses]
        self.assertEqual(replayed, [None, "true", "true"])
        self.assertEqual(calls["create"], 1)

    def test_a_request_without_the_header_always_runs(self) -> None:
        numbers = [self.post("order/create", {"item": "tea"})["data"]["number"] for _ in range(2)]
        self.assertEqual((numbers, self.count_claims()), ([1, 2], 0))

    def test_another_key_another_action_and_another_user_run_it(self) -> None:
        self.post("auth/login", {**LOGIN_DATA, "oauth_id": "2"})
        login = self.post("auth/login", {**LOGIN_DATA, "oauth_id": "2"})
        other = {"indico_key": login["data"]["indico_key"]}
        for number, (path, key, headers) in enumerate(
            (("order/create", "1", {}), ("order/create", "2", {}), ("patient/create", "1", {}),
             ("order/create", "1", other)), 1
        ):  # fmt: skip
            response = self.send(path, {"item": "tea"}, key, **headers)
            self.assertEqual(json.loads(response.body)["data"]["number"], number)

    def test_another_body_is_a_422(self) -> None:
        codes = [self.send("order/create", {"item": item}).code for item in ("tea", "milk", "tea")]
        self.assertEqual((codes, calls["create"]), ([200, 422, 200], 1))

    def test_a_response_by_respond_is_kept_with_its_status(self) -> None:
        for path, code, data in (("order/answer", 201, {"number": 1}), ("order/never", 200, 1)):
            with self.subTest(path):
                responses = [self.send(path) for _ in range(2)]
                self.assertEqual([response.code for response in responses], [code, code])
                self.assertEqual(json.loads(responses[1].body), {"status": code, "data": data})
                self.assertEqual(responses[1].headers["Idempotent-Replayed"], "true")

    def test_an_error_of_the_client_is_kept(self) -> None:
        for status in (400, 403, 404, 415, 422):
            with self.subTest(status):
                bodies = [self.send("order/refuse", {"status": status}, str(status)).body for _ in range(2)]
                self.assertEqual((bodies[0], calls[str(status)]), (bodies[1], 1))

    def test_an_error_that_may_go_away_is_not_kept(self) -> None:
        for status in (200, 401, 408, 409, 425, 429, 500, 502, 503):
            with self.subTest(status):
                logged = status in (200, 500)
                with self.assertLogs("indico", "ERROR" if logged else "INFO"):
                    codes = [
                        self.send("order/refuse", {"status": status}, str(status)).code for _ in range(2)
                    ]
                self.assertEqual((codes, calls[str(status)]), (2 * [500 if logged else status], 2))
        self.assertEqual(self.count_claims(), 0)

    def test_a_response_over_1_mib_is_not_kept(self) -> None:
        for number, (size, times) in enumerate(((1024**2 - 100, 1), (1024**2, 2))):
            before = calls["fill"]
            codes = [self.send("order/fill", {"size": size}, str(number)).code for _ in range(2)]
            self.assertEqual((codes, calls["fill"] - before), ([200, 200], times))

    def test_a_key_that_makes_no_sense_is_a_400(self) -> None:
        for key in ("", 256 * "x", "a b", "\xe9"):
            with self.subTest(key):
                self.assertEqual(self.send("order/create", {"item": "tea"}, key).code, 400)
        self.assertEqual(self.send("order/create", {"item": "tea"}, '"' + 253 * "x" + '"').code, 200)

    def test_a_response_is_kept_for_its_lifetime(self) -> None:
        with mock.patch.object(config, "IDEMPOTENCY_LIFETIME", 0.001):
            self.send("order/create", {"item": "tea"})
            self.send("order/create", {"item": "tea"})
        self.assertEqual(calls["create"], 2)
        index = self.database.idempotency.index_information()["lease_1"]
        self.assertEqual(index["expireAfterSeconds"], 0)

    # A user's data

    def test_a_users_responses_are_exported_and_removed(self) -> None:
        self.send("order/create", {"item": "tea"})
        exported = self.post("user/export", None)["data"]["idempotency"]
        self.assertEqual([json.loads(each["response"])["data"]["item"] for each in exported], ["tea"])
        self.assertEqual(self.post("user/remove", None)["status"], 200)
        self.assertEqual(self.count_claims(), 0)

    def test_neither_key_nor_body_is_stored(self) -> None:
        self.send("order/fill", {"size": 1, "secret": "my-secret"}, "my-key")
        stored = str(list(self.database.idempotency.find()))
        self.assertNotIn("my-secret", stored)
        self.assertNotIn("my-key", stored)

    # While it runs

    def test_a_second_request_meanwhile_is_a_409(self) -> None:
        task = self.start("order/wait")
        response = self.fetch("/order/wait", method="POST", body="", headers={**HEADERS, HEADER: "1"})
        self.assertEqual((response.code, response.headers["Retry-After"]), (409, "1"))
        gate.set()
        self.run_until(task.done)
        self.assertEqual((task.result().code, calls["wait"]), (200, 1))

    def test_a_repeated_request_gets_the_response_of_an_action_whose_client_left(self) -> None:
        for path in ("order/wait", "patient/wait"):
            with self.subTest(path):
                calls.clear()
                gate.clear()
                self.leave(path)
                self.run_until(lambda: len(self._app.state.in_flight) == 1)
                gate.set()
                self.run_until(lambda: not self._app.state.in_flight)
                response = self.fetch(f"/{path}", method="POST", body="", headers={**HEADERS, HEADER: "1"})
                self.assertEqual(json.loads(response.body), {"status": 200, "data": 1})
                self.assertEqual(response.headers["Idempotent-Replayed"], "true")

    @slow
    def test_without_its_client_an_action_still_has_its_request_timeout(self) -> None:
        with mock.patch.object(OrderHandler, "request_timeout", 0.3):
            self.leave("order/wait")
            self.run_until(lambda: self.count_claims() == 0)
        self.assertEqual((calls["ended"], len(self._app.state.in_flight)), (0, 0))

    def test_an_action_that_would_respond_later_ends_with_its_client(self) -> None:
        self.leave("patient/forget")
        self.run_until(lambda: self.count_claims() == 0)

    def test_a_shutdown_ends_an_action_without_its_client(self) -> None:
        self.leave("patient/wait")
        self.run_until(lambda: len(self._app.state.in_flight) == 1)
        with mock.patch.object(config, "SHUTDOWN_TIMEOUT", 0):
            self.io_loop.run_sync(lambda: drain(self._app))
        self.run_until(lambda: self.count_claims() == 0)
        self.assertEqual(calls["ended"], 0)

    @slow
    def test_after_a_timeout_the_next_request_runs_it_again(self) -> None:
        with mock.patch.object(OrderHandler, "request_timeout", 0.3):
            codes = [self.send("order/wait").code]
        self.run_until(lambda: self.count_claims() == 0)
        gate.set()
        codes.append(self.send("order/wait").code)
        self.assertEqual((codes, calls["wait"], calls["ended"]), ([504, 200], 2, 1))

    def test_a_heartbeat_holds_the_key_without_a_request_timeout(self) -> None:
        with mock.patch.object(run, "HEARTBEAT", 0.05), mock.patch.object(run, "HEARTBEAT_LEASE", 0.5):
            task = self.start("patient/wait")
            began = time.monotonic()
            with mock.patch.object(store, "extend", mock.AsyncMock(side_effect=Unavailable("x"))):
                self.run_until(lambda: time.monotonic() > began + 0.15)  # failures don't end it
            self.run_until(lambda: time.monotonic() > began + 0.7)
            response = self.fetch("/patient/wait", method="POST", body="", headers={**HEADERS, HEADER: "1"})
            self.assertEqual((response.code, calls["wait"]), (409, 1))
            gate.set()
            self.run_until(task.done)
        self.assertEqual(task.result().code, 200)

    def test_the_response_of_a_run_that_lost_its_lease_changes_nothing(self) -> None:
        task = self.start("patient/wait")
        self.database.idempotency.update_one(
            {}, {"$set": {"run": "another", "response": b'{"status":200,"data":9}'}}
        )
        gate.set()
        self.run_until(task.done)
        self.assertEqual(json.loads(task.result().body)["data"], 1)
        response = self.fetch("/patient/wait", method="POST", body="", headers={**HEADERS, HEADER: "1"})
        self.assertEqual(json.loads(response.body)["data"], 9)

    def test_a_response_that_can_not_be_stored_is_sent_and_logged(self) -> None:
        failing = mock.AsyncMock(side_effect=Unavailable("The database did not respond in time"))
        with mock.patch.object(store, "extend", failing), self.assertLogs("indico", "WARNING") as logs:
            self.assertEqual(self.send("order/create", {"item": "tea"}).code, 200)
        self.assertEqual(
            [record.getMessage() for record in logs.records],
            ["order.create: its Idempotency-Key: The database did not respond in time"],
        )

    def test_a_key_that_can_not_be_taken_is_a_503_and_is_free_again(self) -> None:
        take_key = store.take_key

        async def take_and_fail(*args: Any) -> None:
            await take_key(*args)
            raise Unavailable("The database did not respond in time")

        with mock.patch.object(store, "take_key", take_and_fail), self.assertLogs("indico", "WARNING"):
            self.assertEqual(self.send("order/create", {"item": "tea"}).code, 503)
        self.run_until(lambda: self.count_claims() == 0)
        self.assertEqual(calls["create"], 0)


@slow
class TornadoServerTest(IdempotencyBase):
    """HTTP_SERVER=tornado"""

    def setUp(self) -> None:
        self.enterContext(mock.patch.object(config, "HTTP_SERVER", "tornado"))
        super().setUp()

    test_a_repeated_request_gets_the_response = (
        IdempotencyTest.test_a_repeated_request_gets_the_response_of_an_action_whose_client_left
    )


class OperationTest(ServerTest):
    routes = [AuthRoute, (r"/order/(?P<action>[a-zA-Z]+)?", OrderHandler)]
    stores = ("auth", "idempotency", "user")

    @slow
    def test_it_adds_two_operations_and_one_for_a_replay(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        for key in ("1", "2"):
            for number in (2, 1, 1):
                with record_operations(self.database) as operations:
                    self.post("order/create", {"item": "tea"}, {**HEADERS, HEADER: key})
                expected = ["auth", *(number * ["idempotency"])]
                self.assertEqual([each["collection"] for each in operations], expected)


class DecoratorTest(StrictTest):
    def test_a_stream_and_a_body_with_files_are_a_type_error(self) -> None:
        async def stream(self: Any, data: bytes) -> AsyncIterator[int]:
            yield 1

        async def take(self: Any, image: Upload) -> None: ...

        for action in (stream, unpack("image")(type_check(Upload)(take))):
            with self.assertRaisesRegex(TypeError, "can't keep a stream or a body with files"):
                idempotent(action)

    def test_it_stands_below_auth(self) -> None:
        async def act(self: Any, data: bytes) -> None: ...

        with self.assertRaisesRegex(TypeError, "@auth goes|@idempotent goes below @auth"):
            idempotent(auth(act))

    def test_without_auth_the_application_is_not_made(self) -> None:
        class OpenHandler(IndicoHandler):
            @idempotent
            async def create(self, data: bytes) -> None: ...

        application = Application([("/open/(?P<action>[a-z]+)?", OpenHandler)], database=db)
        with self.assertRaisesRegex(TypeError, "@idempotent needs @auth above it: OpenHandler.create"):
            idempotency.install(application)

    def test_its_description_has_the_header_and_the_statuses(self) -> None:
        info = get_info(OrderHandler.create)
        self.assertEqual((list(info.headers), list(info.statuses)), ([HEADER], [409, 422]))

    def test_an_action_that_is_called_directly_runs(self) -> None:
        @idempotent
        def act(self: Any, data: bytes) -> bytes:
            return data

        self.assertEqual(act(RequestHandler(), b"1"), b"1")


ORDER_SERVER = """
import asyncio, os
from indico import db, server
from indico.batteries.idempotency import idempotent
from indico.db import mongo
from indico.routes.handler import IndicoHandler
from indico.utils.auth.auth_utils import auth

@mongo
async def insert():
    await db.mongodb.order.insert_one({"pid": os.getpid()})

class OrderHandler(IndicoHandler):
    request_timeout = 3

    @auth
    @idempotent
    async def create(self, data):
        await insert()
        await asyncio.sleep(float(os.environ["SLEEP"]))
        return os.getpid()

server.ROUTES.append((r"/order/(?P<action>[a-zA-Z]+)?", OrderHandler))
server.main(debug=False, port=0)
"""


@slow
class TwoProcessesTest(ProcessTest):
    def test_50_requests_at_once_run_the_action_once(self) -> None:
        servers = [self.start(script=ORDER_SERVER, SLEEP="0.2") for _ in range(2)]
        servers[0].post("auth/login", LOGIN_DATA)
        answers: list[Any] = []

        def call(number: int) -> None:
            answer = servers[number % 2].fetch("order/create", headers={**HEADERS, HEADER: "1"})
            while answer.status == 409:
                time.sleep(0.05)
                answer = servers[number % 2].fetch("order/create", headers={**HEADERS, HEADER: "1"})
            answers.append((answer.status, answer.data))

        threads = [threading.Thread(target=call, args=(number,)) for number in range(50)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [order] = self.database.order.find()
        self.assertEqual(answers, 50 * [(200, order["pid"])])

    def test_if_its_process_is_killed_it_runs_again_after_the_lease(self) -> None:
        first = self.start(script=ORDER_SERVER, SLEEP="60")
        second = self.start(script=ORDER_SERVER, SLEEP="0")
        first.post("auth/login", LOGIN_DATA)
        killed = 0
        for key in ("1", "2"):
            if killed:
                first = self.start(script=ORDER_SERVER, SLEEP="60")
            with self.subTest(key):
                headers = {**HEADERS, HEADER: key}
                self.database.order.delete_many({})
                errors: list[BaseException] = []

                def call(server: Any = first, headers: Any = headers, errors: Any = errors) -> None:
                    try:
                        server.fetch("order/create", headers=headers)
                    except (OSError, HTTPException) as error:
                        errors.append(error)

                began = time.monotonic()
                thread = threading.Thread(target=call)
                thread.start()
                wait_until(lambda: self.database.order.count_documents({}) == 1, "the action runs")
                first.close()
                thread.join()
                killed += 1
                self.assertEqual(second.fetch("order/create", headers=headers).status, 409)
                wait_until(
                    lambda headers=headers: second.fetch("order/create", headers=headers).status == 200,  # type: ignore[misc]
                    "the lease ends",
                )
                self.assertGreater(time.monotonic() - began, 3)
                self.assertEqual((len(errors), self.database.order.count_documents({})), (1, 2))
        report_figures(self, f"{killed} processes killed in the middle")
