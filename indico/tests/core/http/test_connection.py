"""
Requests one after the other on a connection: their order, what is read ahead, bodies, and all kinds of
responses.
"""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import unittest
from contextlib import AsyncExitStack
from itertools import product
from typing import Any, ClassVar, cast

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPOutputError,
    HTTPServerConnectionDelegate,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.testing import gen_test
from tornado.web import RequestHandler, stream_request_body

from indico import config
from indico.core.hooks import Application
from indico.core.http import limits, requests
from indico.core.http.connection import READ_AHEAD
from indico.core.http.limits import DISCONNECT_INTERVAL_MS
from indico.core.http.pages import PageHandler
from indico.core.http.server import Server
from indico.error import InvalidValue
from indico.server import BATTERIES
from indico.tests.core.http.in_loop import make_in_loop
from indico.tests.core.http.on_uvloop import UvloopTest
from indico.tests.core.http.test_hostile import (
    BARE,
    LAST,
    LAST_REQUEST,
    PATIENCE,
    Client,
    HostileTest,
    make_post,
    make_request,
    read_answers,
)
from indico.tests.testutils import slow

LARGE = 10_000_000  # bytes, more than the buffers between server and client hold


class EarlyHandler(PageHandler):
    def prepare(self) -> None:
        self.respond("before the body")


class FlushHandler(EarlyHandler):
    def prepare(self) -> None:
        super().prepare()
        self.flush()


