"""
The application behind any ASGI server: spoken to as one speaks to it, and behind those that there are.
"""

from __future__ import annotations

import asyncio
import gc
import http.client
import importlib.util
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

from tornado.iostream import StreamClosedError
from tornado.testing import AsyncTestCase, bind_unused_port, gen_test
from tornado.web import RequestHandler

from indico import asgi, config
from indico.asgi import ASGIApplication
from indico.core.http.pages import PageHandler
from indico.core.http.proxies import client_address
from indico.error import Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.core.http import busy
from indico.tests.core.http.test_hostile import make_post
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import (
    ProcessTest,
    make_environment,
    processes_in,
    read_peak,
    wait_until,
)
from indico.tests.testutils.server import ServerTest

PATIENCE = 30  # seconds until a wait fails


class ProbeHandler(IndicoHandler):
    test: ASGITest

    def echo(self, data: bytes) -> str:
        return data.decode("latin-1")

    def address(self, data: bytes) -> list[Any]:
        request = self.request
        return [client_address(request), request.protocol, request.host, request.uri, request.version]

    async def waits(self, data: bytes) -> str:
        self.test.started.set()
        try:
            await self.test.released.wait()
        except asyncio.CancelledError:
            self.test.cancelled.set()
            raise
        return "at last"


class StreamHandler(PageHandler):
    async def get(self) -> None:
        self.set_header("Content-Length", 6)
        self._has_response = True
        self.flush().cancel()  # as it is when who waits for it is cancelled
        await asyncio.sleep(0)
        for part in ("ab", "cd", "ef"):
            self.write(part)
            await self.flush()
            await asyncio.sleep(0)
        self.finish()


class BrokenHandler(PageHandler):
    errors: list[BaseException] = []

    async def get(self) -> None:
        self._has_response = True
        try:
            while True:
                self.write("ab")
                await self.flush()
        except StreamClosedError as error:
            self.errors.append(error)
            self.finish()


class PlainHandler(RequestHandler):
    def post(self) -> None:
        self.finish(self.request.body)


class Exchange:
    """A request to an ASGI application, and what it answers."""

    def __init__(self, application: Any, line: str, *headers: tuple[bytes, bytes], **scope: Any) -> None:
        method, path = line.split()
        self.incoming: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.sent: list[dict[str, Any]] = []
        self.free = asyncio.Event()  # the way to the client
        self.free.set()
        path, _, query = path.partition("?")
        self.scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(b"host", b"a"), *headers],
            "client": ["192.0.2.1", 7],
            **scope,
        }
        self.task = asyncio.ensure_future(application(self.scope, self.incoming.get, self.send))

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)
        await self.free.wait()

    def give(self, body: bytes = b"", more: bool = False) -> Exchange:
        self.incoming.put_nowait({"type": "http.request", "body": body, "more_body": more})
        return self

    def leave(self) -> Exchange:
        self.incoming.put_nowait({"type": "http.disconnect"})
        return self

    async def finish(self) -> tuple[int, Any]:
        """The status and the envelope's data, when all has been said."""
        await asyncio.wait_for(self.task, PATIENCE)
        return self.status, json.loads(self.body)["data"]

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent[1:])


