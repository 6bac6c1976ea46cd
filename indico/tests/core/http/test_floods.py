"""
Floods: many clients that cost the server as much as they can. Its memory, and how long another client and
another user wait meanwhile, have bounds. More of them are in `test_limits`.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

from indico.batteries.password.hashing import HASH_MEMORY
from indico.tests.batteries.test_compute import read_time
from indico.tests.core.http.test_hostile import make_post, make_request
from indico.tests.core.http.test_limits import FIRST, PATIENCE, REQUEST, SECOND, memory
from indico.tests.core.http.test_websockets import SCRIPT, make_handshake
from indico.tests.mocks import LOGIN_DATA, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.graph import graph_in_thread
from indico.tests.testutils.process import (
    ProcessTest,
    ServerProcess,
    linux,
    open_files,
    processes_in,
    wait_until,
)

LONGEST = 2  # seconds that another client waits
LONGEST_OF_USERS = 5  # seconds for another user, whom MongoDB serves after up to 400 requests of a flood
CLIENTS = 20  # of a flood, at a time
KEY = f"indico_key: {USER_KEY}"
MEGABYTE = 1 << 20

SERVER = """
from indico import server
from indico.batteries.compute import compute
from indico.batteries.jobs import job
from indico.batteries.limit import limit
from indico.routes.handler import IndicoHandler
from indico.tests.batteries import compute_functions as functions
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

class WorkHandler(IndicoHandler):
    @unpack("seconds")
    @type_check(float)
    async def burn(self, seconds):
        return await compute(functions.burn, seconds)

    @auth
    @limit("100/hour")
    @job
    async def add(self, data):
        return True