class WriterHandler(RequestHandler):
    """Responses that the envelope has no use for."""

    failure: ClassVar[BaseException | None] = None

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    async def get(self, kind: str) -> None:
        await getattr(self, kind)()

    head = get

    async def pieces(self) -> None:
        for piece in ("one ", "two ", "three"):
            self.write(piece)
            await self.flush()

    async def empty(self) -> None:
        self.set_status(204)

    async def unchanged(self) -> None:
        self.set_status(304)

    async def closing(self) -> None:
        self.set_header("Connection", "close")
        self.write("bye")

    async def backpressure(self) -> None:
        for _ in range(100):
            self.write(LARGE // 100 * b"a")
            await self.flush()
            type(self).unsent = max(self.unsent, self.request.connection.unsent_bytes())  # type: ignore

    unsent: ClassVar[int] = 0

    async def liar(self, length: int = 2) -> None:
        self.set_header("Content-Length", str(length))
        self.write("ab" if length != 2 else "abc")
        try:
            await self.flush()
            self.request.connection.finish()  # type: ignore[union-attr]
        except HTTPOutputError as error:
            type(self).failure = error

    async def coward(self) -> None:
        await self.liar(3)

    async def splitter(self) -> None:
        headers = HTTPHeaders({"A": "b\r\nC: d"})
        try:
            self.request.connection.write_headers(  # type: ignore[union-attr]
                ResponseStartLine("HTTP/1.1", 200, "OK"), headers
            )
        except ValueError as error:
            type(self).failure = error
        self.write("no C")

    async def slow(self) -> None:
        self.write("begun")
        await self.flush()
        try:
            while True:
                self.write(100_000 * b"a")
                await self.flush()
        except StreamClosedError as error:
            type(self).failure = error


@stream_request_body
class SinkHandler(RequestHandler):
    """Takes a body at the speed that a test allows."""

    received = 0
    ready: asyncio.Event
    largest: ClassVar[float] = float("inf")

    def set_default_headers(self) -> None:
        self.clear_header("Server")

    def prepare(self) -> None:
        connection: Any = self.request.connection
        if self.largest != float("inf"):
            connection.set_max_body_size(int(self.largest))
        connection.set_body_timeout(PATIENCE)

    async def data_received(self, chunk: bytes) -> None:
        type(self).received += len(chunk)
        await self.ready.wait()

    def post(self) -> None:
        self.finish(str(self.received))


class ConnectionTest(HostileTest):
    routes = [
        *HostileTest.routes,
        (r"/early", EarlyHandler),
        (r"/flush", FlushHandler),
        (r"/write/(.*)", WriterHandler),
        ("/sink", SinkHandler),
    ]

    def get_http_server(self) -> Any:
        self.server = make_in_loop(self, Server)
        return self.server

    def setUp(self) -> None:
        for name in ("SWEEP_INTERVAL_MS", "DISCONNECT_INTERVAL_MS"):
            self.set(limits, name, 10)
        super().setUp()
        WriterHandler.failure = None
        SinkHandler.received, SinkHandler.largest = 0, float("inf")
        SinkHandler.ready = asyncio.Event()
        self.most_lines = 1000

    async def ask(self, client: Client, data: bytes, end: bytes) -> bytes:
        """What the client receives after it has sent this, up to this end."""
        await client.send(data)
        received = b""
        while not received.endswith(end):
            part = await client.receive()
            self.assertTrue(part, received)
            received += part
        return received

    async def end_hanging(self) -> None:
        """End the request that hangs."""
        await self.started.wait()
        for hanging in list(self._app.state.in_flight):
            hanging.abort_with(InvalidValue("enough"))


class OrderTest(ConnectionTest):
    @gen_test(timeout=PATIENCE)
    async def test_a_request_waits_for_its_turn_and_for_its_body(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1") + make_post(b"ab")[:-1])
            await self.end_hanging()
            received = await client.receive()
            await client.send(b"b" + LAST_REQUEST)
            answers = read_answers(received + await client.receive_all())
        self.assertEqual([answer.data for answer in answers], ["enough", "ab", "last"])

    def test_nonsense_in_the_body_of_a_request_comes_after_the_answer_before(self) -> None:
        nonsense = make_request("POST /nope HTTP/1.1", "Transfer-Encoding: chunked", body=b"nonsense\r\n")
        answers = self.exchange(make_post(b"a") + nonsense)
        self.assertEqual([answer.status for answer in answers], [200, BARE])

    @gen_test(timeout=PATIENCE)
    async def test_what_comes_after_nonsense_is_not_read(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            await client.send(b"nonsense\r\n\r\n")
            await asyncio.sleep(0.01)
            await client.send(LAST_REQUEST)
            await asyncio.sleep(0.01)
            await self.end_hanging()
            answers = read_answers(await client.receive_all())
        self.assertEqual([answer.status for answer in answers], [400, BARE])

    @gen_test(timeout=PATIENCE)
    async def test_what_follows_an_upgrade_in_the_next_piece_is_answered(self) -> None:
        headers = ("Connection: Upgrade", "Upgrade: h2c")
        async with self.client() as client:
            received = await self.ask(client, make_request("POST /probe/echo HTTP/1.1", *headers), b"}")
            await client.send(LAST_REQUEST)
            answers = read_answers(received + await client.receive_all())
        self.assertEqual([answer.status for answer in answers], [200, LAST])

    def test_who_asks_for_a_tunnel_sends_no_body(self) -> None:
        self.assert_answers(make_request("CONNECT /probe/echo HTTP/1.1"), 405, LAST)
        self.assert_answers(make_post(b"body", "CONNECT /probe/echo HTTP/1.1"), BARE)

    @gen_test(timeout=PATIENCE)
    async def test_what_comes_before_headers_in_one_piece_is_not_counted_to_them(self) -> None:
        self.set(requests, "LARGEST_HEAD", 300)
        async with self.client() as client:
            received = await self.ask(client, make_post(500 * b"a") + LAST_REQUEST[:20], b"}")
            await client.send(LAST_REQUEST[20:])
            answers = read_answers(received + await client.receive_all())
        self.assertEqual([answer.status for answer in answers], [200, LAST])

    def test_each_option_of_a_connection_counts(self) -> None:
        for value in ("TE, close", "CLOSE", "close, keep-alive"):
            with self.subTest(value=value):
                request = make_request("POST /probe/echo HTTP/1.1", f"Connection: {value}")
                [answer] = self.exchange(request + LAST_REQUEST)
                self.assertEqual(answer.headers["Connection"], "close")

    @unittest.skipUnless("indico.batteries.logs" in BATTERIES, "the battery was taken out")
    def test_each_request_runs_in_a_context_of_its_own(self) -> None:
        pairs = [make_request("POST /probe/echo HTTP/1.1") for _ in range(3)]
        answers = self.exchange(b"".join(pairs) + LAST_REQUEST)
        identities = {answer.headers["X-Request-Id"] for answer in answers}
        self.assertEqual(len(identities), 4)


class GarbageTest(ConnectionTest):
    @gen_test(timeout=PATIENCE)
    async def test_a_request_leaves_nothing_to_the_garbage_collector(self) -> None:
        async with self.client() as client:
            for _ in range(3):  # of which the first make what is kept
                gc.collect()
                await self.ask(client, make_post(b"a"), b"}")
                await asyncio.sleep(0)
            self.addCleanup(gc.garbage.clear)
            self.addCleanup(gc.set_debug, gc.get_debug())
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
        self.assertEqual([kind for kind in map(type, gc.garbage) if issubclass(kind, RequestHandler)], [])


class ReadAheadTest(ConnectionTest):
    @gen_test(timeout=PATIENCE)
    async def test_while_a_request_is_at_work_little_is_read_and_all_is_answered_later(self) -> None:
        request = make_post(5000 * b"a")
        count = 200
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            sending = asyncio.ensure_future(client.send(count * request + LAST_REQUEST))
            while not self.server.limits.paused:
                await asyncio.sleep(0.001)
            [connection] = self.server.limits.addresses
            self.assertLess(connection.unread_bytes(), READ_AHEAD + 300_000)
            await self.end_hanging()
            answers = read_answers(await client.receive_all())
            await sending
        self.assertEqual([answer.status for answer in answers], [400, *(count * [200]), LAST])
        self.assertEqual(self.server.limits.paused, set())
        self.most_lines += 2 * count

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_behind_unread_requests_is_noticed(self) -> None:
        for leave in (Client.end, Client.reset):
            self.started.clear()
            self.cancelled.clear()
            async with self.client() as client:
                await client.send(make_request("POST /probe/hangs HTTP/1.1"))
                await self.started.wait()
                await client.send((READ_AHEAD + 1) * b"a")
                while not self.server.limits.paused:
                    await asyncio.sleep(0.001)
                await client.send(b"unread")
                leave(client)
                await self.cancelled.wait()
                await self.wait_until_left()
        self.assertEqual(self.server.limits.addresses, {})

    @gen_test(timeout=PATIENCE)
    async def test_a_body_is_read_as_fast_as_the_handler_takes_it(self) -> None:
        async with self.client() as client:
            data = make_post(LARGE * b"a", "POST /sink HTTP/1.1")
            sending = asyncio.ensure_future(client.send(data))
            while not self.server.limits.paused:
                await asyncio.sleep(0.001)
            self.assertLess(SinkHandler.received, LARGE // 2)
            self.assertFalse(sending.done())
            SinkHandler.ready.set()
            received = await self.ask(client, b"", str(LARGE).encode())
        self.assertTrue(received.startswith(b"HTTP/1.1 200 OK\r\n"))

    @gen_test(timeout=PATIENCE)
    async def test_a_client_may_leave_while_its_body_is_not_taken(self) -> None:
        for leave in (Client.end, Client.reset):
            async with self.client() as client:
                await client.send(make_post(100 * b"a", "POST /sink HTTP/1.1")[:-50])
                while not SinkHandler.received:
                    await asyncio.sleep(0)
                leave(client)
                while self.server.limits.addresses:
                    await asyncio.sleep(0)
            SinkHandler.ready.set()


class NoticeTest(ConnectionTest):
    def get_http_server(self) -> Any:
        self.set(limits, "DISCONNECT_INTERVAL_MS", DISCONNECT_INTERVAL_MS)  # as it is in production
        return super().get_http_server()

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_leaves_is_noticed_within_a_second_also_if_more_input_is_unread(self) -> None:
        for leave, unread in product((Client.end, Client.reset), (b"", (READ_AHEAD + 1) * b"a")):
            self.started.clear()
            self.cancelled.clear()
            async with self.client() as client:
                await client.send(make_request("POST /probe/hangs HTTP/1.1"))
                await self.started.wait()
                await client.send(unread)
                while unread and not self.server.limits.paused:
                    await asyncio.sleep(0.001)
                await client.send(unread[:6])
                left = time.monotonic()
                leave(client)
                await self.cancelled.wait()
                self.assertLess(time.monotonic() - left, 1)


class UvloopNoticeTest(UvloopTest, NoticeTest):
    pass


class UnreadTest(ConnectionTest):
    @gen_test(timeout=PATIENCE)
    async def test_beyond_what_may_wait_the_connection_that_holds_most_is_closed(self) -> None:
        self.set(config, "MAX_UNREAD", 250_000)
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(self.client()) for _ in range(3)]
            for client, size in zip(clients, (90_000, 120_000, 80_000)):
                await client.send(make_post(size * b"a")[:-1])
            self.assertEqual(await clients[1].receive_all(), b"")
            for client in (clients[0], clients[2]):
                await self.ask(client, b"a", b"}")

    @gen_test(timeout=PATIENCE)
    async def test_what_is_served_does_not_count(self) -> None:
        self.set(config, "MAX_UNREAD", 250_000)
        async with self.client() as client:
            for _ in range(10):
                await self.ask(client, make_post(100_000 * b"a"), b"}")
            [connection] = self.server.limits.addresses
            self.assertEqual(connection.unread_bytes(), 0)


class BodyTest(ConnectionTest):
    def test_http_1_0_knows_no_expectation(self) -> None:
        request = make_post(b"ab", "POST /probe/echo HTTP/1.0", "Expect: 100-continue")

        async def talk(client: Client) -> bytes:
            await client.send(request)
            return await client.receive_all()

        self.assertNotIn(b" 100 ", self.run_client(talk))

    def test_a_body_in_one_piece_with_its_headers_may_be_larger_than_headers_may_be(self) -> None:
        self.assert_answers(make_post(100_000 * b"a"), 200, LAST)

    @gen_test(timeout=PATIENCE)
    async def test_a_body_may_come_after_the_answer(self) -> None:
        async with self.client() as client:
            received = await self.ask(client, make_request("GET /early HTTP/1.1", "Content-Length: 2"), b"}")
            await client.send(b"ab" + LAST_REQUEST)
            answers = read_answers(received + await client.receive_all())
        self.assertEqual([answer.status for answer in answers], [200, LAST])

    @gen_test(timeout=PATIENCE)
    async def test_a_body_after_the_last_answer_is_dropped(self) -> None:
        async with self.client() as client:
            request = make_request("GET /early HTTP/1.1", "Content-Length: 2000000", "Connection: close")
            received = await self.ask(client, request, b"}")
            self.assertEqual(await client.receive(), b"")  # nothing more will come
            await client.send(2_000_000 * b"a" + LAST_REQUEST)
            self.assertEqual(await client.receive_all(), b"")
        self.assertEqual([answer.status for answer in read_answers(received)], [200])

    @gen_test(timeout=PATIENCE)
    async def test_a_flush_after_the_last_answer_sends_nothing(self) -> None:
        async with self.client() as client:
            request = make_request("GET /flush HTTP/1.1", "Content-Length: 2", "Connection: close")
            received = await self.ask(client, request, b"}")
            await client.send(b"ab")
            received += await client.receive_all()
        self.assertEqual([answer.status for answer in read_answers(received)], [200])

    @gen_test(timeout=PATIENCE)
    async def test_a_body_after_the_last_answer_that_never_comes_is_not_waited_for(self) -> None:
        self.set(requests, "LINGER_SECONDS", 0.05)
        async with self.client() as client:
            request = make_request("GET /early HTTP/1.1", "Content-Length: 2", "Connection: close")
            await self.ask(client, request, b"}")
            while self.server.limits.addresses:
                await asyncio.sleep(0.001)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_may_leave_while_it_is_told_that_its_body_is_too_large(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        async with self.client() as client:
            await client.send(make_request("POST /probe/echo HTTP/1.1", "Content-Length: 101"))
            client.reset()
        await self.wait_until_left()

    @gen_test(timeout=PATIENCE)
    async def test_a_plain_handler_gets_no_body_that_is_too_large(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        envelope = {"status": 413, "data": "The body is larger than 100 bytes"}
        chunk = b"40\r\n" + 64 * b"a" + b"\r\n"
        declared = make_request("GET /write/empty HTTP/1.1", "Content-Length: 101", body=101 * b"a")
        chunked = make_request(
            "GET /write/empty HTTP/1.1", "Transfer-Encoding: chunked", body=2 * chunk + b"0\r\n\r\n"
        )
        for data in (declared, chunked):
            async with self.client() as client:
                await client.send(data)
                [answer] = read_answers(await client.receive_all())
            self.assertEqual({"status": answer.status, "data": answer.data}, envelope)

    @gen_test(timeout=PATIENCE)
    async def test_a_handler_may_set_the_size_of_its_body(self) -> None:
        SinkHandler.largest = 100
        SinkHandler.ready.set()
        async with self.client() as client:
            await client.send(make_post(101 * b"a", "POST /sink HTTP/1.1"))
            [answer] = read_answers(await client.receive_all())
            self.assertEqual(answer.data, "The body is larger than 100 bytes")
        async with self.client() as client:
            await self.ask(client, make_post(100 * b"a", "POST /sink HTTP/1.1"), b"\r\n100")

    def test_chunks_in_single_bytes_are_put_together(self) -> None:
        data = make_request(
            "POST /probe/echo HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n"
        )

        async def talk(client: Client) -> bytes:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in data:
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            await client.send(LAST_REQUEST)
            return await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.data for answer in answers], ["ab", "last"])


class ResponseTest(ConnectionTest):
    def fetch_raw(self, line: str, *headers: str) -> tuple[HTTPHeaders, bytes]:
        """Headers and the bytes that follow them, from a connection that is closed then."""

        async def talk(client: Client) -> bytes:
            await client.send(make_request(line, "Connection: close", *headers))
            return await client.receive_all()

        head, _, body = self.run_client(talk).partition(b"\r\n\r\n")
        return HTTPHeaders.parse(head.decode().partition("\r\n")[2]), body

    def test_a_response_of_unknown_length_comes_in_chunks(self) -> None:
        headers, body = self.fetch_raw("GET /write/pieces HTTP/1.1")
        self.assertEqual(headers["Transfer-Encoding"], "chunked")
        self.assertEqual(body, b"4\r\none \r\n4\r\ntwo \r\n5\r\nthree\r\n0\r\n\r\n")

    def test_for_http_1_0_it_ends_with_the_connection(self) -> None:
        headers, body = self.fetch_raw("GET /write/pieces HTTP/1.0", "Connection: keep-alive")
        self.assertEqual((headers.get("Transfer-Encoding"), headers["Connection"]), (None, "close"))
        self.assertEqual(body, b"one two three")

    def test_head_and_responses_without_a_body_have_none(self) -> None:
        for line in ("HEAD /write/pieces", "GET /write/empty", "GET /write/unchanged"):
            headers, body = self.fetch_raw(f"{line} HTTP/1.1")
            self.assertEqual((headers.get("Transfer-Encoding"), body), (None, b""), line)

    def test_a_handler_may_close_the_connection(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_request("GET /write/closing HTTP/1.1") + LAST_REQUEST)
            return await client.receive_all()

        self.assertTrue(self.run_client(talk).endswith(b"\r\n\r\nbye"))

    def test_a_handler_that_waits_for_its_writes_fills_no_memory(self) -> None:
        _, body = self.fetch_raw("GET /write/backpressure HTTP/1.1")
        self.assertGreater(len(body), LARGE)
        self.assertLess(WriterHandler.unsent, 500_000)

    def test_a_response_that_breaks_its_promise_is_cut_off(self) -> None:
        for kind in ("liar", "coward"):
            WriterHandler.failure = None
            self.fetch_raw(f"GET /write/{kind} HTTP/1.1")
            self.assertIsInstance(WriterHandler.failure, HTTPOutputError, kind)

    def test_a_header_can_not_split_a_response(self) -> None:
        headers, body = self.fetch_raw("GET /write/splitter HTTP/1.1")
        self.assertIsInstance(WriterHandler.failure, ValueError)
        self.assertEqual((headers.get("C"), body), (None, b"no C"))

    @gen_test(timeout=PATIENCE)
    async def test_a_handler_is_told_that_its_client_takes_no_more(self) -> None:
        async with self.client() as client:
            await client.send(make_request("GET /write/slow HTTP/1.1"))
            await client.receive()
            client.reset()
        while WriterHandler.failure is None:
            await asyncio.sleep(0)

    def test_a_head_and_its_body_are_one_write(self) -> None:
        sizes: list[int] = []

        async def talk(client: Client) -> bytes:
            await client.send(make_post(100 * b"a"))
            received = await client.receive()
            sizes.append(len(received))
            return received

        [answer] = read_answers(self.run_client(talk))
        self.assertEqual(answer.data, 100 * "a")


class Delegate(HTTPMessageDelegate):
    """An application that fails, or answers at once."""

    def __init__(self, connection: HTTPConnection) -> None:
        self.connection = connection

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Any:
        if start_line.path == "/fail":
            raise KeyError("a bug")
        if start_line.path == "/fail-later":
            return self.fail()
        if start_line.path == "/at-once":
            return asyncio.sleep(0)
        return None

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise KeyError("a bug")

    def finish(self) -> None:
        self.connection.write_headers(
            ResponseStartLine("HTTP/1.1", 200, "OK"), HTTPHeaders({"Content-Length": "0"})
        )
        self.connection.finish()


class BareApplication(HTTPServerConnectionDelegate):
    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return Delegate(request_conn)


class DelegateTest(ConnectionTest):
    """Applications that are none of Tornado's."""

    def get_app(self) -> Application:
        return cast(Application, BareApplication())

    @gen_test(timeout=PATIENCE)
    async def test_an_application_may_answer_at_once(self) -> None:
        async with self.client() as client:
            lines = ("GET / HTTP/1.1", "GET /at-once HTTP/1.1", "GET / HTTP/1.1")
            requests = [make_request(line) for line in lines]
            await client.send(b"".join([*requests, make_request("GET / HTTP/1.1", "Connection: close")]))
            self.assertEqual((await client.receive_all()).count(b"HTTP/1.1 200 OK\r\n"), 4)

    def test_one_that_fails_is_logged_and_the_connection_cut(self) -> None:
        for path in ("/fail", "/fail-later"):
            with self.assertLogs("indico", "ERROR"):

                async def talk(client: Client, path: str = path) -> bytes:
                    await client.send(make_request(f"GET {path} HTTP/1.1"))
                    return await client.receive_all()

                self.assertEqual(self.run_client(talk), b"")


class UvloopOrderTest(UvloopTest, OrderTest):
    pass


class UvloopReadAheadTest(UvloopTest, ReadAheadTest):
    pass


class UvloopBodyTest(UvloopTest, BodyTest):
    pass


class UvloopResponseTest(UvloopTest, ResponseTest):
    pass