class ASGITest(ServerTest):
    stores = False
    routes = [
        AuthRoute,
        (r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler),
        (r"/stream", StreamHandler),
        (r"/broken", BrokenHandler),
        (r"/plain", PlainHandler),
    ]

    def setUp(self) -> None:
        super().setUp()
        self.application = ASGIApplication(self._app)
        self.started = asyncio.Event()
        self.released = asyncio.Event()
        self.cancelled = asyncio.Event()
        ProbeHandler.test = self

    def ask(self, line: str = "POST /probe/echo", *headers: tuple[bytes, bytes], **scope: Any) -> Exchange:
        return Exchange(self.application, line, *headers, **scope)

    # Requests

    @gen_test
    async def test_an_answer_is_one_start_and_one_body_with_the_usual_headers(self) -> None:
        exchange = self.ask().give(b"ab")
        self.assertEqual(await exchange.finish(), (200, "ab"))
        self.assertEqual(len(exchange.sent), 2)
        expected = {
            b"content-type": b"application/json; charset=UTF-8",
            b"x-content-type-options": b"nosniff",
            b"cache-control": b"no-store",
            b"content-length": str(len(exchange.body)).encode(),
        }
        self.assertEqual({name: exchange.headers.get(name) for name in expected}, expected)
        self.assertNotIn(b"server", exchange.headers)

    @gen_test
    async def test_a_body_may_come_in_pieces(self) -> None:
        exchange = self.ask().give(b"a", True).give(b"", True).give(b"b")
        self.assertEqual(await exchange.finish(), (200, "ab"))

    @gen_test
    async def test_a_handler_that_is_tornados_own_is_served(self) -> None:
        exchange = self.ask("POST /plain").give(b"a", True).give(b"b")
        await exchange.task
        self.assertEqual((exchange.status, exchange.body), (200, b"ab"))

    @gen_test
    async def test_head_gets_no_body(self) -> None:
        exchange = self.ask("HEAD /probe/echo").give()
        await exchange.task
        self.assertEqual((exchange.status, exchange.body), (405, b""))

    @gen_test
    async def test_a_wrong_method_is_answered_before_the_body(self) -> None:
        self.assertEqual((await self.ask("GET /probe/echo").give().finish())[0], 405)

    @gen_test
    async def test_the_request_is_what_the_server_says(self) -> None:
        forwarded = (b"x-forwarded-for", b"198.51.100.7")
        exchange = self.ask("POST /probe/address?a=%41", forwarded, scheme="https").give()
        expected = ["192.0.2.1", "https", "a", "/probe/address?a=%41", "HTTP/1.1"]
        self.assertEqual((await exchange.finish())[1], expected)

    @gen_test
    async def test_a_server_may_leave_out_what_is_optional_and_have_a_root(self) -> None:
        exchange = self.ask("POST /api/probe/address", root_path="/api", raw_path=None, client=None).give()
        self.assertEqual((await exchange.finish())[1], ["None", "http", "a", "/probe/address", "HTTP/1.1"])

    @gen_test
    async def test_a_root_may_need_escapes_and_a_target_may_be_absolute(self) -> None:
        exchange = self.ask("POST /a%20b/probe/address", root_path="/a b").give()
        self.assertEqual((await exchange.finish())[1][3], "/probe/address")
        exchange = self.ask("POST http://b:7/probe/address?c").give()
        self.assertEqual((await exchange.finish())[1][2:4], ["b:7", "/probe/address?c"])

    @gen_test
    async def test_http_2_has_an_authority_for_a_host_and_no_connection_header(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 1)
        self._app.state.draining = True
        headers = [(b":authority", b"b")]
        exchange = self.ask("POST /probe/address", http_version="2", headers=headers).give()
        self.assertEqual((await exchange.finish())[1], ["192.0.2.1", "http", "b", "/probe/address", "HTTP/2"])
        self.assertNotIn(b"connection", exchange.headers)

    @gen_test
    async def test_a_doubled_key_is_refused(self) -> None:
        key = (b"indico_key", HEADERS["indico_key"].encode())
        exchange = self.ask("POST /auth/check", key, key).give()
        self.assertEqual(await exchange.finish(), (401, "User not authenticated"))

    @gen_test
    async def test_a_host_that_is_none_is_a_400(self) -> None:
        for headers in ([], [(b"host", b"a"), (b"host", b"b")], [(b"host", b"<a>")]):
            exchange = self.ask(headers=headers).give()
            self.assertEqual(await exchange.finish(), (400, "Bad Request"))
            self.assertEqual(exchange.headers[b"connection"], b"close")

    # Limits

    @gen_test
    async def test_a_body_too_large_is_refused_and_the_rest_is_dropped(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        for headers in ((), ((b"content-length", b"101"),)):
            exchange = self.ask("POST /probe/echo", *headers).give(101 * b"a", True).give(b"a")
            self.assertEqual((await exchange.finish())[0], 413)
            self.assertEqual(exchange.headers[b"connection"], b"close")

    @gen_test
    async def test_no_action_runs_when_the_body_ends_after_the_answer(self) -> None:
        exchange = self.ask("POST /probe/waits").give(b"a", True)
        exchange.free.clear()
        while not exchange.incoming.empty():
            await asyncio.sleep(0)
        [handler] = self._app.state.in_flight
        handler.abort_with(Unavailable("The server is stopping"))
        exchange.give(b"b")
        while not exchange.sent or not exchange.incoming.empty():
            await asyncio.sleep(0)
        exchange.free.set()
        self.assertEqual((await exchange.finish())[0], 503)
        self.assertFalse(self.started.is_set())

    @gen_test
    async def test_a_body_too_large_that_goes_on_is_answered_and_given_up(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        exchange = self.ask().give(101 * b"a", True)
        while not exchange.sent or exchange.sent[-1].get("more_body", True):
            await asyncio.sleep(0)
        self.assertEqual(exchange.status, 413)
        exchange.give(b"a", True)
        await exchange.task
        self.assertEqual(self._app.state.in_flight, set())

    @gen_test
    async def test_a_body_too_large_that_takes_too_long_gets_one_answer(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        self.set(config, "BODY_TIMEOUT", 0.01)
        exchange = self.ask().give(101 * b"a", True)
        exchange.free.clear()
        while not exchange.sent:
            await asyncio.sleep(0)
        await asyncio.sleep(0.02)
        exchange.free.set()
        self.assertEqual((await exchange.leave().finish())[0], 413)

    @gen_test
    async def test_a_body_that_does_not_come_in_time_is_a_408(self) -> None:
        self.set(config, "BODY_TIMEOUT", 0.01)
        exchange = self.ask().give(b"a", True)
        while not exchange.sent:
            await asyncio.sleep(0)
        exchange.leave()
        self.assertEqual((await exchange.finish())[0], 408)
        self.assertEqual(self._app.state.in_flight, set())

    @gen_test
    async def test_beyond_max_actions_an_action_is_busy_at_once_and_pages_answer(self) -> None:
        self.set(config, "MAX_ACTIONS", 1)
        first = self.ask("POST /probe/waits").give()
        await self.started.wait()
        second = self.ask().give(b"ab")
        self.assertEqual(await second.finish(), (503, "The server is busy"))
        self.assertEqual(second.headers[b"retry-after"], b"1")
        page = self.ask("GET /stream").give()
        await asyncio.wait_for(page.task, PATIENCE)
        self.assertEqual(page.status, 200)
        self.released.set()
        self.assertEqual(await first.finish(), (200, "at last"))
        self.assertEqual(await self.ask().give(b"ab").finish(), (200, "ab"))

    # Answers that take their time

    @gen_test
    async def test_an_action_may_take_its_time(self) -> None:
        exchange = self.ask("POST /probe/waits").give()
        await self.started.wait()
        self.released.set()
        self.assertEqual(await exchange.finish(), (200, "at last"))

    @gen_test
    async def test_a_client_that_leaves_while_it_waits_ends_the_action(self) -> None:
        exchange = self.ask("POST /probe/waits").give()
        await self.started.wait()
        exchange.give().leave()
        await self.cancelled.wait()
        await exchange.task
        self.assertEqual((exchange.sent, self._app.state.in_flight), ([], set()))

    @gen_test
    async def test_a_client_that_leaves_in_its_body_ends_the_request(self) -> None:
        exchange = self.ask("POST /probe/waits").give(b"a", True).leave()
        await exchange.task
        self.assertEqual((exchange.sent, self._app.state.in_flight), ([], set()))

    @gen_test
    async def test_a_client_that_leaves_with_the_end_of_its_body_starts_no_action(self) -> None:
        exchange = self.ask("POST /probe/waits").give().leave()
        await exchange.task
        self.assertEqual((exchange.sent, self._app.state.in_flight), ([], set()))
        self.assertFalse(self.started.is_set())

    @gen_test
    async def test_a_server_that_gives_up_ends_the_action(self) -> None:
        exchange = self.ask("POST /probe/waits").give()
        await self.started.wait()
        exchange.task.cancel()
        await self.cancelled.wait()
        self.assertEqual(self._app.state.in_flight, set())

    @gen_test
    async def test_a_server_may_abort_with_while_it_sends(self) -> None:
        exchange = self.ask().give(b"ab")
        exchange.free.clear()
        while not exchange.sent:
            await asyncio.sleep(0)
        exchange.task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await exchange.task
        self.assertEqual((len(exchange.sent), self._app.state.in_flight), (1, set()))

    @gen_test
    async def test_an_answer_may_be_sent_in_pieces(self) -> None:
        exchange = self.ask("GET /stream").give()
        await asyncio.wait_for(exchange.task, PATIENCE)
        self.assertEqual((exchange.status, exchange.body), (200, b"abcdef"))
        self.assertEqual([message["more_body"] for message in exchange.sent[1:]], [True, True, True, False])

    @gen_test
    async def test_who_sends_in_pieces_hears_that_the_client_has_left(self) -> None:
        exchange = self.ask("GET /broken").give()
        while not exchange.sent:
            await asyncio.sleep(0)
        exchange.leave()
        await asyncio.wait_for(exchange.task, PATIENCE)
        while not BrokenHandler.errors:
            await asyncio.sleep(0)

    # What is no request

    @gen_test
    async def test_a_websocket_is_refused(self) -> None:
        exchange = Exchange(self.application, "GET /probe/echo", type="websocket").give()
        await exchange.task
        self.assertEqual(exchange.sent[0]["type"], "websocket.close")

    @gen_test
    async def test_another_protocol_is_an_error_as_asgi_wants_it(self) -> None:
        with self.assertRaises(ValueError):
            await Exchange(self.application, "GET /", type="mail").task


class LifespanTest(DatabaseTest, AsyncTestCase):
    def live(self, application: ASGIApplication) -> Exchange:
        return Exchange(application, "GET /", type="lifespan").give()

    @gen_test
    async def test_start_and_stop_are_those_of_the_server(self) -> None:
        application = ASGIApplication()
        life = self.live(application)
        while not life.sent:
            await asyncio.sleep(0)
        login = Exchange(application, "POST /auth/login").give(json.dumps(LOGIN_DATA).encode())
        self.assertEqual((await login.finish())[0], 200)
        life.give()
        await life.task
        types = [message["type"] for message in life.sent]
        self.assertEqual(types, ["lifespan.startup.complete", "lifespan.shutdown.complete"])
        # What comes all the same is told to go elsewhere next time.
        late = Exchange(application, "POST /auth/nope").give()
        self.assertEqual((await late.finish())[0], 404)
        self.assertEqual(late.headers[b"connection"], b"close")

    @gen_test
    async def test_what_prevents_the_start_is_a_sentence(self) -> None:
        with mock.patch.object(config, "PRODUCTION", True):  # where tests' DEV_TOKEN is refused
            life = self.live(ASGIApplication())
            await life.task
        [message] = life.sent
        self.assertEqual(message["type"], "lifespan.startup.failed")
        self.assertIn("DEV_TOKEN", message["message"])


class WithoutLifespanTest(DatabaseTest, AsyncTestCase):
    """Servers, and frameworks that mount the application, that send no events of a lifespan."""

    @gen_test
    async def test_the_first_requests_start_it_once_and_wait_for_it(self) -> None:
        application = ASGIApplication()
        logins = [Exchange(application, "POST /auth/login") for _ in range(3)]
        with mock.patch.object(asgi, "make_app", wraps=make_app) as made:
            for login in logins:
                login.give(json.dumps(LOGIN_DATA).encode())
            self.assertEqual([(await login.finish())[0] for login in logins], 3 * [200])
        made.assert_called_once_with()
        self.assertTrue(self.database.user.index_information()["user_id_1"]["unique"])
        check = Exchange(application, "POST /auth/check", (b"indico_key", USER_KEY.encode())).give()
        self.assertEqual(await check.finish(), (200, True))

    @gen_test
    async def test_a_client_that_leaves_does_not_stop_the_start(self) -> None:
        application = ASGIApplication()
        first = Exchange(application, "POST /auth/check").give()
        await asyncio.sleep(0)
        first.task.cancel()
        second = Exchange(application, "POST /auth/check").give()
        self.assertEqual((await second.finish())[0], 401)

    def test_each_event_loop_starts_it_anew_and_ends_it(self) -> None:
        application = ASGIApplication()

        async def log_in() -> int:
            return (await Exchange(application, "POST /auth/login").give(b"{}").finish())[0]

        for _ in range(2):
            self.assertEqual(asyncio.run(log_in()), 400)
            self.assertFalse(application._served is None or application._served.state.running)

    @gen_test
    async def test_what_prevents_the_start_is_in_the_log_once_and_each_request_is_a_503(self) -> None:
        application = ASGIApplication()
        with (
            mock.patch.object(config, "PRODUCTION", True),  # where tests' DEV_TOKEN is refused
            self.assertLogs("indico", "CRITICAL") as logs,
        ):
            for _ in range(2):
                exchange = Exchange(application, "POST /auth/check").give()
                answer = await exchange.finish()
                self.assertEqual(answer, (503, "The server can't start: see its log"))
                self.assertEqual(exchange.headers[b"content-type"], b"application/json; charset=UTF-8")
        self.assertEqual(len(logs.output), 1)
        self.assertIn("DEV_TOKEN can log in as any user", logs.output[0])

    @gen_test
    async def test_a_battery_that_fails_leaves_no_request_waiting(self) -> None:
        with mock.patch.object(asgi, "make_app", side_effect=OSError("no battery")):
            exchange = Exchange(ASGIApplication(), "POST /auth/check").give()
            self.assertEqual((await exchange.finish())[0], 503)
            gc.collect()
        self.assertIn("asyncio: Task exception was never retrieved", self._complaints[0])
        self.assertIn("no battery", self._complaints.pop())


class DevelopmentTest(ASGITest):
    @gen_test
    async def test_on_loopback_other_hosts_are_rejected(self) -> None:
        for server, host, status in (
            (("127.0.0.1", 8000), b"evil.example.com", 421),
            (("127.0.0.1", 8000), b"localhost:8000", 200),
            (("::1", 8000), b"evil.example.com:8000", 421),
            (("10.0.0.1", 8000), b"evil.example.com", 200),
            (("/run/indico.sock", None), b"evil.example.com", 200),
            (None, b"evil.example.com", 200),
        ):
            exchange = self.ask(headers=[(b"host", host)], server=server).give(b"a")
            self.assertEqual((await exchange.finish())[0], status)


SCRIPT = """
import asyncio, json
from indico import server
from indico.routes.handler import IndicoHandler

class ProbeHandler(IndicoHandler):
    async def waits(self, data):
        print("waiting", flush=True)
        try:
            await asyncio.sleep(float(data or b"3600"))
        except asyncio.CancelledError:
            print("cancelled", flush=True)
            raise
        return "done"

    async def follow(self, data):
        count, pause = json.loads(data)
        try:
            for number in range(count):
                yield 1000 * "a"
                if pause:
                    await asyncio.sleep(pause)
        finally:
            print("ended", flush=True)

server.ROUTES.append((r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler))
from indico.asgi import application
"""

WORK_SCRIPT = """
import os
from indico import server
from indico.batteries.compute import compute
from indico.batteries.jobs import job
from indico.routes.handler import IndicoHandler
from indico.utils.auth.auth_utils import auth

class WorkHandler(IndicoHandler):
    async def compute(self, data):
        return [os.getpid(), await compute(os.getpid)]

    @auth
    @job
    async def build(self, data):
        return "built"

server.ROUTES.append((r"/work/(?P<action>[a-zA-Z]+)?", WorkHandler))
from indico.asgi import application
"""

COMMANDS = {
    "uvicorn": "uvicorn app:application --port {port} --no-server-header --no-proxy-headers",
    "hypercorn": "hypercorn app:application --bind 127.0.0.1:{port}",
    "granian": "granian app:application --interface asgi --port {port} --no-ws",
}


class ASGIProcessTest(ProcessTest):
    """Each of the servers, as it is shipped."""

    def each(
        self,
        test: Callable[[subprocess.Popen[str], int], None],
        *names: str,
        script: str = "",
        **settings: str,
    ) -> None:
        (self.folder / "app.py").write_text(script or SCRIPT)
        for name in names or COMMANDS:
            command = COMMANDS[name]
            with self.subTest(server=name):
                if importlib.util.find_spec(name) is None:
                    self.skipTest(f"{name} is not installed")
                probe, port = bind_unused_port()
                probe.close()
                with open(self.folder / f"{name}.log", "w") as log:
                    process = subprocess.Popen(
                        [sys.executable, "-m", *command.format(port=port).split()],
                        cwd=self.folder,
                        env=make_environment({"MAX_BODY_SIZE": "1000", **settings}),
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                try:
                    self.log = self.folder / f"{name}.log"
                    wait_until(lambda: self.is_open(port), f"the start of {name}")  # noqa: B023
                    test(process, port)
                finally:
                    process.kill()
                    process.wait()

    def is_open(self, port: int) -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            return False
        return True

    def ask(self, port: int, path: str, body: str = "", headers: Any = HEADERS) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            self.assertEqual(response.headers["Content-Type"], "application/json; charset=UTF-8")
            envelope = json.loads(response.read())
            self.assertEqual(envelope["status"], response.status)
            return response.status, envelope["data"]
        finally:
            connection.close()

    def read_peak(self) -> int:
        return max(map(read_peak, processes_in(self.folder)))

    def follow(self, port: int, count: int, pause: float) -> socket.socket:
        """A client that has asked for a stream."""
        client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        client.sendall(
            make_post(json.dumps([count, pause]).encode(), "POST /probe/follow HTTP/1.1", "Connection: close")
        )
        return client


@slow
class ASGIServerTest(ASGIProcessTest):
    def test_it_serves_the_same(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            self.assertEqual(self.ask(port, "/auth/login", json.dumps(LOGIN_DATA))[0], 200)
            self.assertEqual(self.ask(port, "/auth/check"), (200, True))
            update = json.dumps({"update_user": {"name": "Grace"}})
            self.assertEqual(self.ask(port, "/user/update", update)[1]["name"], "Grace")
            self.assertEqual(self.ask(port, "/user/find", headers={})[0], 401)
            self.assertEqual(self.ask(port, "/nope")[0], 404)
            self.assertEqual(self.ask(port, "/user/update", 1001 * "a")[0], 413)

        self.each(test)

    def test_computations_and_jobs_run(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            status, pids = self.ask(port, "/work/compute")
            self.assertEqual((status, len(set(pids))), (200, 2))
            self.ask(port, "/auth/login", json.dumps(LOGIN_DATA))
            status, job = self.ask(port, "/work/build")
            self.assertEqual(status, 202)
            state = {"state": "done", "progress": None, "result": "built"}
            wait_until(lambda: self.ask(port, "/job/find", json.dumps(job)) == (200, state), "the job")
            process.terminate()
            process.wait(PATIENCE)
            wait_until(lambda: not processes_in(self.folder), "the end of all processes")
            self.assertNotIn("Traceback", self.log.read_text())

        with mock.patch(f"{__name__}.SCRIPT", WORK_SCRIPT):
            self.each(test)

    def test_it_starts_without_events_of_a_lifespan_and_below_a_path(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            self.assertEqual(self.ask(port, f"{path}/auth/login", json.dumps(LOGIN_DATA))[0], 200)
            self.assertEqual(self.ask(port, f"{path}/auth/check"), (200, True))
            process.terminate()
            process.wait(PATIENCE)
            self.assertNotIn("Traceback", self.log.read_text())

        mounted = (
            "\nfrom starlette.applications import Starlette\nfrom starlette.routing import Mount\n"
            "application = Starlette(routes=[Mount('/a b', application)])\n"
        )
        for path, more in (("", ""), ("/a%20b", mounted)):
            with (
                self.subTest(path),
                mock.patch.dict(COMMANDS, {"uvicorn": f"{COMMANDS['uvicorn']} --lifespan off"}),
            ):
                if more and importlib.util.find_spec("starlette") is None:
                    self.skipTest("starlette is not installed")
                with mock.patch(f"{__name__}.SCRIPT", SCRIPT + more):
                    self.each(test, "uvicorn")

    def test_a_client_that_leaves_ends_its_action(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"POST /probe/waits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
                wait_until(lambda: "waiting" in self.log.read_text(), "the action")
            wait_until(lambda: "cancelled" in self.log.read_text(), "the end of the action")

        self.each(test)

    def test_a_stream_arrives_event_by_event(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            with self.follow(port, 3, 0.3) as client:
                times = [
                    time.monotonic()
                    for part in iter(partial(client.recv, 100_000), b"")
                    if b"data: {" in part
                ]
            self.assertEqual(len(times), 3)
            self.assertGreater(times[-1] - times[0], 0.5)

        self.each(test)

    def test_a_client_that_leaves_ends_its_stream(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            for count, (number, pause) in enumerate([(10**9, 0), (2, 3600)], 1):
                with self.follow(port, number, pause) as client:
                    client.recv(1000)
                wait_until(lambda: self.log.read_text().count("ended") == count, "the end", patience=1)  # noqa: B023

        self.each(test)

    def test_many_events_to_a_slow_client_keep_memory_flat(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            with self.follow(port, 1, 0) as client:
                client.recv(100_000)
            before = self.read_peak()
            with self.follow(port, 30_000, 0) as client:
                time.sleep(2)
                received = 0
                while part := client.recv(1 << 16):
                    received += len(part)
                    time.sleep(0.001)
            self.assertGreater(received, 30_000_000)
            self.assertLess(self.read_peak() - before, 10_000)

        self.each(test)

    def test_beyond_max_actions_others_are_busy_within_50_ms_and_health_answers(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            busy.assert_busy_at_once(self, port)

        script = f"{busy.SCRIPT}\nfrom indico.asgi import application\n"
        self.each(test, script=script, MAX_ACTIONS=str(busy.MAX_ACTIONS))

    def test_sigterm_lets_a_request_in_flight_finish(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
                client.sendall(
                    b"POST /probe/waits HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n0.5"
                )
                wait_until(lambda: "waiting" in self.log.read_text(), "the action")
                process.terminate()
                answer = client.recv(10_000)
                while b"done" not in answer and (part := client.recv(10_000)):
                    answer += part
                self.assertEqual(json.loads(answer.partition(b"\r\n\r\n")[2])["data"], "done")
            process.wait(PATIENCE)
            self.assertNotIn("Traceback", self.log.read_text())

        self.each(test)
