"""
Tornado's WebSockets on our server: nothing is lost on the way, and they count among the connections.
"""

from __future__ import annotations

import asyncio
import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar
from unittest import mock

import tornado
from tornado.testing import AsyncHTTPTestCase, gen_test
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler, websocket_connect

from indico import config
from indico.core.http import limits
from indico.core.http.server import Server
from indico.server import make_app
from indico.tests.core.http.in_loop import make_in_loop
from indico.tests.core.http.on_uvloop import UvloopTest
from indico.tests.core.http.test_hostile import BARE_400, PATIENCE, Client, make_request
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.strict import StrictTest

HEADERS = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
]
SCRIPT = """
from tornado.websocket import WebSocketHandler
from indico import config, server

class EchoHandler(WebSocketHandler):
    def on_message(self, message):
        self.write_message(message)

server.ROUTES.append(("/socket", EchoHandler))
server.main(debug=False, port=config.PORT)
"""
LARGE = 10_000_000  # bytes, more than the buffers between server and client hold


def make_handshake(*headers: str, target: str = "/socket", method: str = "GET") -> bytes:
    return make_request(f"{method} {target} HTTP/1.1", *HEADERS, *headers)


def make_frame(text: bytes, opcode: int = 1) -> bytes:
    """A short message as clients send it, masked with zeros."""
    assert len(text) < 126
    return bytes([0x80 | opcode, 0x80 | len(text), 0, 0, 0, 0]) + text


class EchoHandler(WebSocketHandler):
    closed: asyncio.Event
    opened: ClassVar[list[EchoHandler]]

    def initialize(self) -> None:
        self.closed = asyncio.Event()  # a client may leave before `open` is called

    def open(self, *args: str, **kwargs: str) -> None:
        self.opened.append(self)

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)

    def on_close(self) -> None:
        self.closed.set()


class RawHandler(RequestHandler):
    """Speaks a protocol of its own after its response."""

    async def get(self) -> None:
        self.set_header("Content-Length", "0")
        await self.flush()
        await asyncio.sleep(0.01)  # in which the event loop sends it
        stream = self.detach()
        await stream.write(b"ready ")
        await stream.write(await stream.read_until(b"."))
        stream.close()


class HastyHandler(RequestHandler):
    refusal = ""

    def get(self) -> None:
        self.write(LARGE * b"a")
        self.flush()
        try:
            self.detach()
        except RuntimeError as error:
            type(self).refusal = str(error)


class SocketTest(StrictTest, AsyncHTTPTestCase):
    def get_app(self) -> Application:
        EchoHandler.opened = []
        return make_app(routes=[("/socket", EchoHandler), ("/raw", RawHandler), ("/hasty", HastyHandler)])

    def get_http_server(self) -> Any:
        self.server = make_in_loop(self, Server)
        return self.server

    def setUp(self) -> None:
        patch = mock.patch.object(limits, "SWEEP_INTERVAL_MS", 10)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()

    @asynccontextmanager
    async def client(self, data: bytes) -> AsyncIterator[Client]:
        """A client that has sent this."""
        client = Client(self.get_http_port())
        try:
            await client.connect()
            await client.send(data)
            yield client
        finally:
            client.socket.close()

    async def receive(self, client: Client, end: bytes) -> bytes:
        received = b""
        while not received.endswith(end):
            part = await client.receive()
            self.assertTrue(part, received)
            received += part
        return received

    async def open(self, **options: Any) -> Any:
        return await websocket_connect(f"ws://127.0.0.1:{self.get_http_port()}/socket", **options)

    def count(self) -> int:
        return len(self.server.limits.addresses)

    async def wait_until_gone(self) -> None:
        while self.count():
            await asyncio.sleep(0)


class MessageTest(SocketTest):
    @gen_test(timeout=PATIENCE)
    async def test_messages_go_both_ways(self) -> None:
        connection = await self.open(compression_options={})
        for size in (1, 1000, 100_000):
            await connection.write_message(size * "a")
            self.assertEqual(await connection.read_message(), size * "a")
        connection.close()
        self.assertIsNone(await connection.read_message())
        await self.wait_until_gone()

    @gen_test(timeout=PATIENCE)
    async def test_messages_that_come_with_the_request_are_not_lost(self) -> None:
        frames = b"".join(make_frame(b"%d" % number) for number in range(100))
        async with self.client(make_handshake() + frames) as client:
            received = await self.receive(client, b"99")
        head, _, messages = received.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), head)
        self.assertEqual(messages, b"".join(b"\x81%c%d" % (len(str(n)), n) for n in range(100)))

    @gen_test(timeout=PATIENCE)
    async def test_a_request_in_single_bytes_is_the_same(self) -> None:
        async with self.client(b"") as client:
            for byte in make_handshake() + make_frame(b"hello"):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            await self.receive(client, b"\r\n\r\n\x81\x05hello")

    @gen_test(timeout=PATIENCE)
    async def test_a_socket_may_follow_other_requests_on_its_connection(self) -> None:
        data = make_request("GET /nope HTTP/1.1") + make_handshake() + make_frame(b"hello")
        async with self.client(data) as client:
            received = await self.receive(client, b"\x81\x05hello")
        self.assertTrue(received.startswith(b"HTTP/1.1 404 "))
        self.assertIn(b"HTTP/1.1 101 ", received)

    @gen_test(timeout=PATIENCE)
    async def test_a_stream_may_be_taken_without_an_upgrade(self) -> None:
        async with self.client(make_request("GET /raw HTTP/1.1") + b"go.") as client:
            received = await client.receive_all()
        self.assertTrue(received.endswith(b"\r\n\r\nready go."), received)

    @gen_test(timeout=PATIENCE)
    async def test_a_stream_can_not_be_taken_before_the_response_is_sent(self) -> None:
        async with self.client(make_request("GET /hasty HTTP/1.1")) as client:
            await client.receive()
            self.assertIn("detached", HastyHandler.refusal)


