"""
HTTP_SERVER=tornado: Tornado's own server serves the same application.
"""

from __future__ import annotations

import asyncio
from unittest import mock

from tornado.testing import bind_unused_port, gen_test

from indico import config
from indico.core.http import tornado_server
from indico.core.http.tornado_server import TornadoServer
from indico.tests.core.http.test_hostile import (
    BARE,
    LAST_REQUEST,
    PATIENCE,
    Client,
    HostileTest,
    make_post,
    make_request,
    read_answers,
)


class TornadoServerTest(HostileTest):
    def setUp(self) -> None:
        self.set(config, "HTTP_SERVER", "tornado")
        super().setUp()

    def test_it_serves_envelopes(self) -> None:
        self.assertIsInstance(self.http_server, TornadoServer)
        self.assert_answers(make_post(b"a") + make_request("GET /probe/echo HTTP/1.1"), 200, 405, 202)

    def test_an_absolute_target_is_served(self) -> None:
        for target in ("http://b/probe/echo", "HTTP://b:5000/probe/echo?a=http://c"):
            self.assert_answers(make_request(f"POST {target} HTTP/1.1"), 200, 202)
        self.assert_answers(make_request("POST http://b HTTP/1.1"), 404, 202)

    def test_the_case_of_an_expectation_makes_no_difference(self) -> None:
        for expectation in ("100-continue", "100-Continue"):
            answer = self.send_when_asked(expectation)
            self.assertEqual((answer.status, answer.data), (200, "ab"))

    def test_a_body_that_is_too_large_is_refused_in_an_envelope(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        for request in (
            make_post(101 * b"a"),
            make_request("POST /probe/echo HTTP/1.1", "Content-Length: 101", "Expect: 100-continue"),
        ):

            async def talk(client: Client, request: bytes = request) -> bytes:
                await client.send(request)
                return await client.receive()

            [answer] = read_answers(self.run_client(talk))
            self.assertEqual((answer.status, answer.headers["Connection"]), (413, "close"))

    def test_the_rest_of_a_body_that_is_too_large_is_not_waited_for(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        request = make_request("POST /probe/echo HTTP/1.1", "Content-Length: 101")
        self.assertEqual([answer.status for answer in self.exchange(request)], [413])

    def test_what_is_no_http_is_cut_off_and_its_text_does_not_reach_the_log(self) -> None:
        [answer] = self.exchange(make_request("POST / HTTP/1.1", "no header") + LAST_REQUEST)
        self.assertEqual(answer.status, BARE)

    @gen_test(timeout=PATIENCE)
    async def test_a_coroutine_is_cancelled_when_its_client_leaves(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            client.reset()
            await self.cancelled.wait()

    @gen_test(timeout=PATIENCE)
    async def test_a_request_on_its_way_when_it_stops_is_served(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /nope HTTP/1.1"))
            await client.receive()
            self.http_server.stop()
            with mock.patch.object(tornado_server, "LAST_REQUEST_SECONDS", 0.1):
                idle = asyncio.ensure_future(self.http_server.wait_until_idle())  # type: ignore[attr-defined]
                await client.send(LAST_REQUEST)
                [answer] = read_answers(await client.receive_all())
                await idle
        self.assertEqual(answer.status, 202)


class ListenTest(HostileTest):
    """`application.listen`: Tornado's server without anything that the package adds."""

    def setUp(self) -> None:
        super().setUp()
        listening, self.port = bind_unused_port()
        listening.close()
        self.server = self._app.listen(self.port, "127.0.0.1")
        self.most_lines = 20

    def tearDown(self) -> None:
        self.server.stop()
        super().tearDown()

    def get_http_port(self) -> int:
        return self.port

    def test_it_serves_envelopes_whatever_our_own_server_has_served(self) -> None:
        for port in (self.port, super().get_http_port(), self.port):
            with mock.patch.object(self, "port", port):
                self.assert_answers(
                    2 * make_post(b"a") + make_request("GET /nope HTTP/1.1"), 200, 200, 404, 202
                )

    def test_no_host_is_foreign_and_an_absolute_target_is_not_found(self) -> None:
        self.assert_answers(make_request(host="Host: elsewhere.example"), 200, 202)
        self.assert_answers(make_request("POST http://b/probe/echo HTTP/1.1"), 404, 202)

    def test_a_body_that_is_too_large_is_refused_in_an_envelope(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        self.assert_only(make_request("POST /probe/echo HTTP/1.1", "Content-Length: 101"), 413)

    @gen_test(timeout=PATIENCE)
    async def test_a_connection_may_be_idle_for_longer_than_the_setting_and_no_lifespan_runs(self) -> None:
        self.set(config, "IDLE_TIMEOUT", 0.01)
        self.set(config, "BODY_TIMEOUT", 0.01)
        async with self.client() as client:
            await asyncio.sleep(0.1)
            await client.send(LAST_REQUEST)
            [answer] = read_answers(await client.receive_all())
        self.assertEqual(answer.status, 202)
        self.assertFalse(self._app.state.running)