server.ROUTES.append((r"/work/(?P<action>[a-zA-Z]+)?", WorkHandler))
server.main(debug=False, port=0)
"""

Send = Callable[[int], None]  # called with the number of the client


def count_channels(pid: int) -> int:
    """Return how many pipes and Unix sockets a process has open, through which it talks to others here."""
    rows = Path("/proc/net/unix").read_text().splitlines()[1:]
    sockets = {f"socket:[{row.split()[6]}]" for row in rows}
    return sum(file.startswith("pipe:") or file in sockets for file in open_files(pid))


@slow
@linux
class FloodTest(ProcessTest):
    def start_with_user(self, **settings: str) -> ServerProcess:
        process = self.start(**settings)
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        return process

    def assert_bounded(self, process: ServerProcess, send: Send, most: int, times: int = CLIENTS) -> None:
        """
        Assert that this flood costs at most so many megabytes, and that nobody else gets a 503 or waits for
        longer than LONGEST and LONGEST_OF_USERS.
        """
        login = process.post("auth/login", {**LOGIN_DATA, "oauth_id": "2", "user": {}})["data"]
        key = f"indico_key: {login['indico_key']}"
        others = [(REQUEST, 404, LONGEST)]
        for route in ("auth/check", "user/find"):  # MongoDB has a part in these
            others.append((make_post(b"", f"POST /{route} HTTP/1.1", key), 200, LONGEST_OF_USERS))
        before = memory(process.pid)
        is_over = False
        with ThreadPoolExecutor(CLIENTS) as pool:
            floods = [pool.submit(send, number) for number in range(times)]
            while not is_over:
                is_over = all(flood.done() for flood in floods)
                for request, status, longest in others:
                    began = time.monotonic()
                    self.assertEqual(self.ask(process, request, SECOND), status)
                    self.assertLess(time.monotonic() - began, longest)
                time.sleep(0.01)
            for flood in floods:
                flood.result()
        self.assertLess(memory(process.pid) - before, most)
        self.assertNotIn("Traceback", process.output)

    def ask(self, process: ServerProcess, request: bytes, source: str = FIRST) -> int:
        """Send a request on a new connection, read the whole response, and return its status."""
        with socket.create_connection((FIRST, process.port), PATIENCE, (source, 0)) as client:
            client.sendall(request)
            response = http.client.HTTPResponse(client)
            response.begin()
            response.read()
            return response.status

    def test_a_document_that_grows(self) -> None:
        process = self.start_with_user()
        statuses: Counter[int] = Counter()

        def grow(number: int) -> None:
            field = {"update_user": {f"field{number}": 200_000 * "a"}}
            body = json.dumps(field).encode()
            statuses[self.ask(process, make_post(body, "POST /user/update HTTP/1.1", KEY))] += 1
            for _ in range(10):
                found = self.ask(process, make_post(b"", "POST /user/find HTTP/1.1", KEY))
                self.assertIn(found, (200, 503))

        self.assert_bounded(process, grow, 60, times=80)
        self.assertEqual(set(statuses) - {503}, {200, 400})
        self.assertLess(self.database.command("collStats", "user")["avgObjSize"], 256 * 1024)

    def test_responses_that_nobody_reads_cut_off_no_client_that_reads(self) -> None:
        process = self.start_with_user(MAX_UNSENT=str(20 * MEGABYTE))
        body = json.dumps({"update_user": {"filler": 200_000 * "a"}}).encode()
        self.assertEqual(self.ask(process, make_post(body, "POST /user/update HTTP/1.1", KEY)), 200)
        find = make_post(b"", "POST /user/find HTTP/1.1", KEY)
        with ExitStack() as stack:

            def read_nothing(number: int) -> None:
                for _ in range(20):
                    client = stack.enter_context(socket.socket())
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    client.connect((FIRST, process.port))
                    client.sendall(100 * find)
                self.assertEqual(self.ask(process, find), 200)

            self.assert_bounded(process, read_nothing, 150)  # of 8,000 that were asked for

    def test_logins_from_all_addresses_of_an_ipv6_network_ask_facebook_ten_times(self) -> None:
        with graph_in_thread() as graph:
            settings = {name: str(value) for name, value in graph.settings.items()}
            process = self.start(TRUSTED_PROXIES=FIRST, LOGIN_RATE="10/hour", **settings)
            statuses: Counter[int] = Counter()

            def log_in(number: int) -> None:
                for _ in range(15):
                    address = f"2001:db8:0:1:{random.randrange(1 << 16):x}::{random.randrange(1 << 16):x}"
                    login = {"access_token": "token-expired", "oauth_id": str(random.random()), "user": {}}
                    headers = "X-Forwarded-For: " + address, "Content-Type: application/json"
                    body = json.dumps(login).encode()
                    statuses[self.ask(process, make_post(body, "POST /auth/login HTTP/1.1", *headers))] += 1

            self.assert_bounded(process, log_in, 30)
            self.assertEqual(statuses, {401: 10, 429: 290})
            self.assertEqual(len(graph.uris), 10)

    def test_messages_that_are_too_large_or_never_end(self) -> None:
        process = self.start(script=SCRIPT)
        part = b"\xff\0\0\0\0\0\1\0\0\0\0\0\0" + 65536 * b"a"  # of a message, with its length
        with ExitStack() as stack:

            def open_socket() -> socket.socket:
                client = stack.enter_context(socket.create_connection((FIRST, process.port), PATIENCE))
                client.sendall(make_handshake())
                self.assertIn(b"HTTP/1.1 101 ", client.recv(MEGABYTE))
                return client

            def send_too_much(number: int) -> None:
                client = open_socket()
                first = b"\x82\xff" + (10 * MEGABYTE).to_bytes(8) if number % 2 else b"\x02" + part
                with suppress(ConnectionError):
                    client.sendall(first)
                    for _ in range(160):
                        client.sendall(b"\0" + part)
                    self.fail("it takes ten megabytes")

            def send_nearly_all(number: int) -> None:
                client = open_socket()
                client.sendall(b"\x82\xff" + MEGABYTE.to_bytes(8) + bytes(MEGABYTE))

            self.assert_bounded(process, send_too_much, 50, times=60)
            self.assert_bounded(process, send_nearly_all, 100, times=60)  # one megabyte each

    def test_headers_of_facebook_that_never_end(self) -> None:
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server((FIRST, 0)))
            ended = threading.Event()

            def serve(client: socket.socket) -> None:
                with client, suppress(OSError):
                    client.recv(MEGABYTE)
                    client.sendall(b"HTTP/1.1 200 OK\r\n")
                    while not ended.is_set():
                        client.sendall(b"X-A: " + 1000 * b"a" + b"\r\n")

            def accept() -> None:
                with suppress(OSError):
                    while True:
                        client = listener.accept()[0]
                        threads.append(threading.Thread(target=serve, args=(client,)))
                        threads[-1].start()

            threads = [threading.Thread(target=accept)]
            threads[0].start()
            process = self.start(
                FACEBOOK_GRAPH_URL=f"http://{FIRST}:{listener.getsockname()[1]}",
                FACEBOOK_APP_ID="1",
                FACEBOOK_APP_SECRET="2",
                LOGIN_RATE="off",
            )
            login = json.dumps({**LOGIN_DATA, "access_token": "token"}).encode()
            request = make_post(login, "POST /auth/login HTTP/1.1", "Content-Type: application/json")

            def log_in(number: int) -> None:
                self.assertEqual(self.ask(process, request), 503)

            try:
                self.assert_bounded(process, log_in, 60, times=100)
            finally:
                ended.set()
                listener.shutdown(socket.SHUT_RDWR)
                for thread in threads:
                    thread.join()

    def test_pages_that_are_slow_to_make(self) -> None:
        process = self.start_with_user()
        for path in ("/openapi.json", "/metrics"):
            page = make_request(f"GET {path} HTTP/1.1")

            def read(number: int) -> None:
                for _ in range(20):
                    self.assertEqual(self.ask(process, page), 200)  # noqa: B023

            with self.subTest(path):
                self.assert_bounded(process, read, 30)

    def test_trace_context_of_strangers(self) -> None:
        collector = self.enterContext(socket.create_server((FIRST, 0)))
        process = self.start_with_user(
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{FIRST}:{collector.getsockname()[1]}",
            OTEL_TRACES_SAMPLER="parentbased_always_off",
        )
        names = [f"k{number}=" + 100 * "v" for number in range(30)]
        headers = "tracestate: " + ",".join(names), "baggage: " + ",".join(names)

        def send(number: int) -> None:
            for _ in range(50):
                trace = f"traceparent: 00-{random.randbytes(16).hex()}-{random.randbytes(8).hex()}-01"
                self.assertEqual(
                    self.ask(process, make_request("POST /auth/check HTTP/1.1", trace, *headers)), 401
                )

        self.assert_bounded(process, send, 30)
        collector.setblocking(False)
        with self.assertRaises(BlockingIOError):  # no trace was sent
            collector.accept()

    def test_keys_that_look_valid(self) -> None:
        process = self.start_with_user(KEY_CACHE="60")

        def guess(number: int) -> None:
            for _ in range(20):
                key = f"indico_key: {USER_KEY[:28]}{random.randbytes(14).hex()}"
                self.assertEqual(self.ask(process, make_request("POST /auth/check HTTP/1.1", key)), 401)

        self.assert_bounded(process, guess, 30)

    def test_computations_whose_clients_leave(self) -> None:
        process = self.start(script=SERVER, COMPUTE_WORKERS="1")
        short, long = {"seconds": 0}, make_post(b'{"seconds": 600}', "POST /work/burn HTTP/1.1")
        self.assertEqual(process.post("work/burn", short)["status"], 200)
        before = count_channels(process.pid)

        def leave(number: int) -> None:
            for _ in range(5):
                with socket.create_connection((FIRST, process.port), PATIENCE) as client:
                    client.sendall(long)
                    time.sleep(random.random() / 5)

        self.assert_bounded(process, leave, 30)
        wait_until(lambda: process.post("work/burn", short)["status"] == 200, "a free process", LONGEST)
        wait_until(lambda: count_channels(process.pid) <= before, "the end of channels to killed processes")
        others = [pid for pid in processes_in(self.folder) if pid != process.pid]
        used = sum(map(read_time, others))
        time.sleep(0.5)
        self.assertLess(sum(map(read_time, others)) - used, 0.1)  # none of them computes

    def test_jobs_of_one_user(self) -> None:
        process = self.start_with_user(script=SERVER)
        login = process.post("auth/login", {**LOGIN_DATA, "oauth_id": "2"})["data"]
        other = {"indico_key": login["indico_key"]}
        statuses: Counter[int] = Counter()

        def add(number: int) -> None:
            for _ in range(10):
                statuses[self.ask(process, make_post(b"", "POST /work/add HTTP/1.1", KEY))] += 1

        self.assert_bounded(process, add, 30)
        self.assertEqual(statuses, {202: 100, 429: 100})
        job = process.post("work/add", None, other)["data"]
        wait_until(
            lambda: process.post("job/find", job, other)["data"]["state"] == "done",
            "the job of another user",
            patience=5,
        )

    def test_guessed_passwords(self) -> None:
        for rate, expected in (("off", {401: 20}), ("10/hour", {401: 10, 429: 10})):
            process = self.start(PUBLIC_URL="https://app.example.com", LOGIN_RATE=rate)
            statuses: Counter[int] = Counter()

            def guess(number: int) -> None:
                login = {"email": f"{number}@example.com", "password": "a wrong guess"}
                request = make_post(json.dumps(login).encode(), "POST /password/login HTTP/1.1")
                statuses[self.ask(process, request)] += 1  # noqa: B023

            with self.subTest(rate):
                self.assert_bounded(process, guess, HASH_MEMORY // 1024 + 32)
                self.assertEqual(statuses, expected)