class RefusalTest(SocketTest):
    @gen_test(timeout=PATIENCE)
    async def test_what_is_no_handshake_gets_an_answer_and_the_connection_goes_on(self) -> None:
        for request in (
            make_request("GET /socket HTTP/1.1"),
            make_request("GET /socket HTTP/1.1", *HEADERS[:2]),
            make_handshake("Origin: https://elsewhere.example"),
            # Earlier versions of Tornado compare only the origin.
            *([make_handshake("Sec-Fetch-Site: cross-site")] if tornado.version_info >= (6, 6) else []),
            make_request("GET /socket HTTP/1.1", *HEADERS, host="Host:"),
            make_handshake(method="POST"),
        ):
            async with self.client(request) as client:
                self.assertRegex(await client.receive(), rb"^HTTP/1\.1 4[0-9][0-9] ")
                await client.send(make_handshake())
                self.assertIn(b"HTTP/1.1 101 ", await self.receive(client, b"\r\n\r\n"))

    @gen_test(timeout=PATIENCE)
    async def test_a_handshake_that_is_no_http_is_cut_off(self) -> None:
        for header in ("Upgrade : x", " folded", "Content-Length: x", "A: b\0c"):
            async with self.client(make_handshake(header)) as client:
                self.assertEqual(await client.receive_all(), BARE_400)

    @gen_test(timeout=PATIENCE)
    async def test_frames_that_are_none_end_the_connection(self) -> None:
        for data in (b"\xff\xff\xff\xff", b"\x81\x05hello", os.urandom(10_000).replace(b"\x88", b"\xff")):
            async with self.client(make_handshake()) as client:
                await self.receive(client, b"\r\n\r\n")
                await client.send(b"\x8f" + data)
                await client.receive_all()
        await self.wait_until_gone()

    @gen_test(timeout=PATIENCE)
    async def test_a_client_may_leave_after_each_byte(self) -> None:
        data = make_handshake() + make_frame(b"hello")
        for leave in (Client.end, Client.reset):
            for length in range(0, len(data) + 1, 3):
                async with self.client(data[:length]) as client:
                    leave(client)
                await self.wait_until_gone()
        for handler in EchoHandler.opened:
            await handler.closed.wait()


