"""
Actions that are async generators: what the client gets, and what becomes of the generator when the client is
slow or leaves. On our server and on Tornado's.
"""

from __future__ import annotations

import asyncio
import io
import json
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, ClassVar
from unittest import mock

from tornado.httpclient import HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders
from tornado.testing import gen_test

import indico.db.auth_db as AuthDB
from indico import config
from indico.asgi import ASGIApplication
from indico.core.http import limits, streams
from indico.core.http.sockets import raise_file_limit
from indico.core.lifecycle import drain
from indico.core.mongo import key_cache
from indico.error import IndicoError, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.tests.core.http.test_hostile import Client, make_post
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_KEY
from indico.tests.mocks.request_mock import RequestHandler
from indico.tests.test_asgi import COMMANDS, ASGIProcessTest, Exchange
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, ServerProcess, linux, read_peak
from indico.tests.testutils.server import ServerTest
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

PATIENCE = 30  # seconds
SHORT = 0.2  # seconds, for a limit that a test reaches
KILOBYTE = 1024 * "a"
SCREWED_UP = "we screwed up and have some debugging to do"
END = "event: end\ndata: null\n\n"


def make_event(data: Any) -> str:
    return f"data: {json.dumps({'status': 200, 'data': data}, separators=(',', ':'))}\n\n"


def make_error(message: str, code: int) -> str:
    envelope = json.dumps({"status": code, "data": message}, separators=(",", ":"))
    return f"event: error\ndata: {envelope}\n\n"


