"""
HTTP_SERVER=uvicorn: what Tornado's server is tested with, as far as the two have different code for it. With
HTTP_SERVER=uvicorn in its environment the whole suite runs like this.
"""

from __future__ import annotations

import asyncio
import importlib.util
import signal
import socket
from unittest import mock

from tornado.testing import gen_test

from indico import config, server
from indico.config import SettingError
from indico.core import serving
from indico.core.http import request_handler, uvicorn_listener
from indico.core.http.pages import PageHandler
from indico.core.http.tornado_server import listen
from indico.core.http.uvicorn_listener import Transport, UvicornListener
from indico.core.lifecycle import check_settings
from indico.error import InvalidValue
from indico.tests import test_server
from indico.tests.core.http import test_hostile
from indico.tests.core.http import test_tornado_server as test_listener
from indico.tests.core.http.test_hostile import (
    BARE,
    LAST,
    LAST_REQUEST,
    Client,
    make_post,
    make_request,
    read_answers,
)
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.strict import StrictTest


class OnUvicorn(StrictTest):
    def setUp(self) -> None:
        patch = mock.patch.object(config, "HTTP_SERVER", "uvicorn")
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()


class EarlyHandler(PageHandler):
    def prepare(self) -> None:
        self.respond("before the body")


class PipelineTest(OnUvicorn, test_hostile.PipelineTest):
    routes = [*test_hostile.HostileTest.routes, (r"/early", EarlyHandler)]

    def test_a_request_waits_for_its_turn_and_for_its_body(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_request("POST /probe/hangs HTTP/1.1") + make_post(b"ab")[:-1])
            await self.started.wait()
            [hanging] = self._app.state.in_flight
            hanging.abort_with(InvalidValue("enough"))
            received = await client.receive()
            await client.send(b"b" + LAST_REQUEST)
            return received + await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.data for answer in answers], ["enough", "ab", "last"])
        self.most_lines += 4

    def test_nonsense_in_the_body_of_a_request_that_waits_comes_after_the_answer_before(self) -> None:
        nonsense = make_request("POST /nope HTTP/1.1", "Transfer-Encoding: chunked", body=b"nonsense\r\n")
        answers = self.exchange(make_post(b"a") + nonsense)
        self.assertEqual([answer.status for answer in answers], [200, BARE])

    def test_what_comes_after_nonsense_is_not_read(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            [hanging] = self._app.state.in_flight
            await client.send(b"nonsense\r\n\r\n")
            await asyncio.sleep(0.01)
            await client.send(LAST_REQUEST)
            await asyncio.sleep(0.01)
            hanging.abort_with(InvalidValue("enough"))
            return await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.status for answer in answers], [400, BARE])

    def test_a_body_in_one_piece_with_its_headers_may_be_larger_than_headers_may_be(self) -> None:
        self.assert_answers(make_post(100_000 * b"a"), 200, LAST)

    def test_a_body_may_come_after_the_answer(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_request("GET /early HTTP/1.1", "Content-Length: 2"))
            received = await client.receive()
            await client.send(b"ab" + LAST_REQUEST)
            return received + await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.status for answer in answers], [200, LAST])
        self.most_lines += 2

    def test_a_connection_that_is_idle_is_closed_at_the_end(self) -> None:
        async def connect() -> Client:
            return await Client(self.get_http_port()).connect()

        client = self.io_loop.run_sync(connect)
        self.addCleanup(client.socket.close)
        self.assert_answers(b"", LAST)


class VersionTest(OnUvicorn, test_hostile.VersionTest):
    def test_what_follows_an_upgrade_in_the_next_piece_is_answered(self) -> None:
        async def talk(client: Client) -> bytes:
            headers = ("Connection: Upgrade", "Upgrade: h2c")
            await client.send(make_request("POST /probe/echo HTTP/1.1", *headers))
            received = await client.receive()
            await client.send(LAST_REQUEST)
            return received + await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.status for answer in answers], [200, LAST])

    def test_the_body_of_a_request_for_an_upgrade_comes_in_pieces(self) -> None:
        async def talk(client: Client) -> bytes:
            line = "POST /probe/echo HTTP/1.1"
            for byte in make_post(b"body", line, "Connection: Upgrade, close", "Upgrade: h2c"):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            await client.send(LAST_REQUEST)
            return await client.receive_all()

        [answer] = read_answers(self.run_client(talk))
        self.assertEqual(answer.data, "body")

    def test_who_asks_for_a_tunnel_sends_no_body(self) -> None:
        self.assert_answers(make_request("CONNECT /probe/echo HTTP/1.1"), 405, LAST)
        self.assert_answers(make_post(b"body", "CONNECT /probe/echo HTTP/1.1"), BARE)