class LimitTest(SocketTest):
    @gen_test(timeout=PATIENCE)
    async def test_without_files_the_connection_is_closed(self) -> None:
        with (
            mock.patch("os.dup", side_effect=OSError(errno.EMFILE, "too many")),
            self.assertLogs(level="ERROR"),
        ):
            async with self.client(make_handshake()) as client:
                self.assertEqual(await client.receive_all(), b"")
        await self.wait_until_gone()

    @gen_test(timeout=PATIENCE)
    async def test_a_socket_counts_as_a_connection_until_it_ends(self) -> None:
        self.server.limits._max = 1
        connection = await self.open()
        async with self.client(make_handshake()) as client:
            self.assertEqual(await client.receive_all(), b"")
        connection.close()
        await self.wait_until_gone()
        async with self.client(make_handshake()) as client:
            await self.receive(client, b"\r\n\r\n")

    @gen_test(timeout=PATIENCE)
    async def test_a_socket_may_be_silent_for_longer_than_a_connection(self) -> None:
        with (
            mock.patch.object(config, "IDLE_TIMEOUT", 0.05),
            mock.patch.object(config, "HEADER_TIMEOUT", 0.05),
        ):
            connection = await self.open()
            async with self.client(b"") as silent:
                self.assertEqual(await silent.receive_all(), b"")
            await connection.write_message("still here")
            self.assertEqual(await connection.read_message(), "still here")
        connection.close()

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_does_not_read_its_messages_is_cut_off(self) -> None:
        with mock.patch.object(config, "WRITE_TIMEOUT", 0.05):
            async with self.client(make_handshake()) as client:
                await self.receive(client, b"\r\n\r\n")
                [handler] = EchoHandler.opened
                with self.assertRaises(WebSocketClosedError):
                    await handler.write_message(LARGE * b"a", binary=True)
                await handler.closed.wait()

    @gen_test(timeout=PATIENCE)
    async def test_messages_that_are_not_read_count_as_unsent(self) -> None:
        with mock.patch.object(config, "MAX_UNSENT", LARGE // 2):
            other = await self.open()
            async with self.client(make_handshake()) as client:
                await self.receive(client, b"\r\n\r\n")
                handler = EchoHandler.opened[-1]
                with self.assertRaises(WebSocketClosedError):
                    await handler.write_message(LARGE * b"a", binary=True)
            await other.write_message("still here")
            self.assertEqual(await other.read_message(), "still here")
            other.close()

    @gen_test(timeout=PATIENCE)
    async def test_a_message_may_be_as_large_as_a_body_unless_the_application_says_otherwise(self) -> None:
        for most in (config.MAX_BODY_SIZE, 1000):
            self._app.settings["websocket_max_message_size"] = most
            connection = await self.open()
            await connection.write_message(most * b"a", binary=True)
            self.assertEqual(len(await connection.read_message()), most)
            await connection.write_message((most + 1) * b"a", binary=True)
            self.assertIsNone(await connection.read_message())
            self.assertEqual(connection.close_code, 1009)
            connection.close()
        self.assertEqual(make_app().settings["websocket_max_message_size"], config.MAX_BODY_SIZE)

    @gen_test(timeout=PATIENCE)
    async def test_parts_of_a_message_count_together(self) -> None:
        self._app.settings["websocket_max_message_size"] = 250
        parts = [b"\x02", *(9 * [b"\x00"])]  # first bytes of frames, of which none is the last
        async with self.client(make_handshake()) as client:
            await self.receive(client, b"\r\n\r\n")
            await client.send(b"".join(part + b"\xe4\0\0\0\0" + 100 * b"a" for part in parts))
            self.assertEqual(await client.receive_all(), b"\x88\x11\x03\xf1message too big")

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_does_not_respond_to_a_ping_is_closed_and_one_that_does_is_not(self) -> None:
        self._app.settings["websocket_ping_interval"] = 0.2
        connection = await self.open()
        async with self.client(make_handshake()) as client:
            received = await client.receive_all()
        self.assertTrue(received.endswith(b"\r\n\r\n\x89\x00\x88\x10\x03\xe8ping timed out"), received)
        await connection.write_message("still here")
        self.assertEqual(await connection.read_message(), "still here")
        connection.close()

    @gen_test(timeout=PATIENCE)
    async def test_sockets_are_closed_at_the_end(self) -> None:
        connection = await self.open()
        self.server.stop()
        with mock.patch.object(limits, "LAST_REQUEST_SECONDS", 0.05):
            await self.server.wait_until_idle()
        await connection.write_message("still here")
        self.assertEqual(await connection.read_message(), "still here")
        await self.server.close_all_connections()
        self.assertIsNone(await connection.read_message())
        await EchoHandler.opened[0].closed.wait()
        connection.close()


class UnreadTest(SocketTest):
    @gen_test(timeout=PATIENCE)
    async def test_requests_that_are_too_large_together_leave_sockets_alone(self) -> None:
        connection = await self.open()
        with mock.patch.object(config, "MAX_UNREAD", 1000):
            async with self.client(
                make_request("POST / HTTP/1.1", "Content-Length: 9999", body=2000 * b"a")
            ) as client:
                self.assertEqual(await client.receive_all(), b"")
        await connection.write_message("still here")
        self.assertEqual(await connection.read_message(), "still here")
        connection.close()


class StopTest(ProcessTest):
    def find_close_codes(self, count: int, **settings: str) -> list[int | None]:
        """Open so many WebSockets, stop the server, and return the codes with which they are closed."""
        server = self.start(script=SCRIPT, **settings)

        async def talk() -> list[int | None]:
            url = f"ws://127.0.0.1:{server.port}/socket"
            connections = [await websocket_connect(url) for _ in range(count)]
            for connection in connections:
                await connection.write_message("hello")
                self.assertEqual(await connection.read_message(), "hello")
            server.send(signal.SIGTERM)
            for connection in connections:
                self.assertIsNone(await connection.read_message())
                connection.close()
            return [connection.close_code for connection in connections]

        codes = asyncio.run(talk())
        self.assertEqual(server.wait(), 0)
        return codes

    def test_a_server_that_stops_says_so_to_each_socket(self) -> None:
        self.assertEqual(self.find_close_codes(2), [1001, 1001])

    @slow
    def test_so_do_several_workers_and_tornados_server(self) -> None:
        self.assertEqual(self.find_close_codes(20, WORKERS="2"), 20 * [1001])
        self.assertEqual(self.find_close_codes(2, HTTP_SERVER="tornado"), [1001, 1001])


class UvloopMessageTest(UvloopTest, MessageTest):
    pass


class UvloopRefusalTest(UvloopTest, RefusalTest):
    pass


class UvloopLimitTest(UvloopTest, LimitTest):
    pass