class ProbeHandler(IndicoHandler):
    test: StreamTest

    async def _note(self, values: Any) -> AsyncIterator[Any]:
        """Yield the values. The test under way can see how many, and when the generator ends."""
        self.test.handler = self
        try:
            for value in values:
                self.test.yielded += 1
                yield value
        finally:
            self.test.ended.set()

    @unpack("values")
    @type_check(list)
    async def each(self, values: list[Any]) -> AsyncIterator[Any]:
        for value in values:
            yield value

    @unpack("count")
    @type_check(int)
    async def many(self, count: int) -> AsyncIterator[str]:
        async for _ in self._note(range(count)):
            yield KILOBYTE

    async def large(self, data: bytes) -> AsyncIterator[str]:
        async for _ in self._note(range(1)):
            yield 10_000 * KILOBYTE

    @unpack("wait", "then")
    @type_check(float, float)
    async def waits(self, wait: float, then: float) -> AsyncIterator[str]:
        await asyncio.sleep(wait)
        yield "first"
        self.test.started.set()
        try:
            await asyncio.sleep(then)
            yield "second"
        finally:
            self.test.ended.set()

    @unpack("count")
    @type_check(int)
    async def fails(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise ValueError("secret detail")

    @unpack("count")
    @type_check(int)
    async def refuses(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
        raise IndicoError("short and stout", 418)

    @unpack("count")
    @type_check(int)
    async def unknown(self, count: int) -> AsyncIterator[Any]:
        try:
            for number in range(count):
                yield number
            yield object()
        finally:
            self.test.ended.set()

    async def responds(self, data: bytes) -> AsyncIterator[str]:
        self.respond("responded")
        yield "dropped"

    async def lingers(self, data: bytes) -> AsyncIterator[str]:
        self.respond("responded")
        await asyncio.sleep(SHORT)
        self.test.ended.set()
        yield "dropped"

    async def stubborn(self, data: bytes) -> AsyncIterator[str]:
        try:
            while True:
                self.test.started.set()
                yield "a"
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    pass
        finally:
            self.test.ended.set()

    async def gives_up(self, data: bytes) -> AsyncIterator[str]:
        self.test.started.set()
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            self.test.ended.set()
        for value in self.request.arguments:  # none
            yield value

    givesUp = gives_up

    async def returned(self, data: bytes) -> AsyncIterator[str]:
        return self._note(["by", "a coroutine"])

    @auth
    @unpack("count")
    @type_check(int)
    async def keyed(self, count: int) -> AsyncIterator[str]:
        for _ in range(count):
            yield self.user_id


class PatientHandler(ProbeHandler):
    request_timeout = SHORT


class EndlessHandler(ProbeHandler):
    request_timeout = None

    def prepare(self) -> Any:
        """Tornado makes such a handler: it overrides a method that Tornado calls."""
        return super().prepare()


class StreamTest(ServerTest):
    server: ClassVar[str] = "own"
    stores: ClassVar[bool | tuple[str, ...]] = False
    routes = [
        (r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler),
        (r"/patient/(?P<action>[a-zA-Z]+)?", PatientHandler),
        (r"/endless/(?P<action>[a-zA-Z]+)?", EndlessHandler),
        AuthRoute,
    ]

    def setUp(self) -> None:
        self.set(config, "HTTP_SERVER", self.server)
        self.set(limits, "SWEEP_INTERVAL_MS", 10)
        super().setUp()
        ProbeHandler.test = self
        self.handler: IndicoHandler
        self.yielded = 0
        self.started = asyncio.Event()
        self.ended = asyncio.Event()

    def call(self, action: str, headers: Any = HEADERS, **fields: Any) -> HTTPResponse:
        path = action if "/" in action else f"probe/{action}"
        return self.fetch(f"/{path}", method="POST", headers=headers, body=json.dumps(fields))

    def assert_stream(self, response: HTTPResponse, *events: str) -> None:
        self.assertEqual(response.body.decode(), "".join(events))
        self.assertEqual(response.code, 200)
        self.assertEqual(response.headers["Content-Type"], "text/event-stream")
        self.assertEqual(response.headers["X-Accel-Buffering"], "no")
        self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertNotIn("Server", response.headers)

    def assert_answer(self, response: HTTPResponse, status: int, data: Any) -> None:
        self.assertEqual(json.loads(response.body), {"status": status, "data": data})
        self.assertEqual(response.code, status)
        self.assertEqual(response.headers["Content-Type"], "application/json; charset=UTF-8")
        self.assertNotIn("X-Accel-Buffering", response.headers)

    async def connect(self, stack: AsyncExitStack, action: str, **fields: Any) -> Client:
        """A raw client that has sent a request by HTTP/1.0, so that the response has no chunks."""
        client = Client(self.get_http_port())
        stack.callback(client.socket.close)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.connect()
        await client.send(make_post(json.dumps(fields).encode(), f"POST /probe/{action} HTTP/1.0"))
        return client

    async def wait_for(self, event: asyncio.Event, seconds: float = PATIENCE) -> None:
        await asyncio.wait_for(event.wait(), seconds)

    async def wait_until_held(self) -> int:
        """Return the number of values when the generator is held back."""
        count = -1
        while count != self.yielded or not count:
            count = self.yielded
            await asyncio.sleep(0.05)
        return count


class EventsTest(StreamTest):
    def test_each_value_is_an_event_and_the_end_is_one(self) -> None:
        values = [1, "two\nlines\r\u2028", None, {"a": [1.5]}]
        text = "".join(
            f'data: {{"status":200,"data":{json.dumps(v, ensure_ascii=False, separators=(",", ":"))}}}\n\n'
            for v in values
        )
        self.assert_stream(self.call("each", values=values), text, END)

    def test_a_generator_without_values_has_an_end(self) -> None:
        self.assert_stream(self.call("each", values=[]), END)

    def test_a_generator_that_a_coroutine_returns_is_a_stream(self) -> None:
        self.assert_stream(self.call("returned"), make_event("by"), make_event("a coroutine"), END)

    def test_a_handler_that_tornado_makes_streams_too(self) -> None:
        self.assert_stream(self.call("endless/each", values=[1]), make_event(1), END)

    def test_what_is_raised_before_the_first_event_is_an_envelope(self) -> None:
        self.assert_answer(self.call("refuses", count=0), 418, "short and stout")
        self.assert_answer(
            self.call("each", values=7), 400, "Field values - 7 is type int but should be list"
        )
        with self.assertLogs("indico", "ERROR"):
            self.assert_answer(self.call("fails", count=0), 500, SCREWED_UP)
        with self.assertLogs("indico", "ERROR"):
            self.assert_answer(self.call("unknown", count=0), 500, SCREWED_UP)

    def test_what_is_raised_after_an_event_is_an_event(self) -> None:
        self.assert_stream(self.call("refuses", count=1), make_event(0), make_error("short and stout", 418))
        for action in ("fails", "unknown"):
            with self.assertLogs("indico", "ERROR"):
                self.assert_stream(self.call(action, count=1), make_event(0), make_error(SCREWED_UP, 500))
        self.assertTrue(self.ended.is_set())

    def test_values_after_a_response_are_dropped_and_logged(self) -> None:
        with self.assertLogs("indico", "WARNING") as log:
            self.assert_answer(self.call("responds"), 200, "responded")
        self.assertIn("probe.responds has responded already; its events are dropped", log.output[0])

    @slow
    def test_no_comment_comes_after_a_response(self) -> None:
        self.set(streams, "COMMENT_SECONDS", SHORT / 4)
        with self.assertLogs("indico", "WARNING") as log:
            self.assert_answer(self.call("lingers"), 200, "responded")
            self.io_loop.run_sync(self.ended.wait)
        self.assertIn("probe.lingers has responded already; its events are dropped", log.output[0])

    @slow
    def test_an_event_may_be_large(self) -> None:
        response = self.call("large")
        self.assertEqual(len(response.body), len(make_event("")) + 10_000 * 1024 + len(END))

    def test_the_connection_is_kept_for_the_next_request(self) -> None:
        async def talk() -> bytes:
            async with AsyncExitStack() as stack:
                client = Client(self.get_http_port())
                stack.callback(client.socket.close)
                await client.connect()
                await client.send(2 * make_post(b'{"values": [1]}', "POST /probe/each HTTP/1.1"))
                received = b""
                while received.count(b"event: end") < 2:
                    received += await client.receive()
                return received

        self.assertEqual(self.io_loop.run_sync(talk, timeout=PATIENCE).count(b"HTTP/1.1 200 OK"), 2)


class TornadoEventsTest(EventsTest):
    server = "tornado"


class WaitingTest(StreamTest):
    @slow
    def test_a_comment_is_sent_while_nothing_comes(self) -> None:
        self.set(streams, "COMMENT_SECONDS", SHORT)
        body = self.call("waits", wait=3.2 * SHORT, then=0).body.decode()
        self.assertRegex(body, r"^(:\n\n){2,3}data: ")

    def test_what_is_raised_after_a_comment_is_an_event(self) -> None:
        self.set(streams, "COMMENT_SECONDS", SHORT / 4)
        response = self.call("patient/waits", wait=3600, then=0)
        self.assertRegex(response.body.decode(), r"^(:\n\n)+event: error\ndata: {\"status\":504")

    @slow
    def test_no_value_in_time_is_a_504(self) -> None:
        self.assert_answer(self.call("patient/waits", wait=3600, then=0), 504, "The request took too long")

    @slow
    def test_no_next_value_in_time_is_an_event(self) -> None:
        response = self.call("patient/waits", wait=0, then=3600)
        self.assert_stream(response, make_event("first"), make_error("The request took too long", 504))
        self.assertTrue(self.ended.is_set())

    @slow
    def test_a_stream_may_take_longer_than_one_value_may(self) -> None:
        self.assert_stream(
            self.call("patient/waits", wait=0.6 * SHORT, then=0.6 * SHORT),
            make_event("first"),
            make_event("second"),
            END,
        )

    @slow
    def test_without_a_timeout_it_waits(self) -> None:
        self.set(config, "REQUEST_TIMEOUT", 0.01)
        self.assert_stream(
            self.call("endless/waits", wait=SHORT, then=SHORT), make_event("first"), make_event("second"), END
        )


class TornadoWaitingTest(WaitingTest):
    server = "tornado"


class LeavingTest(StreamTest):
    async def assert_ends(self, action: str, ready: Callable[[], bool], **fields: Any) -> None:
        for leave in (Client.reset, Client.end):
            self.started.clear()
            self.ended.clear()
            async with AsyncExitStack() as stack:
                client = await self.connect(stack, action, **fields)
                await client.receive()
                while not ready():
                    await asyncio.sleep(0.01)
                leave(client)
                await self.wait_for(self.ended, 1)
        while self._app.state.in_flight or self._app.state.actions:
            await asyncio.sleep(0.01)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_while_nothing_comes_ends_the_generator(self) -> None:
        with self.assertLogs("indico", "INFO") as log:
            await self.assert_ends("waits", self.started.is_set, wait=0, then=3600)
        self.assertEqual([line for line in log.output if "200 probe.waits" not in line], [])
        self.assertEqual(len(log.output), 2)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_without_reading_ends_the_generator(self) -> None:
        await self.assert_ends("many", lambda: self.yielded > 5, count=10**9)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_while_it_reads_ends_the_generator(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "many", count=10**9)
            while self.yielded < 1000:
                await client.receive()
            client.reset()
            await self.wait_for(self.ended, 1)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_ends_a_generator_that_catches_everything(self) -> None:
        await self.assert_ends("stubborn", self.started.is_set)

    @gen_test(timeout=PATIENCE)
    async def test_a_generator_that_returns_when_its_client_leaves_has_no_end(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "givesUp")
            await self.wait_for(self.started)
            client.reset()
            await self.wait_for(self.ended, 1)
            while self._app.state.actions:
                await asyncio.sleep(0.01)


class TornadoLeavingTest(LeavingTest):
    server = "tornado"


class SlowClientTest(StreamTest):
    most = 64 * 1024  # bytes that may be unsent

    def count_unsent(self) -> int:
        server: Any = self.http_server
        return sum(connection.unsent_bytes() for connection in server.limits.addresses)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_reads_slowly_holds_the_generator_back(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "many", count=1000)
            self.assertLess(await self.wait_until_held(), 100)  # the client's buffer included
            self.assertLessEqual(self.count_unsent(), self.most)
            received = await client.receive_all()
        self.assertEqual(received.count(b"\ndata: "), 1000 + 1)
        self.assertTrue(received.endswith(END.encode()))

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_takes_nothing_is_cut_off(self) -> None:
        self.set(config, "WRITE_TIMEOUT", SHORT)
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "many", count=10**9)
            await self.wait_for(self.ended)
            self.assertNotIn(b"event: ", await client.receive_all())
        self.assertEqual(self._app.state.in_flight, set())

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_takes_a_little_at_a_time_is_not_cut_off(self) -> None:
        self.set(config, "WRITE_TIMEOUT", 0.5)
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "many", count=10**9)
            await self.wait_until_held()
            deadline = time.monotonic() + 4 * config.WRITE_TIMEOUT
            while time.monotonic() < deadline:
                self.assertTrue(await client.receive())
                await asyncio.sleep(0.02)
            self.assertFalse(self.ended.is_set())

    @gen_test(timeout=PATIENCE)
    async def test_a_stream_that_is_aborted_ends_with_its_last_event_whole(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "large")
            await self.wait_until_held()
            self.handler.abort_with(Unavailable("The server is stopping"))
            received = await client.receive_all()
        body = received.partition(b"\r\n\r\n")[2].decode()
        self.assertEqual(len(body.partition("\n\n")[0]), len(make_event(10_000 * KILOBYTE)) - 2)
        self.assertTrue(body.endswith("\n\n" + make_error("The server is stopping", 503)))

    @gen_test(timeout=PATIENCE)
    async def test_others_are_served_meanwhile(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "many", count=10**9)
            reading = asyncio.ensure_future(client.receive_all())
            for _ in range(5):
                other = await self.connect(stack, "each", values=[1])
                self.assertIn(b"event: end", await asyncio.wait_for(other.receive_all(), 1))
            client.socket.shutdown(2)
            await reading
            await self.wait_for(self.ended)


