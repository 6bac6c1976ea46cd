"""
How long clients may take, how many there may be, and that none of them keeps the others waiting.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, suppress
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

from tornado.testing import gen_test

from indico import config
from indico.core.http import limits
from indico.core.http.limits import ConnectionLimits, count_connections
from indico.core.http.sockets import raise_file_limit
from indico.routes.handler import IndicoHandler
from indico.tests.core.http import busy
from indico.tests.core.http.test_hostile import LAST_REQUEST, Client, make_post, make_request
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, ServerProcess, linux, wait_until
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

PATIENCE = 30  # seconds; what takes longer will not happen
SHORT = 0.3  # seconds, for the limit that a test reaches
LARGE = 10_000_000  # bytes, more than the buffers between server and client hold
MEGABYTE = 1 << 20
FIRST, SECOND, THIRD = "127.0.0.1", "127.0.0.2", "127.0.0.3"  # addresses of this machine


class ProbeHandler(IndicoHandler):
    test: LimitTest

    def echo(self, data: bytes) -> str:
        return data.decode()

    def large(self, data: bytes) -> str:
        return LARGE * "a"

    def half(self, data: bytes) -> str:
        return LARGE // 2 * "a"

    async def follows(self, data: bytes) -> AsyncIterator[str]:
        yield await self.waits(data)

    async def waits(self, data: bytes) -> str:
        self.test.started.set()
        await self.test.released.wait()
        return "at last"


class LimitTest(ServerTest):
    """A server with these limits; all others are out of reach."""

    limits: ClassVar[dict[str, float]] = {}
    routes = [(r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler)]
    stores = False

    def setUp(self) -> None:
        for module, name, value in [
            (limits, "SWEEP_INTERVAL_MS", 10),
            *((config, *item) for item in self.limits.items()),
        ]:
            patch = mock.patch.object(module, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        super().setUp()
        ProbeHandler.test = self
        self.started = asyncio.Event()
        self.released = asyncio.Event()

    async def connect(self, stack: AsyncExitStack, source: str = FIRST, buffer: int | None = None) -> Client:
        """A client that is connected until the stack ends."""
        client = Client(self.get_http_port())
        stack.callback(client.socket.close)
        if buffer is not None:
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        return await client.connect(source)

    async def ask(self, client: Client) -> bool:
        """Whether the client gets an answer."""
        await client.send(make_post(b"ab"))
        return (await client.receive()).endswith(b'{"status":200,"data":"ab"}')

    async def is_served(self, source: str) -> bool:
        """Whether another client, from this address, gets an answer."""
        async with AsyncExitStack() as stack:
            return await self.ask(await self.connect(stack, source))

    async def wait_until_served(self, source: str) -> None:
        """Return when clients from this address are."""
        while not await self.is_served(source):
            await asyncio.sleep(0.01)

    async def wait_for_end(self, client: Client) -> bytes:
        """What the client receives until it is cut off, while others are served."""
        end = asyncio.ensure_future(client.receive_all())
        async with AsyncExitStack() as stack:
            other = await self.connect(stack, THIRD)
            while not end.done():
                self.assertTrue(await self.ask(other))
                await asyncio.sleep(0.01)
        return end.result()

    async def dribble(self, client: Client, data: bytes) -> None:
        """Send a byte every now and then, for ever."""
        while True:
            await client.send(data)
            await asyncio.sleep(0.01)

    async def assert_dribble_is_cut_off(self, head: bytes, piece: bytes) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(head)
            dribble = asyncio.ensure_future(self.dribble(client, piece))
            stack.callback(dribble.cancel)
            self.assertEqual(await self.wait_for_end(client), b"")


@slow
class HeaderTimeoutTest(LimitTest):
    limits = {"HEADER_TIMEOUT": SHORT}

    @gen_test(timeout=PATIENCE)
    async def test_a_connection_that_says_nothing_is_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            self.assertEqual(await self.wait_for_end(await self.connect(stack)), b"")

    @gen_test(timeout=PATIENCE)
    async def test_headers_that_dribble_are_cut_off(self) -> None:
        await self.assert_dribble_is_cut_off(b"POST /probe/echo HTTP/1.1\r\n", b"A: b\r\n")

    @gen_test(timeout=PATIENCE)
    async def test_an_action_may_take_longer(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(make_request("POST /probe/waits HTTP/1.1"))
            await self.started.wait()
            self.assertEqual(await self.wait_for_end(await self.connect(stack)), b"")  # the time has passed
            self.released.set()
            self.assertIn(b"at last", await client.receive())

    @gen_test(timeout=PATIENCE)
    async def test_a_connection_that_was_served_may_be_silent_for_longer(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            self.assertTrue(await self.ask(client))
            self.assertEqual(await self.wait_for_end(await self.connect(stack)), b"")
            self.assertTrue(await self.ask(client))


@slow
class IdleTimeoutTest(LimitTest):
    limits = {"IDLE_TIMEOUT": SHORT}

    @gen_test(timeout=PATIENCE)
    async def test_a_connection_that_was_served_and_is_silent_is_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            self.assertTrue(await self.ask(client))
            self.assertEqual(await self.wait_for_end(client), b"")

    @gen_test(timeout=PATIENCE)
    async def test_the_headers_of_a_later_request_that_dribble_are_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            self.assertTrue(await self.ask(client))
            await client.send(b"POST /probe/echo HTTP/1.1\r\n")
            dribble = asyncio.ensure_future(self.dribble(client, b"A: b\r\n"))
            stack.callback(dribble.cancel)
            self.assertEqual(await self.wait_for_end(client), b"")

    @gen_test(timeout=PATIENCE)
    async def test_an_action_may_take_longer(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(make_request("POST /probe/waits HTTP/1.1"))
            await self.started.wait()
            idle = await self.connect(stack)
            self.assertTrue(await self.ask(idle))
            self.assertEqual(await self.wait_for_end(idle), b"")  # the time has passed
            self.released.set()
            self.assertIn(b"at last", await client.receive())


@slow
class BodyTimeoutTest(LimitTest):
    limits = {"BODY_TIMEOUT": SHORT}

    @gen_test(timeout=PATIENCE)
    async def test_a_body_that_dribbles_is_cut_off(self) -> None:
        await self.assert_dribble_is_cut_off(
            make_request("POST /probe/echo HTTP/1.1", "Content-Length: 1000000"), b"a"
        )
        self.assertEqual(self._app.state.in_flight, set())

    @gen_test(timeout=PATIENCE)
    async def test_chunks_that_dribble_are_cut_off(self) -> None:
        await self.assert_dribble_is_cut_off(
            make_request("POST /probe/echo HTTP/1.1", "Transfer-Encoding: chunked"), b"1\r\na\r\n"
        )

    @gen_test(timeout=PATIENCE)
    async def test_a_body_that_never_comes_is_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(make_request("POST /nope HTTP/1.1", "Content-Length: 1"))
            self.assertEqual(await self.wait_for_end(client), b"")


class WriteTimeoutTest(LimitTest):
    limits = {"WRITE_TIMEOUT": SHORT, "MAX_CONNECTIONS_PER_ADDRESS": 1}

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_never_reads_is_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, SECOND, buffer=4096)
            await client.send(make_request("POST /probe/large HTTP/1.1"))
            self.assertFalse(await self.is_served(SECOND))
            self.assertTrue(await self.is_served(THIRD))
            await self.wait_until_served(SECOND)  # which it is when the other is gone
            answer = await client.receive_all()
        self.assertTrue(answer.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertLess(len(answer), LARGE)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_pipelines_and_never_reads_is_cut_off(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack, SECOND, buffer=4096)
            await client.send(3 * make_request("POST /probe/large HTTP/1.1"))
            await self.wait_until_served(SECOND)

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_reads_gets_the_whole_answer(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(make_request("POST /probe/large HTTP/1.1") + LAST_REQUEST)
            self.assertGreater(len(await client.receive_all()), LARGE)


class UnsentTest(LimitTest):
    limits = {"MAX_UNSENT": LARGE}

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_beyond_the_limit_the_connection_that_holds_most_is_closed(self) -> None:
        async with AsyncExitStack() as stack:
            clients = []
            for action in ("half", "large", "half"):
                clients.append(await self.connect(stack, SECOND, buffer=4096))
                await clients[-1].send(make_request(f"POST /probe/{action} HTTP/1.1") + LAST_REQUEST)
                self.assertTrue(await self.is_served(FIRST))
            server: Any = self.http_server
            while len(server.limits.addresses) >= len(clients):
                await asyncio.sleep(0.001)
            self.assertLess(len(await clients[1].receive_all()), LARGE)
            for client in (clients[0], clients[2]):
                self.assertGreater(len(await client.receive_all()), LARGE // 2)


class MaxActionsTest(LimitTest):
    limits = {"MAX_ACTIONS": 2, "REQUEST_TIMEOUT": SHORT}

    async def begin(self, stack: AsyncExitStack, action: str = "waits") -> Client:
        client = await self.connect(stack)
        await client.send(make_request(f"POST /probe/{action} HTTP/1.1"))
        await self.started.wait()
        self.started.clear()
        return client

    async def get_status(self, line: str) -> int:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            await client.send(make_request(f"{line} HTTP/1.1"))
            self.answer = await client.receive()
        return int(self.answer.split()[1])

    @gen_test(timeout=PATIENCE)
    async def test_beyond_the_limit_an_action_is_busy_at_once_and_pages_answer(self) -> None:
        async with AsyncExitStack() as stack:
            await self.begin(stack)
            await self.begin(stack, "follows")
            with self.assertLogs("indico", "WARNING"):
                times = []
                for _ in range(9):
                    began = time.monotonic()
                    self.assertEqual(await self.get_status("POST /probe/echo"), 503)
                    times.append(time.monotonic() - began)
                self.assertLess(statistics.median(times), 0.05)
            self.assertIn(b"\r\nRetry-After: 1\r\n", self.answer)
            self.assertTrue(self.answer.endswith(b'{"status":503,"data":"The server is busy"}'))
            for line in ("GET /health", "GET /metrics"):
                self.assertEqual(await self.get_status(line), 200)
            for line in ("POST /probe/nope", "POST /nope"):
                self.assertEqual(await self.get_status(line), 404)

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_however_it_ends_an_action_counts_no_more(self) -> None:
        async with AsyncExitStack() as stack:
            for action in ("waits", "follows"):
                timed_out = await self.begin(stack, action)
                self.assertIn(b"504", await timed_out.receive())
                left = await self.begin(stack, action)
                left.socket.close()
            while self._app.state.actions:
                await asyncio.sleep(0.01)
            for _ in range(3):
                self.assertEqual(await self.get_status("POST /probe/echo"), 200)


class TornadoMaxActionsTest(MaxActionsTest):
    def setUp(self) -> None:
        self.enterContext(mock.patch.object(config, "HTTP_SERVER", "tornado"))
        super().setUp()


@slow
class MaxActionsProcessTest(ProcessTest):
    def test_beyond_the_limit_others_are_busy_within_50_ms_and_health_answers(self) -> None:
        for server in ("own", "tornado"):
            with self.subTest(server):
                process = self.start(
                    script=busy.SCRIPT + "server.main(debug=False, port=0)\n",
                    MAX_ACTIONS=str(busy.MAX_ACTIONS),
                    HTTP_SERVER=server,
                )
                busy.assert_busy_at_once(self, process.port)


class StopTest(LimitTest):
    async def wait_until_idle(self) -> None:
        server: Any = self.http_server  # of either kind
        await server.wait_until_idle()

    @gen_test(timeout=PATIENCE)
    async def test_who_has_connected_before_the_end_of_listening_is_served(self) -> None:
        with ExitStack() as stack:
            waiting = [
                stack.enter_context(socket.create_connection((FIRST, self.get_http_port()))) for _ in range(5)
            ]
            for client in waiting:
                client.sendall(make_post(b"ab"))
            self.http_server.stop()  # before the loop could accept anybody
            with self.assertRaises(ConnectionRefusedError):
                socket.create_connection((FIRST, self.get_http_port())).close()
            for client in waiting:
                answer = await asyncio.to_thread(client.recv, 10_000)
                self.assertIn(b"200 OK", answer)

    @gen_test(timeout=PATIENCE)
    async def test_a_connection_that_idles_has_its_last_request_answered_and_is_told_that_it_is(self) -> None:
        async with AsyncExitStack() as stack:
            client = await self.connect(stack)
            self.assertTrue(await self.ask(client))
            self._app.state.draining = True
            self.http_server.stop()
            leave = asyncio.ensure_future(self.wait_until_idle())
            await client.send(make_post(b"ab"))
            self.assertIn(b"connection: close", (await client.receive()).lower())
            self.assertFalse(leave.done())
        await leave

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_connections_that_idle_on_do_not_hold_up_the_end_for_long(self) -> None:
        async with AsyncExitStack() as stack:
            await self.connect(stack)
            with mock.patch.object(limits, "LAST_REQUEST_SECONDS", SHORT):
                await self.wait_until_idle()


class MostConnectionsTest(LimitTest):
    limits = {"MAX_CONNECTIONS": 3, "MAX_CONNECTIONS_PER_ADDRESS": 3}

    @gen_test(timeout=PATIENCE)
    async def test_one_more_than_there_may_be_is_turned_away_until_another_leaves(self) -> None:
        async with AsyncExitStack() as stack:
            clients = [await self.connect(stack, source) for source in (FIRST, SECOND, THIRD)]
            for client in clients:
                self.assertTrue(await self.ask(client))
            for source in (FIRST, "127.0.0.4"):
                self.assertFalse(await self.is_served(source))
            for client in clients:
                self.assertTrue(await self.ask(client))
            clients[0].socket.close()
            await self.wait_until_served("127.0.0.4")

    @gen_test(timeout=PATIENCE)
    async def test_however_they_end_connections_are_counted_down(self) -> None:
        requests = {
            b"": Client.end,
            b"POST": Client.reset,
            make_request("POST /probe/echo HTTP/1.1", "Content-Length: 9"): Client.end,
            b"nonsense\r\n\r\n": Client.end,
            make_request("POST /probe/waits HTTP/1.1"): Client.reset,
            make_request("POST /probe/large HTTP/1.1"): Client.reset,
        }
        for request, leave in requests.items():
            for _ in range(3):
                async with AsyncExitStack() as stack:
                    client = await self.connect(stack)
                    await client.send(request)
                    leave(client)
        async with AsyncExitStack() as stack:
            await self.wait_until_served(FIRST)
            for _ in range(3):
                client = await self.connect(stack)
                while not await self.ask(client):  # what just ended may be counted a moment longer
                    client = await self.connect(stack)


class MostConnectionsPerAddressTest(LimitTest):
    limits = {"MAX_CONNECTIONS_PER_ADDRESS": 2}

    @gen_test(timeout=PATIENCE)
    async def test_one_more_from_an_address_is_turned_away_and_other_addresses_are_served(self) -> None:
        async with AsyncExitStack() as stack:
            clients = [await self.connect(stack, FIRST) for _ in range(2)]
            for client in clients:
                self.assertTrue(await self.ask(client))
            self.assertFalse(await self.is_served(FIRST))
            self.assertTrue(await self.is_served(SECOND))
            clients[0].socket.close()
            await self.wait_until_served(FIRST)


class NetworkTest(StrictTest):
    def test_addresses_of_an_ipv6_network_share_their_connections(self) -> None:
        async def admit(*addresses: str) -> list[bool]:
            connections = ConnectionLimits()
            try:
                found = [(mock.Mock(), address) for address in addresses]
                admitted = [connections.admit(connection, address) for connection, address in found]
                connections.remove(found[0][0])
                return [*admitted, connections.admit(mock.Mock(), addresses[1])]
            finally:
                connections.stop()

        with mock.patch.object(config, "MAX_CONNECTIONS_PER_ADDRESS", 2):
            for addresses in (
                ("2001:db8::1", "2001:db8::2", "2001:db8:0:0:f::", "2001:db8:0:1::1"),
                ("192.0.2.1", "::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ):
                self.assertEqual(asyncio.run(admit(*addresses)), [True, True, False, True, True])


class CountTest(StrictTest):
    def test_most_files_are_for_connections(self) -> None:
        self.assertEqual([count_connections(files) for files in (20, 1024, 20_000)], [10, 924, 19_900])


def cpu_seconds(pid: int) -> float:
    """The time that the process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int, kind: str = "VmHWM") -> float:
    """The most memory that the process ever had, in megabytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{kind}:")[2].split()[0]) / 1024


REQUEST = make_request("POST /auth/nope HTTP/1.1")  # which MongoDB has no part in


class CrowdTest(ProcessTest):
    """A server process and more clients than it may like."""

    def connect(self, process: ServerProcess, stack: ExitStack, source: str = FIRST) -> socket.socket:
        client = stack.enter_context(socket.socket())
        client.settimeout(PATIENCE)
        client.bind((source, 0))
        client.connect((FIRST, process.port))
        return client

    def ask(self, client: socket.socket) -> bool:
        """Whether the client gets an answer."""
        with suppress(ConnectionError):
            client.sendall(REQUEST)
            return client.recv(MEGABYTE).startswith(b"HTTP/1.1 404 ")
        return False

    def is_served(self, process: ServerProcess, source: str = FIRST) -> bool:
        with ExitStack() as stack:
            return self.ask(self.connect(process, stack, source))

    @slow
    @linux
    def test_without_files_it_turns_clients_away_and_neither_spins_nor_floods_the_log(self) -> None:
        process = self.start(
            script="import resource\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
            "from indico import server\n"
            "server.main(debug=False, port=0)\n",
            MAX_CONNECTIONS="10000",
        )
        with ExitStack() as stack:
            clients = [self.connect(process, stack) for _ in range(200)]
            served = [client for client in clients if self.ask(client)]
            self.assertTrue(10 < len(served) < 64, len(served))
            waiting = [self.connect(process, stack) for _ in range(200)]
            before = cpu_seconds(process.pid)
            time.sleep(1)  # in which it should do nothing
            self.assertLess(cpu_seconds(process.pid) - before, 0.5)
            self.assertTrue(all(map(self.ask, served)))
            self.assertFalse(any(map(self.ask, waiting)))
        wait_until(lambda: self.is_served(process), "an answer, now that others have left")
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("Traceback", process.output)
        self.assertNotIn("ERROR", process.output)
        self.assertLess(process.output.count("\n"), 2 * len(served) + 100)

    @slow
    @linux
    def test_thousands_of_connections_that_say_nothing_keep_nobody_waiting(self) -> None:
        if raise_file_limit() < 5000:
            self.skipTest("this machine allows too few files")
        process = self.start("--address", FIRST, MAX_CONNECTIONS_PER_ADDRESS="1000", HEADER_TIMEOUT="3600")
        before = memory(process.pid)
        with ExitStack() as stack:
            for source in (FIRST, SECOND, THIRD):
                for _ in range(1000):
                    self.connect(process, stack, source)
            wait_until(lambda: not self.is_served(process, FIRST), "the limit of an address")
            self.assertTrue(self.is_served(process, "127.0.0.4"))
            self.assertLess(memory(process.pid) - before, 100)
        wait_until(lambda: self.is_served(process, FIRST), "an answer, now that others have left")
        self.assertNotIn("ERROR", process.output)

    @slow
    @linux
    def test_endless_bodies_cost_no_memory_and_keep_nobody_waiting(self) -> None:
        process = self.start()
        self.assertTrue(self.is_served(process))
        before = memory(process.pid)
        heads = 3 * [
            make_request("POST /auth/login HTTP/1.1", f"Content-Length: {100 * MEGABYTE}"),
            make_request("POST /auth/login HTTP/1.1", "Transfer-Encoding: chunked"),
        ]
        chunk = b"10000\r\n" + 0x10000 * b"a" + b"\r\n"
        with ThreadPoolExecutor(len(heads)) as pool, ExitStack() as stack:
            floods: list[Future[None]] = []
            for head in heads:
                client = self.connect(process, stack)
                client.sendall(head)
                floods.append(pool.submit(self.flood, client, chunk, 100 * MEGABYTE))
            longest = 0.0
            while not all(flood.done() for flood in floods):
                began = time.monotonic()
                self.assertTrue(self.is_served(process, SECOND))
                longest = max(longest, time.monotonic() - began)
            for flood in floods:
                flood.result()
        self.assertLess(longest, 2)
        self.assertLess(memory(process.pid) - before, 50)
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("ERROR", process.output)
        self.assertLessEqual(process.output.count(" 413 "), len(heads))

    @slow
    @linux
    def test_pipelines_cost_no_memory_and_keep_nobody_waiting(self) -> None:
        process = self.start()
        self.assertTrue(self.is_served(process))
        before = memory(process.pid)
        pipeline = 250_000 // len(REQUEST) * REQUEST
        longest = 0.0
        with ExitStack() as stack:
            for _ in range(50):
                client = self.connect(process, stack)
                client.setblocking(False)
                client.send(pipeline)
            for _ in range(10):
                began = time.monotonic()
                self.assertTrue(self.is_served(process, SECOND))
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.1)
        self.assertLess(longest, 2)
        self.assertLess(memory(process.pid) - before, 60)

    @slow
    @linux
    def test_bodies_that_never_end_have_a_bound_in_all(self) -> None:
        process = self.start(MAX_UNREAD=str(20 * MEGABYTE), BODY_TIMEOUT="3600")
        self.assertTrue(self.is_served(process))
        before = memory(process.pid)
        body = make_request(
            "POST /auth/login HTTP/1.1", f"Content-Length: {MEGABYTE}", body=(MEGABYTE - 1) * b"a"
        )
        longest = 0.0
        with ExitStack() as stack:
            for _ in range(200):
                with suppress(ConnectionError):
                    self.connect(process, stack).sendall(body)
                began = time.monotonic()
                self.assertTrue(self.is_served(process, SECOND))
                longest = max(longest, time.monotonic() - began)
        self.assertLess(longest, 2)
        self.assertLess(memory(process.pid) - before, 20 + 40)  # of 200 that were sent
        self.assertNotIn("ERROR", process.output)

    @slow
    @linux
    def test_multipart_bodies_that_never_end_have_a_bound_in_all(self) -> None:
        script = (
            "from indico import server\n"
            "from indico.routes.handler import IndicoHandler\n"
            "from indico.utils import Upload, type_check, unpack\n"
            "class FileHandler(IndicoHandler):\n"
            "    max_body_size = 8 * 1024**2\n"
            "    @unpack(files=None)\n"
            "    @type_check(list[Upload] | None)\n"
            "    def keep(self, files):\n"
            "        return True\n"
            "server.ROUTES.append((r'/file/(?P<action>[a-zA-Z]+)?', FileHandler))\n"
            "server.main(debug=False)\n"
        )
        part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
        bodies = {
            "texts": part.format("a", "", 900_000 * "a"),
            "characters": part.format("a", "", 400_000 * "a" + "\U0001f600") + "--x\r\n",
            "names": "".join(part.format(f"{number:03}" + 4000 * "a", "", "") for number in range(250)),
            "files": 999 * part.format("files", '; filename="' + 100 * "a" + '"', ""),
        }
        for server in ("own", "tornado"):
            process = self.start(
                script=script, MAX_UNREAD=str(20 * MEGABYTE), BODY_TIMEOUT="3600", HTTP_SERVER=server
            )
            self.assertTrue(self.is_served(process))
            before = memory(process.pid)
            for name, body in bodies.items():
                request = make_request(
                    "POST /file/keep HTTP/1.1",
                    "Content-Type: multipart/form-data; boundary=x",
                    f"Content-Length: {7 * MEGABYTE}",
                    body=body.encode(),
                )
                longest = 0.0
                with self.subTest(name, server=server), ExitStack() as stack:
                    for _ in range(100):
                        with suppress(ConnectionError):
                            self.connect(process, stack).sendall(request)
                        began = time.monotonic()
                        self.assertTrue(self.is_served(process, SECOND))
                        longest = max(longest, time.monotonic() - began)
                    self.assertLess(longest, 2)
                    self.assertLess(memory(process.pid) - before, 60)  # of 100 or 200 that they would take
            self.assertFalse("ERROR" in process.output)

    def flood(self, client: socket.socket, data: bytes, size: int) -> None:
        """Send this again and again until the server has had enough."""
        with suppress(ConnectionError):
            for _ in range(size // len(data)):
                client.sendall(data)

    @slow
    @linux
    def test_bodies_that_are_slow_to_parse_keep_nobody_waiting(self) -> None:
        process = self.start()
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        for name, body in SLOW_BODIES.items():
            with self.subTest(body=name):
                # Of three, because the machine may have been busy with something else.
                self.assertLess(min(self.measure(process, body) for _ in range(3)), 1)
        self.assertNotIn("ERROR", process.output)

    def measure(self, process: ServerProcess, body: bytes) -> float:
        """How long, at most, a client waits while another is served that sends this body."""
        done = threading.Event()
        status: list[bytes] = []
        key = f"indico_key: {HEADERS['indico_key']}"

        def send() -> None:
            try:
                with ExitStack() as stack:
                    client = self.connect(process, stack)
                    client.sendall(make_post(body, "POST /user/update HTTP/1.1", key))
                    status.append(client.recv(12))
            finally:
                done.set()

        longest = 0.0
        with ExitStack() as stack, ThreadPoolExecutor(1) as pool:
            other = self.connect(process, stack, SECOND)
            pool.submit(send)
            while not done.is_set():
                began = time.monotonic()
                self.assertTrue(self.ask(other))
                longest = max(longest, time.monotonic() - began)
        self.assertIn(status, ([b"HTTP/1.1 200"], [b"HTTP/1.1 400"]))
        return longest

    @slow
    @linux
    def test_in_development_a_call_that_blocks_is_named_in_the_log(self) -> None:
        process = self.start(
            script="import time\n"
            "from indico import server\n"
            "from indico.routes.handler import IndicoHandler\n"
            "class SleepyHandler(IndicoHandler):\n"
            "    def nap(self, data):\n"
            "        time.sleep(1.5)\n"
            "        return 'good morning'\n"
            "server.ROUTES.append((r'/sleepy/(?P<action>[a-zA-Z]+)?', SleepyHandler))\n"
            "server.main(debug=True, port=0)\n",
            LOG_FORMAT="text",
        )
        self.assertNotIn("in nap", process.output)
        self.assertEqual(process.post("sleepy/nap")["data"], "good morning")
        process.wait_for('run.py", line 6, in nap')
        self.assertIn("A call has blocked the event loop for more than 1 s", process.output)
        self.assertNotIn("in watch", process.output)  # the stack of another thread
        self.assertEqual(process.stop(), 0)


def fill(head: str, piece: str, tail: str = "]}}") -> bytes:
    """A body that is as large as it may be, of as many of these pieces as it takes."""
    return (head + ",".join([piece] * ((MEGABYTE - len(head + tail)) // (len(piece) + 1))) + tail).encode()


HEAD = '{"update_user":{"a":['
SLOW_BODIES: dict[str, Any] = {
    "deep lists": fill(HEAD, 90 * "[" + 90 * "]"),
    "deep objects": fill(HEAD, 90 * '{"a":' + "0" + 90 * "}"),
    "empty lists": fill(HEAD, "[]"),
    "empty objects": fill(HEAD, "{}"),
    "small numbers": fill(HEAD, "0"),
    "long numbers": fill(HEAD, 750 * "8" + "e-1000"),
    "one number": fill(HEAD, "0." + (MEGABYTE - 100) * "3"),
    "names": ('{"update_user":{' + ",".join(f'"{number:x}":0' for number in range(110_000)) + "}}").encode(),
    "brackets": MEGABYTE * b"[",
    "braces": MEGABYTE // 5 * b'{"a":',
    "escapes": fill(HEAD, '"' + 170_000 * r"\u00e9" + '"'),
    "a form": MEGABYTE // 4 * b"a=b&",
    "a form of escapes": b"a=" + 340_000 * b"%41",
    "spaces": (MEGABYTE - 2) * b" " + b"{}",
}
