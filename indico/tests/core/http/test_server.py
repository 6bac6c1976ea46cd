"""
How the HTTP server accepts connections, and how it ends.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from tornado.testing import gen_test

from indico import config
from indico.core.http.server import Server
from indico.core.http.sockets import listen
from indico.server import make_app
from indico.tests.core.http.in_loop import make_in_loop
from indico.tests.core.http.on_uvloop import UvloopTest
from indico.tests.core.http.test_hostile import (
    LAST_REQUEST,
    PATIENCE,
    Client,
    HostileTest,
    make_request,
    read_answers,
)
from indico.tests.testutils.strict import StrictTest

FIRST = "127.0.0.1"
LARGE = 10_000_000  # bytes, more than the buffers between server and client hold


class AcceptTest(HostileTest):
    """Two servers share a socket, as workers do."""

    def setUp(self) -> None:
        super().setUp()
        self.most_lines = 100
        self.servers = [make_in_loop(self, Server) for _ in range(2)]

    def tearDown(self) -> None:
        for server in self.servers:
            self.io_loop.run_sync(server.close_all_connections)
        super().tearDown()

    @contextmanager
    def shared(self) -> Iterator[int]:
        [listening] = listen(0, FIRST)
        duplicate = socket.socket(fileno=os.dup(listening.fileno()))
        self.servers[0].add_sockets([listening])
        self.servers[1].add_sockets([duplicate])
        try:
            yield listening.getsockname()[1]
        finally:
            for server in self.servers:
                server.stop()

    async def count_clients(self) -> list[int]:
        """Connect 20 clients, and return how many of them each server has."""
        counts = [0, 0]
        with self.shared() as port:
            for _ in range(20):
                self.addCleanup(socket.create_connection((FIRST, port)).close)
            while sum(counts) < 20:
                await asyncio.sleep(0)
                counts = [len(server.limits.addresses) for server in self.servers]
        return counts

    @gen_test(timeout=PATIENCE)
    async def test_workers_that_share_a_socket_take_one_client_each_in_turn(self) -> None:
        with mock.patch.object(config, "WORKERS", 2):
            self.assertEqual(await self.count_clients(), [10, 10])

    @gen_test(timeout=PATIENCE)
    async def test_one_that_is_alone_takes_all(self) -> None:
        self.assertEqual(sorted(await self.count_clients()), [0, 20])

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_has_left_before_it_is_accepted_does_no_harm(self) -> None:
        with self.shared() as port:
            for _ in range(5):
                client = await Client(port).connect()
                client.reset()
            client = await Client(port).connect()
            self.addCleanup(client.socket.close)
            await client.send(LAST_REQUEST)
            self.assertEqual(len(read_answers(await client.receive_all())), 1)


class EndTest(HostileTest):
    def setUp(self) -> None:
        super().setUp()
        self.most_lines = 100
        self.server = make_in_loop(self, Server)
        self.sockets = listen(0, FIRST)
        self.server.add_sockets(self.sockets)
        self.port = self.sockets[0].getsockname()[1]

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_waits_to_be_accepted_when_it_stops_is_served(self) -> None:
        client = await Client(self.port).connect()
        self.addCleanup(client.socket.close)
        await client.send(make_request("POST /nope HTTP/1.1", "Connection: close"))
        self.server.stop()
        [answer] = read_answers(await client.receive_all())
        await self.server.wait_until_idle()
        await self.server.close_all_connections()
        self.assertEqual(answer.status, 404)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_is_just_accepted_is_closed_with_the_others(self) -> None:
        client = await Client(self.port).connect()
        self.addCleanup(client.socket.close)
        self.server.stop()
        await self.server.close_all_connections()
        self.assertEqual(await client.receive_all(), b"")

    @gen_test(timeout=PATIENCE)
    async def test_the_last_response_of_each_connection_says_so(self) -> None:
        client = await Client(self.port).connect()
        self.addCleanup(client.socket.close)
        await client.send(make_request("POST /probe/echo HTTP/1.1"))
        await client.receive()
        self.server.stop()
        await client.send(make_request("POST /probe/echo HTTP/1.1"))
        [answer] = read_answers(await client.receive_all())
        self.assertEqual(answer.headers["Connection"], "close")
        await self.server.close_all_connections()

    @gen_test(timeout=PATIENCE)
    async def test_after_that_it_listens_no_more(self) -> None:
        self.server.stop()
        await self.server.close_all_connections()
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((FIRST, self.port))

    @gen_test(timeout=PATIENCE)
    async def test_what_is_written_is_sent_before_connections_are_closed(self) -> None:
        client = await Client(self.port).connect()
        self.addCleanup(client.socket.close)
        await client.send(make_request("POST /probe/large HTTP/1.1"))
        received = await client.receive()
        self.server.stop()
        rest = asyncio.ensure_future(client.receive_all())
        await self.server.close_all_connections()
        self.assertGreater(len(received + await rest), LARGE)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_does_not_read_does_not_hold_up_the_end(self) -> None:
        client = await Client(self.port).connect()
        self.addCleanup(client.socket.close)
        await client.send(make_request("POST /probe/large HTTP/1.1"))
        await client.receive()
        self.server.stop()
        with mock.patch("indico.core.http.server.CLOSE_SECONDS", 0.05):
            await self.server.close_all_connections()
        self.assertEqual(self.server.limits.addresses, {})


class BrokenTest(HostileTest):
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_can_not_be_taken_over_is_closed(self) -> None:
        with mock.patch.object(asyncio.get_running_loop(), "connect_accepted_socket", side_effect=OSError):
            async with self.client() as client:
                self.assertEqual(await client.receive_all(), b"")


class UnixTest(StrictTest):
    def test_it_listens_on_unix_sockets_too(self) -> None:
        async def main() -> bytes:
            server = Server(make_app())
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind("\0indico test")
                listening.listen()
                server.add_sockets([listening])
                reader, writer = await asyncio.open_unix_connection("\0indico test")
                writer.write(make_request("POST /nope HTTP/1.1", "Connection: close"))
                received = await reader.read()
                writer.close()
                await writer.wait_closed()
                server.stop()
                await server.close_all_connections()
            return received

        self.assertIn(b" 404 ", asyncio.run(main()))


class UvloopAcceptTest(UvloopTest, AcceptTest):
    pass


class UvloopEndTest(UvloopTest, EndTest):
    pass