class TornadoSlowClientTest(SlowClientTest):
    server = "tornado"

    def count_unsent(self) -> int:
        return 0  # Tornado does not tell


class DrainTest(StreamTest):
    def test_a_stream_that_begins_late_closes_its_connection(self) -> None:
        self._app.state.draining = True
        response = self.call("each", values=[1])
        self.assert_stream(response, make_event(1), END)
        self.assertEqual(response.headers["Connection"], "close")

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_stream_that_does_not_end_gets_an_error(self) -> None:
        self.set(config, "SHUTDOWN_TIMEOUT", SHORT)
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, "waits", wait=0, then=3600)
            await self.wait_for(self.started)
            await drain(self._app)
            received = await client.receive_all()
        expected = make_event("first") + make_error("The server is stopping", 503)
        self.assertEqual(received.partition(b"\r\n\r\n")[2].decode(), expected)
        await self.wait_for(self.ended)


class AuthTest(StreamTest):
    stores = ("auth", "user")

    def test_a_stream_may_need_a_key(self) -> None:
        self.assert_answer(self.call("keyed", count=1), 401, "User not authenticated")
        user_id = self.post("auth/login", LOGIN_DATA)["data"]["user"]["user_id"]
        self.assert_stream(self.call("keyed", count=2), 2 * make_event(user_id), END)
        self.assert_answer(self.call("keyed", headers={}, count=1), 401, "User not authenticated")
        self.assert_answer(self.call("keyed"), 400, "count field was not provided")
        owner = self.io_loop.run_sync(lambda: AuthDB.get_user_id(USER_KEY))
        with mock.patch.object(key_cache, "find", return_value=owner):
            self.assert_stream(self.call("keyed", count=1), make_event(user_id), END)

    @gen_test
    async def test_a_unit_test_may_iterate_over_an_action(self) -> None:
        body = json.dumps(LOGIN_DATA)
        await self.http_client.fetch(self.get_url("/auth/login"), method="POST", body=body)
        handler: Any = RequestHandler(headers=HEADERS)
        values = [value async for value in ProbeHandler.keyed(handler, '{"count": 2}')]
        self.assertEqual(values, 2 * [handler.user_id])