class HostTest(OnUvicorn, test_hostile.HostTest):
    pass


class HeaderTest(OnUvicorn, test_hostile.HeaderTest):
    def test_what_comes_before_headers_in_one_piece_is_not_counted_to_them(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_post(500 * b"a") + LAST_REQUEST[:20])
            received = await client.receive()
            await client.send(LAST_REQUEST[20:])
            return received + await client.receive_all()

        with mock.patch.object(uvicorn_listener, "LARGEST_HEADER", 300):
            answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.status for answer in answers], [200, LAST])


class LeavingTest(OnUvicorn, test_hostile.LeavingTest):
    @gen_test
    async def test_a_client_may_leave_while_it_is_told_that_its_body_is_too_large(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        self.set(request_handler, "DISCARD_SECONDS", 0.05)
        async with self.client() as client:
            await client.send(make_request("POST /probe/echo HTTP/1.1", "Content-Length: 101"))
            client.reset()
        await self.wait_until_left()


class ExpectTest(OnUvicorn, test_hostile.ExpectTest):
    pass


class ChunkTest(OnUvicorn, test_hostile.ChunkTest):
    pass


class BodyTimeoutTest(OnUvicorn, test_listener.BodyTimeoutTest):
    pass


class IdleTimeoutTest(OnUvicorn, test_listener.IdleTimeoutTest):
    pass


class UnsentTest(OnUvicorn, test_listener.UnsentTest):
    pass


class WriteTimeoutTest(OnUvicorn, test_listener.WriteTimeoutTest):
    pass


class MostConnectionsTest(OnUvicorn, test_listener.MostConnectionsTest):
    pass


class ListenerTest(StrictTest):
    def test_who_waits_to_be_accepted_when_it_stops_is_served(self) -> None:
        async def main() -> bytes:
            listener = UvicornListener(server.make_app())
            [listening] = listen(0, "127.0.0.1")
            listener.add_sockets([listening])
            client = Client(listening.getsockname()[1])
            await client.connect()
            await client.send(make_request("POST /nope HTTP/1.1", "Connection: close"))
            listener.stop()
            try:
                received = await client.receive_all()
                await listener.take_leave()
                await listener.close_all_connections()
            finally:
                client.socket.close()
            return received

        [answer] = read_answers(asyncio.run(main()))
        self.assertEqual(answer.status, 404)

    def test_one_that_is_stopped_before_it_starts_listens_to_nobody(self) -> None:
        async def main() -> None:
            listener = UvicornListener(server.make_app())
            sockets = listen(0, "127.0.0.1")
            address = sockets[0].getsockname()
            listener.add_sockets(sockets)
            listener.stop()
            await listener.close_all_connections()
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection(address)

        asyncio.run(main())


class StartTest(OnUvicorn, ProcessTest):
    def test_the_server_runs_and_stops_on_uvicorn(self) -> None:
        process = self.start("--http", "uvicorn", HTTP_SERVER="tornado")
        answer = process.fetch("auth/login", LOGIN_DATA)
        self.assertEqual(answer.status, 200)
        self.assertEqual(answer.headers.get_all("Server", []), [])
        self.assertLessEqual(len(answer.headers.get_all("Date", [])), 1)
        self.assertEqual(process.stop(signal.SIGTERM), 0)
        self.assertNotIn("ERROR", process.output)

    def test_without_uvicorn_it_says_what_to_install(self) -> None:

        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            self.assertRaisesRegex(
                SettingError, r"\[uvicorn\]", asyncio.run, check_settings(server.make_app())
            )

    def test_without_uvloop_it_runs_on_asyncio(self) -> None:
        loops: list[asyncio.AbstractEventLoop] = []

        async def main() -> None:
            loops.append(asyncio.get_running_loop())

        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            serving.run(main())
        self.assertEqual(type(loops[0]).__module__.partition(".")[0], "asyncio")


@slow
class StopTest(OnUvicorn, test_server.StopTest):
    pass


@slow
class WorkersTest(OnUvicorn, test_server.WorkersTest):
    pass


class SignalTest(StrictTest):
    def test_who_waits_for_it_is_woken_once_it_is_set(self) -> None:
        async def main() -> None:
            signal = uvicorn_listener.Signal()
            waiting = asyncio.ensure_future(signal.wait())
            await asyncio.sleep(0)
            signal.set()
            signal.set()
            await waiting
            await signal.wait()
            signal.clear()
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(signal.wait(), 0.001)

        asyncio.run(main())


class TransportTest(StrictTest):
    def test_the_end_of_an_answer_that_is_nothing_is_not_written(self) -> None:
        # After an answer that refuses a body writing is shut down, and asyncio fails even on nothing.
        transport = mock.Mock()
        Transport(transport).write(b"")
        transport.write.assert_not_called()