class ASGIStreamTest(StreamTest):
    def ask(self, action: str, **fields: Any) -> Exchange:
        exchange = Exchange(ASGIApplication(self._app), f"POST /probe/{action}")
        return exchange.give(json.dumps(fields).encode())

    @gen_test(timeout=PATIENCE)
    async def test_each_event_is_a_message(self) -> None:
        exchange = self.ask("each", values=[1, 2])
        await asyncio.wait_for(exchange.task, PATIENCE)
        self.assertEqual(exchange.headers[b"content-type"], b"text/event-stream")
        self.assertEqual(exchange.headers[b"x-accel-buffering"], b"no")
        bodies = [message["body"].decode() for message in exchange.sent[1:]]
        self.assertEqual(bodies, [make_event(1), make_event(2), END])

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_ends_the_generator(self) -> None:
        for action, fields in (("waits", {"wait": 0, "then": 3600}), ("many", {"count": 10**9})):
            self.ended.clear()
            exchange = self.ask(action, **fields)
            while len(exchange.sent) < 2:
                await asyncio.sleep(0.01)
            exchange.leave()
            await self.wait_for(self.ended, 1)
            await asyncio.wait_for(exchange.task, PATIENCE)
            self.assertEqual(self._app.state.in_flight, set())

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_server_that_takes_nothing_holds_the_generator_back(self) -> None:
        exchange = self.ask("many", count=100)
        exchange.free.clear()
        self.assertLessEqual(await self.wait_until_held(), 2)
        exchange.free.set()
        await asyncio.wait_for(exchange.task, PATIENCE)
        self.assertEqual(exchange.body.count(b"data: "), 100 + 1)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_takes_nothing_is_given_up(self) -> None:
        self.set(config, "WRITE_TIMEOUT", SHORT)
        exchange = self.ask("many", count=10**9)
        exchange.free.clear()
        await self.wait_for(self.ended)
        exchange.free.set()
        await asyncio.wait_for(exchange.task, PATIENCE)
        self.assertTrue(exchange.sent[-1].get("more_body", True))


class OverASGI(StreamTest):
    def call(self, action: str, headers: Any = HEADERS, **fields: Any) -> HTTPResponse:
        path = action if "/" in action else f"probe/{action}"

        async def ask() -> Exchange:
            exchange = Exchange(ASGIApplication(self._app), f"POST /{path}")
            await asyncio.wait_for(exchange.give(json.dumps(fields).encode()).task, PATIENCE)
            return exchange

        exchange = self.io_loop.run_sync(ask)
        headers = {name.decode().title(): value.decode() for name, value in exchange.headers.items()}
        response = HTTPResponse(HTTPRequest(path), exchange.status, HTTPHeaders(headers))
        response.buffer = io.BytesIO(exchange.body)
        return response


class ASGIEventsTest(OverASGI, EventsTest):
    pass


class ASGIWaitingTest(OverASGI, WaitingTest):
    pass


SCRIPT = """
import asyncio
from indico import server
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack

class ProbeHandler(IndicoHandler):
    @unpack("count", "size", pause=0.0)
    @type_check(int, int, float)
    async def follow(self, count, size, pause):
        try:
            for number in range(count):
                yield [number, size * "a"]
                if pause:
                    await asyncio.sleep(pause)
        finally:
            print("ended", flush=True)

server.ROUTES.append((r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler))
"""
SERVE = f"{SCRIPT}\nserver.main(debug=False, port=0)\n"


def make_follow(**fields: Any) -> bytes:
    return make_post(json.dumps(fields).encode(), "POST /probe/follow HTTP/1.0")


def join_chunks(response: bytes) -> bytes:
    """Return a response without its chunks: uvicorn sends chunks to a client of HTTP/1.0 too."""
    head, _, rest = response.partition(b"\r\n\r\n")
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        body += rest[: int(size, 16)]
        rest = rest[int(size, 16) + 2 :]
    return head + b"\r\n\r\n" + body


def read_numbers(received: bytes) -> list[int]:
    """Return the numbers of the events, which have to be whole, and to be followed by an end or an error."""
    *events, last = received.partition(b"\r\n\r\n")[2].decode().removesuffix("\n\n").split("\n\n")
    assert last.startswith("event: ") and received.endswith(b"\n\n"), last[:100]
    return [json.loads(event.removeprefix("data: "))["data"][0] for event in events]


async def receive_all(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    received = await reader.read()
    writer.close()
    return received


def count_events(port: int) -> int:
    """Read a hundred thousand events slowly. Return how many came before the end, or 0 without an end."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(make_follow(count=100_000, size=1000))
        time.sleep(2)
        count, tail = 0, b""
        while part := client.recv(1 << 16):
            count += (tail[-6:] + part).count(b"data: {")
            tail = tail[-100:] + part
            time.sleep(0.001)
    return count if END.encode() in tail else 0


@slow
class StreamProcessTest(ProcessTest):
    """Real servers and many events or clients, on our server and on Tornado's."""

    @contextmanager
    def serve(self, kind: str) -> Iterator[ServerProcess]:
        with self.subTest(server=kind):
            server = self.start(script=SERVE, HTTP_SERVER=kind, SHUTDOWN_TIMEOUT="1")
            yield server
            self.assertEqual(server.stop(), 0)
            self.assertNotIn("Traceback", server.output)

    @linux
    def test_a_hundred_thousand_events_to_a_slow_client_keep_memory_flat(self) -> None:
        for kind in ("own", "tornado"):
            with self.serve(kind) as server:
                before = read_peak(server.pid)
                self.assertEqual(count_events(server.port), 100_000)
                self.assertLess(read_peak(server.pid) - before, 10_000)

    def test_two_thousand_streams_at_once(self) -> None:
        raise_file_limit()
        for kind in ("own", "tornado"):
            with self.serve(kind) as server:

                async def follow(port: int = server.port) -> list[bytes]:
                    request = make_follow(count=5, size=10, pause=1)
                    return await asyncio.gather(*(receive_all(port, request) for _ in range(2000)))

                for received in asyncio.run(follow()):
                    self.assertEqual(read_numbers(received), list(range(5)))

    def test_a_drain_ends_streams_with_their_last_event_whole(self) -> None:
        for kind in ("own", "tornado"):
            with self.serve(kind) as server:

                async def follow(server: ServerProcess = server) -> list[bytes]:
                    request = make_follow(count=10**6, size=5000, pause=0.001)
                    clients = [asyncio.ensure_future(receive_all(server.port, request)) for _ in range(50)]
                    await asyncio.sleep(0.5)
                    server.send(signal.SIGTERM)
                    return await asyncio.gather(*clients)

                for received in asyncio.run(follow()):
                    numbers = read_numbers(received)
                    self.assertGreater(len(numbers), 1)
                    self.assertEqual(numbers, list(range(len(numbers))))
                    self.assertTrue(received.decode().endswith(make_error("The server is stopping", 503)))


@slow
class ASGIStreamProcessTest(ASGIProcessTest):
    script = f"{SCRIPT}\nfrom indico.asgi import application\n"

    @linux
    def test_a_hundred_thousand_events_to_a_slow_client_keep_memory_flat(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            asyncio.run(receive_all(port, make_follow(count=1, size=1000)))
            before = self.read_peak()
            self.assertEqual(count_events(port), 100_000)
            self.assertLess(self.read_peak() - before, 10_000)

        self.each(test, script=self.script)

    def test_two_thousand_streams_at_once(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            async def follow() -> list[bytes]:
                request = make_follow(count=5, size=10, pause=1)
                return await asyncio.gather(*(receive_all(port, request) for _ in range(2000)))

            for received in asyncio.run(follow()):
                self.assertEqual(read_numbers(join_chunks(received)), list(range(5)))

        raise_file_limit()
        self.each(test, "uvicorn", script=self.script)

    def test_sigterm_ends_streams_with_their_last_event_whole(self) -> None:
        def test(process: subprocess.Popen[str], port: int) -> None:
            async def follow() -> list[bytes]:
                request = make_follow(count=10**6, size=5000, pause=0.001)
                clients = [asyncio.ensure_future(receive_all(port, request)) for _ in range(50)]
                await asyncio.sleep(1)
                process.terminate()
                return await asyncio.gather(*clients)

            for received in asyncio.run(follow()):
                body = join_chunks(received).partition(b"\r\n\r\n")[2].decode()
                self.assertTrue(body.endswith("\n\n"))
                events = body.removesuffix("\n\n").split("\n\n")
                numbers = [json.loads(event.removeprefix("data: "))["data"][0] for event in events]
                self.assertEqual(numbers, list(range(len(numbers))))
                self.assertGreater(len(numbers), 1)

        command = f"{COMMANDS['uvicorn']} --timeout-graceful-shutdown 1"
        with mock.patch.dict(COMMANDS, uvicorn=command):
            self.each(test, "uvicorn", script=self.script)
