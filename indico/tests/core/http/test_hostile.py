"""
Clients that mean no good, over raw sockets: whatever the bytes, there is one envelope a request, or a bare
400, or a connection that is cut; and the log stays quiet.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar, NamedTuple

from tornado.httputil import HTTPHeaders
from tornado.testing import AsyncHTTPTestCase, gen_test

from indico import config
from indico.core.hooks import Application
from indico.core.http import requests
from indico.core.serving import make_http_server
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.server import Route, make_app
from indico.tests.core.http.in_loop import make_in_loop
from indico.tests.mocks import USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.strict import StrictTest

method = "POST"  # that handlers of the kind that is tested serve
handshake: list[str] = []  # headers that they need
PATIENCE = 30  # seconds; what takes longer will not happen
BARE = 0  # in place of a status: a bare 400, after which the connection is cut
LAST = 202  # the status of the action `last`
BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
CONTINUE = re.compile(rb"HTTP/1\.1 100 \(?Continue\)?")


class Answer(NamedTuple):
    status: int
    headers: HTTPHeaders
    data: Any


def make_request(
    line: str = "POST /probe/echo HTTP/1.1",
    *headers: str,
    body: bytes = b"",
    host: str | None = "Host: localhost",
) -> bytes:
    """The bytes of a request, with exactly these headers."""
    if "/probe/" in line:
        line = line.replace("POST /probe/", f"{method} /probe/")
        headers = (*handshake, *headers)
    lines = [line, *([host] if host is not None else []), *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def make_post(body: bytes, line: str = "POST /probe/echo HTTP/1.1", *headers: str) -> bytes:
    """The bytes of a request with a body of declared length."""
    return make_request(line, f"Content-Length: {len(body)}", *headers, body=body)


LAST_REQUEST = make_request("POST /probe/last HTTP/1.1", "Connection: close")


def read_answers(received: bytes) -> list[Answer]:
    """
    The envelopes that these bytes consist of, each with all that is promised of it, and BARE in place of a
    bare 400, which is the last. A WebSocket that begins with a message counts as a 200, and its close frame
    as LAST. Raises AssertionError when they hold anything else.
    """
    answers: list[Answer] = []
    while received:
        if received == BARE_400:
            return [*answers, Answer(BARE, HTTPHeaders(), None)]
        head, end, received = received.partition(b"\r\n\r\n")
        if CONTINUE.fullmatch(head):
            continue
        line, _, rest = head.decode("latin-1").partition("\r\n")
        if line == "HTTP/1.1 101 Switching Protocols":
            [(_, message), *closes] = read_frames(received)
            assert [opcode for opcode, _ in closes] in ([], [8]), received
            answers.append(Answer(200, HTTPHeaders.parse(rest), message.decode("latin-1")))
            return [*answers, *(Answer(LAST, HTTPHeaders(), "last") for _ in closes)]
        match = re.fullmatch(r"HTTP/1\.1 ([2-5][0-9][0-9]) [A-Za-z -]+", line)
        assert match and end, head
        headers = HTTPHeaders.parse(rest)
        expected = {
            "Content-Type": ["application/json; charset=UTF-8"],
            "X-Content-Type-Options": ["nosniff"],
            "Cache-Control": ["no-store"],
            "Server": [],
            "Transfer-Encoding": [],
        }
        assert {name: headers.get_list(name) for name in expected} == expected, head
        size = int(headers["Content-Length"])
        body, data = received[:size], None
        if body.startswith(b"{"):  # or else it is the answer to HEAD, and another may follow
            envelope = json.loads(body)
            assert set(envelope) == {"status", "data"} and envelope["status"] == int(match[1]), body
            received, data = received[size:], envelope["data"]
        answers.append(Answer(int(match[1]), headers, data))
    return answers


def read_frames(received: bytes) -> list[tuple[int, bytes]]:
    """The opcodes and the contents of the frames that a WebSocket has sent."""
    frames = []
    while received:
        opcode, size, start = received[0] & 15, received[1], 2
        if size > 125:
            start = 4 if size == 126 else 10
            size = int.from_bytes(received[2:start])
        frames.append((opcode, received[start : start + size]))
        received = received[start + size :]
    return frames


class ProbeHandler(IndicoHandler):
    test: HostileTest

    def echo(self, data: bytes) -> str:
        return data.decode("latin-1")

    def last(self, data: bytes) -> None:
        self.respond("last", LAST)

    def large(self, data: bytes) -> str:
        return 10_000_000 * "a"

    async def hangs(self, data: bytes) -> None:
        self.test.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.test.cancelled.set()


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


class Client:
    """A raw connection. Nothing that the server sent is lost, even if it then resets the connection."""

    def __init__(self, port: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._address = ("127.0.0.1", port)
        self.socket = socket.socket()
        self.socket.setblocking(False)

    async def connect(self, source: str = "127.0.0.1") -> Client:
        self.socket.bind((source, 0))
        await self._loop.sock_connect(self.socket, self._address)
        return self

    async def send(self, data: bytes) -> None:
        """Send it all, unless the server cuts the connection."""
        with suppress(ConnectionError):
            await self._loop.sock_sendall(self.socket, data)

    async def receive(self) -> bytes:
        """What comes next; nothing at the end."""
        try:
            return await self._loop.sock_recv(self.socket, 1 << 20)
        except ConnectionError:
            return b""

    async def receive_all(self) -> bytes:
        """All until the server closes the connection."""
        parts = []
        while part := await self.receive():
            parts.append(part)
        return b"".join(parts)

    def end(self) -> None:
        """Say that nothing more will come."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Vanish as a machine does that lost its memory."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class HostileTest(StrictTest, AsyncHTTPTestCase):
    """
    A server with a log that is looked at: no line but INFO, none with a traceback, none long, and none that
    holds the key; and of lines not more than two a request. It has no database.
    """

    routes: ClassVar[Sequence[Route]] = [
        AuthRoute,
        UserRoute,
        (r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler),
    ]
    allowed = "POST"  # the header Allow of the probe
    begin = b"HTTP/1.1 200 OK\r\n"  # of what the probe sends
    parses_queries = False
    _app: Application

    def get_app(self) -> Application:
        return make_app(routes=self.routes)

    def get_http_server(self) -> Any:
        return make_in_loop(self, make_http_server)

    def setUp(self) -> None:
        super().setUp()
        ProbeHandler.test = self
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.most_lines = 2  # in the log, two a request
        self._records = _Records()
        root = logging.getLogger()
        self.addCleanup(root.setLevel, root.level)
        self.addCleanup(root.removeHandler, self._records)
        root.setLevel(logging.INFO)
        root.addHandler(self._records)

    def tearDown(self) -> None:
        super().tearDown()
        records = self._records.records
        self.assertEqual({record.levelname for record in records} - {"INFO"}, set(), records)
        self.assertEqual([record for record in records if record.exc_info], [])
        messages = [record.getMessage() for record in records]
        self.assertLessEqual(len(messages), self.most_lines, messages)
        for message in messages:
            self.assertLess(len(message), 1000, message[:200])
            self.assertTrue(message.isprintable(), ascii(message))
            self.assertNotIn(USER_KEY, message)

    def run_client(self, talk: Callable[[Client], Coroutine[Any, Any, Any]]) -> Any:
        """The outcome of `talk(client)`, with a client that is connected."""

        async def run() -> Any:
            async with self.client() as client:
                return await talk(client)

        return self.io_loop.run_sync(run, timeout=PATIENCE)

    @asynccontextmanager
    async def client(self, source: str = "127.0.0.1") -> Any:
        client = Client(self.get_http_port())
        try:
            yield await client.connect(source)
        finally:
            client.socket.close()

    def exchange(self, data: bytes, end: bool = False) -> list[Answer]:
        """The answers to these bytes until the server closes the connection; `end` half-closes it first."""

        async def talk(client: Client) -> bytes:
            sending = asyncio.ensure_future(client.send(data))
            sending.add_done_callback(lambda _: client.end() if end else None)
            received = await client.receive_all()
            sending.cancel()
            await asyncio.wait([sending])
            return received

        answers = read_answers(self.run_client(talk))
        self.most_lines += 2 * len(answers) + 2
        return answers

    def assert_answers(self, data: bytes, *statuses: int) -> list[Answer]:
        """
        These bytes, and then one more request, get answers of these statuses, and the connection is closed.
        When the last is LAST the connection has survived them.
        """
        return self.assert_only(data + self.make_last(*statuses), *statuses)

    def assert_only(self, data: bytes, *statuses: int, end: bool = False) -> list[Answer]:
        """These bytes get answers of these statuses, and the connection is closed."""
        answers = self.exchange(data, end)
        self.assertEqual([answer.status for answer in answers], list(statuses))
        return answers

    def make_last(self, *statuses: int) -> bytes:
        """What ends a connection on which there were answers of these statuses."""
        return LAST_REQUEST

    def send_when_asked(self, expectation: str) -> Answer:
        """Send the body of a request with this `Expect` when the server asks for it. Returns the response."""

        async def talk(client: Client) -> bytes:
            head = make_request("POST /probe/echo HTTP/1.1", "Content-Length: 2", f"Expect: {expectation}")
            await client.send(head)
            self.assertTrue((await client.receive()).startswith(b"HTTP/1.1 100 "))
            await client.send(b"ab" + self.make_last(200))
            return await client.receive_all()

        answer, last = read_answers(self.run_client(talk))
        self.assertEqual(last.status, LAST)
        self.most_lines += 4
        return answer

    def count_in_flight(self) -> int:
        return len(self._app.state.in_flight)

    async def wait_until_left(self) -> None:
        """Return when no request is under way, as far as the server knows."""
        while self.count_in_flight():
            await asyncio.sleep(0)

    async def wait_until_all_left(self) -> None:
        """The same, when all that clients sent so far has arrived: one that comes after them is served."""
        async with self.client() as client:
            await client.send(LAST_REQUEST)
            await client.receive_all()
        await self.wait_until_left()


class MethodTest(HostileTest):
    def ask_by(self, other: str, *headers: str) -> bytes:
        """A request of the probe by this method, whatever the methods that it serves."""
        return make_request("POST /probe/echo HTTP/1.1", *headers).replace(
            method.encode(), other.encode("latin-1"), 1
        )

    def test_every_method_but_its_own_is_not_allowed_and_the_connection_survives(self) -> None:
        for other in {"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"} - {
            *self.allowed.split(", ")
        }:
            with self.subTest(method=other):
                [answer, _] = self.assert_answers(self.ask_by(other), 405, LAST)
                self.assertEqual(answer.headers["Allow"], self.allowed)

    def test_a_method_of_ones_own_is_not_allowed(self) -> None:
        for other in ("BREW", "post", "TRACE", "CONNECT", "!#$%&'*+.^_`|~", 5000 * "A", "__init__", "0"):
            with self.subTest(method=other[:20]):
                self.assert_answers(self.ask_by(other), 405, LAST)

    def test_what_can_be_no_method_is_no_http(self) -> None:
        for other in ("", " ", "PO ST", "P\x00ST", "P\xffST", "(POST)", "POST\t", '"POST"', "P\x0bST"):
            with self.subTest(method=other):
                self.assert_answers(self.ask_by(other), BARE)

    def test_a_method_of_ones_own_with_an_impossible_body_is_no_http(self) -> None:
        for headers in (
            ["Content-Length: x"],
            ["Content-Length: 1", "Content-Length: 2"],
            ["Content-Length: 1", "Transfer-Encoding: chunked"],
            ["Transfer-Encoding: gzip"],
        ):
            with self.subTest(headers=headers):
                self.assert_answers(self.ask_by("BREW", *headers), BARE)

    def test_what_is_no_length_is_not_read_as_a_refusal_and_another_request(self) -> None:
        for line in ("PUT /probe/echo", "GET /nope", "POST /nope", "DELETE /user/find"):
            with self.subTest(line=line):
                self.assert_answers(make_request(f"{line} HTTP/1.1", "Content-Length: x"), BARE)


class VersionTest(HostileTest):
    def test_http_1_0_is_answered_and_closed(self) -> None:
        [answer] = self.exchange(make_post(b"old", "POST /probe/echo HTTP/1.0"))
        self.assertEqual((answer.status, answer.data), (200, "old"))

    def test_http_1_0_needs_no_host(self) -> None:
        [answer] = self.exchange(make_request("POST /probe/echo HTTP/1.0", host=None))
        self.assertEqual(answer.status, 200)

    def test_http_1_0_with_keep_alive_is_kept_alive(self) -> None:
        request = make_post(b"old", "POST /probe/echo HTTP/1.0", "Connection: keep-alive")
        self.assert_answers(2 * request, 200, 200, LAST)

    def test_http_1_0_can_not_smuggle_a_request_behind_a_chunked_one(self) -> None:
        request = make_request("POST /probe/echo HTTP/1.0", "Transfer-Encoding: chunked", body=b"0\r\n\r\n")
        self.assert_answers(request, BARE)

    def test_another_minor_version_is_answered(self) -> None:
        self.assert_only(make_request("POST /probe/echo HTTP/1.9"), 200)

    def test_a_version_that_is_none_is_no_http(self) -> None:
        for version in (
            "HTTP/2.0",
            "HTTP/0.9",
            "HTTP/1",
            "HTTP/1.1.1",
            "HTTP/11",
            "http/1.1",
            "HTTPS/1.1",
            "x",
        ):
            with self.subTest(version=version):
                self.assert_answers(make_request(f"POST /probe/echo {version}"), BARE)

    def test_http_0_9_is_no_http_here(self) -> None:
        self.assert_answers(b"GET /probe/echo\r\n\r\n", BARE)

    def test_the_preface_of_http_2_is_no_http_here(self) -> None:
        self.assert_answers(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", BARE)

    def test_an_upgrade_is_not_taken(self) -> None:
        headers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
        self.assert_answers(make_request("POST /probe/echo HTTP/1.1", *headers), 200, LAST)
        headers = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==")
        status = 200 if method == "GET" else 405
        self.assert_answers(make_request("GET /probe/echo HTTP/1.1", *headers), status, LAST)

    def test_the_body_of_a_request_for_an_upgrade_is_no_other_request(self) -> None:
        headers = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__")
        hidden = make_request("POST /nope HTTP/1.1").decode()
        line = "POST /probe/echo HTTP/1.1"
        declared = make_post(hidden.encode(), line, *headers)
        chunk = f"{len(hidden):x}\r\n{hidden}\r\n0\r\n\r\n".encode()
        chunked = make_request(line, "Transfer-Encoding: chunked", *headers, body=chunk)
        for data in (declared, chunked):
            self.assertEqual(self.assert_answers(data, 200, LAST)[0].data, hidden)

    @slow
    def test_thousands_of_requests_for_an_upgrade_at_once(self) -> None:
        request = make_request("GET / HTTP/1.1", "Connection:Upgrade", "Upgrade:h", host="Host:a")
        self.assert_answers(2000 * request, *2000 * [404], LAST)

    def test_a_tls_handshake_is_cut_off(self) -> None:
        hello = bytes.fromhex("16030100c8010000c40303") + bytes(range(256)) + b"\r\n\r\n"
        self.assert_answers(hello, BARE)

    def test_the_words_of_other_protocols_are_cut_off(self) -> None:
        for line in (b"EHLO mail.example.com", b"SSH-2.0-OpenSSH_9.6", b"*1\r\n$4\r\nPING", b"\x00\x01\x02"):
            with self.subTest(line=line):
                self.assert_answers(line + b"\r\n\r\n", BARE)


class HostTest(HostileTest):
    def test_a_host_that_is_missing_doubled_or_impossible_is_cut_off(self) -> None:
        for host in (None, "Host: a\r\nHost: a", "Host: a\r\nHost: b", "Host: a,b", "Host: a b", "Host: <a>"):
            with self.subTest(host=host):
                self.assert_answers(make_request(host=host), BARE)

    def test_a_host_that_is_odd_makes_no_difference(self) -> None:
        hosts = (
            "a:",
            "a:99999",
            "[::1]:5000",
            "127.0.0.1:5000",
            "a.b.c.",
            "-",
            "a%41",
            "xn--",
            1000 * "a.",
        )
        for host in hosts:
            with self.subTest(host=host[:20]):
                self.assert_answers(make_request(host=f"Host: {host}"), 200, LAST)

    def test_a_host_may_be_empty(self) -> None:
        self.assert_answers(make_request(host="Host: "), 200, LAST)


class TargetTest(HostileTest):
    def assert_not_found(self, target: str) -> None:
        answer = self.assert_answers(make_request(f"POST {target} HTTP/1.1"), 404, LAST)[0]
        self.assertLess(len(str(answer.data)), 200)

    def test_an_absolute_target_is_served(self) -> None:
        for target in ("http://b/probe/echo", "HTTPS://b:5000/probe/echo", "http://b/probe/echo?http://a"):
            with self.subTest(target=target):
                self.assert_answers(make_request(f"{method} {target} HTTP/1.1"), 200, LAST)
        self.assert_answers(make_request("POST http://b HTTP/1.1"), 404, LAST)
        self.assert_answers(make_request("POST http://b?a=/probe/echo HTTP/1.1"), 404, LAST)

    def test_an_absolute_target_needs_a_host_and_goes_before_it(self) -> None:
        self.assert_answers(make_request("POST http://b/probe/echo HTTP/1.1", host=None), BARE)
        self.assert_answers(make_request("POST http://<b>/probe/echo HTTP/1.1"), BARE)

    def test_other_forms_for_proxies_are_not_found(self) -> None:
        for target in (
            "https://user:password@a:5000/probe/echo",
            "ftp://a/probe/echo",
            "http:///probe/echo",
            "*",
            "a:443",
            "//a/probe/echo",
            "probe/echo",
            "file:///etc/passwd",
        ):
            with self.subTest(target=target):
                self.assert_not_found(target)

    def test_connect_and_options_of_everything_are_not_found(self) -> None:
        for line in ("CONNECT a:443", "OPTIONS *"):
            with self.subTest(line=line):
                self.assert_answers(make_request(f"{line} HTTP/1.1"), 404, LAST)

    @slow
    def test_a_path_is_taken_as_it_is_written(self) -> None:
        for path in (
            "/probe/%65cho",
            "/probe%2Fecho",
            "/probe/echo%00",
            "/probe/echo%0d%0aSet-Cookie:%20a=b",
            "/probe/../probe/echo",
            "/./probe/echo",
            "/probe//echo",
            "/probe/echo/",
            "/probe/echo;a=b",
            "/PROBE/echo",
            "/probe/%c3%a9",
            "/probe/%ff%fe",
            "/probe/%ed%a0%80",
            "/probe/%",
            "/probe/%zz",
            "/%ff",
            "/<script>alert(1)</script>",
            "/{{7*7}}",
            "/probe/\xe9cho",
            "/\xff\xfe",
            "/static/../../etc/passwd",
            "/favicon.ico",
            "/robots.txt",
        ):
            with self.subTest(path=path):
                self.assert_not_found(path)

    def test_names_that_python_knows_are_not_found(self) -> None:
        for name in ("__init__", "__class__", "_execute", "initialize", "post", "prepare", "request", "None"):
            with self.subTest(name=name):
                self.assert_not_found(f"/probe/{name}")

    def test_a_path_of_60_kb_is_not_found(self) -> None:
        for path in ("/" + 60_000 * "a", 30_000 * "/a", "/probe/" + 60_000 * "a", "/" + 20_000 * "%ff"):
            with self.subTest(path=path[:20]):
                self.assert_not_found(path)

    def test_control_characters_in_a_path_are_no_http(self) -> None:
        for path in ("/a\0b", "/a\x1bb", "/a\x7fb", "/a b", "/a\tb", "/a\rb"):
            with self.subTest(path=path):
                self.assert_answers(make_request(f"POST {path} HTTP/1.1"), BARE)

    def test_a_query_makes_no_difference(self) -> None:
        for query in (
            "?",
            "??",
            "?a=b&a=c",
            "?=",
            "?&&&",
            "?%",
            "?%ff=%fe",
            "?a=%00",
            "?a;b",
            "?a#b",
            "?__proto__[a]=1",
            "?\xff\xfe",
            "?" + 60_000 * "a",
            "?" + 900 * "a=b&",
            "?a=" + 10_000 * "%e9",
        ):
            with self.subTest(query=query[:20]):
                self.assert_answers(make_request(f"POST /probe/echo{query} HTTP/1.1"), 200, LAST)

    def test_a_query_beyond_measure_is_no_http_for_what_parses_it(self) -> None:
        self.assert_answers(make_request(), 200, LAST)  # after which the path of an action is known
        request = make_request(f"POST /probe/echo?{20_000 * 'a=&'} HTTP/1.1")
        self.assert_answers(request, *((BARE,) if self.parses_queries else (200, LAST)))


class HeaderTest(HostileTest):
    def test_a_thousand_headers_are_taken(self) -> None:
        headers = [f"X-{number}: {number}" for number in range(1000)]
        self.assert_answers(make_request("POST /probe/echo HTTP/1.1", *headers), 200, LAST)

    def test_the_same_header_thousands_of_times_is_taken(self) -> None:
        self.assert_answers(make_request("POST /probe/echo HTTP/1.1", *(10_000 * ["A: b"])), 200, LAST)

    def test_headers_beyond_the_limit_are_cut_off(self) -> None:
        for headers in (["A: " + 100_000 * "a"], 30_000 * ["A: b"], 20 * ["A: " + 10_000 * "a"]):
            with self.subTest(headers=len(headers)):
                self.assert_only(make_request("POST / HTTP/1.1", *headers), BARE)

    def test_headers_that_never_end_are_cut_off(self) -> None:
        async def talk(client: Client) -> int:
            await client.send(b"POST / HTTP/1.1\r\nHost: a\r\n")
            sent = 0
            receiving = asyncio.ensure_future(client.receive_all())
            while not receiving.done():
                await client.send(100 * b"X-Header: and on it goes\r\n")
                await asyncio.sleep(0)
                sent += 2600
            self.assertEqual(receiving.result(), BARE_400)
            return sent

        self.assertLess(self.run_client(talk), 20_000_000)

    def test_what_is_no_header_is_cut_off(self) -> None:
        for header in (
            "no colon",
            ": no name",
            "space before : a",
            " folded: a",
            "A: b\0c",
            "A\0: b",
            "A: b\x1b[31m",
            "\xe9: a",
            "A: b\rC: d",
            "A: \x7f",
            "A(b): c",
            "A: b\r\n folded",
            "A: b\r\n\tfolded",
        ):
            with self.subTest(header=header):
                self.assert_answers(make_request("POST /probe/echo HTTP/1.1", header), BARE)

    def test_odd_headers_make_no_difference(self) -> None:
        for header in (
            "A:",
            "A: \xff\xfe",
            "Cookie: a=b; =; ;;; a",
            "X-Forwarded-For: 1.2.3.4, <script>",
            "X-Http-Method-Override: DELETE",
            "If-None-Match: *",
            "If-Modified-Since: yesterday",
            "Range: bytes=0-0",
            "Accept: text/html",
            "Accept-Encoding: gzip, br",
            "Accept-Charset: utf-16",
            "TE: trailers",
            "Trailer: Expires",
            "Connection: keep-alive",
            "Connection: a, b",
            "Keep-Alive: timeout=99999",
            "Proxy-Connection: close",
        ):
            with self.subTest(header=header):
                self.assert_answers(make_request("POST /probe/echo HTTP/1.1", header), 200, LAST)

    def test_headers_of_another_site_make_no_difference(self) -> None:
        for header in ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site"):
            self.assert_answers(make_request("POST /probe/echo HTTP/1.1", header), 200, LAST)

    def test_lines_that_end_without_a_carriage_return_are_cut_off(self) -> None:
        for line in (b"POST /probe/echo HTTP/1.1\n", b"POST /probe/echo HTTP/1.1\r\nHost: a\n", b"\n"):
            with self.subTest(line=line):
                self.assert_only(line, BARE)

    def test_an_empty_line_before_a_request_is_skipped(self) -> None:
        self.assert_answers(b"\r\n" + make_request() + b"\r\n", 200, LAST)

    def test_nothing_but_empty_lines_is_skipped(self) -> None:
        self.assert_only(10_000 * b"\r\n", end=True)
        self.assert_answers(10_000 * b"\r\n", LAST)

    def test_a_key_in_what_is_no_http_does_not_reach_the_log(self) -> None:
        for header in (
            f"indico_key: {USER_KEY}\0",
            f"Authorization: Bearer {USER_KEY}\x01",
            f"indico_key {USER_KEY}",
            f"Content-Length: {USER_KEY}",
            f"Transfer-Encoding: {USER_KEY}",
            f"{USER_KEY} : a",
        ):
            with self.subTest(header=header):
                self.assert_answers(make_request("POST /probe/echo HTTP/1.1", header), BARE)
        self.assert_answers(make_request(host=f"Host: {USER_KEY}<"), BARE)

    def test_what_is_no_http_fills_no_line_of_the_log(self) -> None:
        for header in (
            "Content-Length: " + 60_000 * "x",
            "Transfer-Encoding: " + 60_000 * "x",
            60_000 * "x" + "(: a",
            "A: " + 60_000 * "x" + "\x01",
        ):
            with self.subTest(header=header[:20]):
                self.assert_answers(make_request("POST /probe/echo HTTP/1.1", header), BARE)
        self.assert_answers(make_request(host="Host: " + 60_000 * "<"), BARE)


class LengthTest(HostileTest):
    def test_equal_lengths_count_once(self) -> None:
        for headers in (["Content-Length: 2", "Content-Length: 2"], ["Content-Length: 2, 2"]):
            with self.subTest(headers=headers):
                request = make_request("POST /probe/echo HTTP/1.1", *headers, body=b"ab")
                [answer, _] = self.assert_answers(request, 200, LAST)
                self.assertEqual(answer.data, "ab")

    def test_equal_lengths_that_are_too_large_are_refused(self) -> None:
        self.set(requests, "LINGER_SECONDS", 0.05)
        headers = ["Content-Length: 99999999", "Content-Length: 99999999"]
        self.assert_only(make_request("POST /probe/echo HTTP/1.1", *headers, body=2_000_000 * b"a"), 413)

    def test_unequal_lengths_are_cut_off(self) -> None:
        for headers in (["Content-Length: 2", "Content-Length: 3"], ["Content-Length: 2, 3"]):
            with self.subTest(headers=headers):
                self.assert_answers(make_request("POST /probe/echo HTTP/1.1", *headers, body=b"ab"), BARE)

    def test_what_is_no_length_is_cut_off(self) -> None:
        for length in ("-1", "+2", "0x2", "2.0", "2e0", "", " ", "two", "\xb2", "1_0", "2;3", "2 2"):
            with self.subTest(length=length):
                self.assert_answers(
                    make_request("POST /probe/echo HTTP/1.1", f"Content-Length: {length}"), BARE
                )

    def test_leading_zeros_are_a_length(self) -> None:
        for zeros in (30, 5000):
            length = "Content-Length: " + zeros * "0"
            for value, body in ((length, b""), (length + "2", b"ab")):
                request = make_request("POST /probe/echo HTTP/1.1", value, body=body)
                self.assertEqual(self.assert_answers(request, 200, LAST)[0].data, body.decode())

    def test_a_huge_length_is_refused_in_an_envelope(self) -> None:
        self.set(requests, "LINGER_SECONDS", 0.05)
        for length in (str(2**31), str(2**63 - 1), str(2**63), str(2**64), 100 * "9", 5000 * "9"):
            with self.subTest(length=length[:20], digits=len(length)):
                request = make_request("POST /probe/echo HTTP/1.1", f"Content-Length: {length}", body=b"ab")
                self.assert_only(request, 413)

    def test_a_length_and_chunks_are_cut_off(self) -> None:
        headers = ["Content-Length: 5", "Transfer-Encoding: chunked"]
        for ordered in (headers, headers[::-1]):
            with self.subTest(headers=ordered):
                request = make_request("POST /probe/echo HTTP/1.1", *ordered, body=b"0\r\n\r\n")
                self.assert_answers(request, BARE)

    def test_a_body_shorter_than_declared_is_no_answer_when_the_client_ends(self) -> None:
        self.assert_only(make_request(body=b"ab", host="Host: a\r\nContent-Length: 3"), end=True)

    def test_a_body_longer_than_declared_is_the_next_request(self) -> None:
        request = make_request("POST /probe/echo HTTP/1.1", "Content-Length: 1", body=b"ab")
        self.assert_answers(request, 200, 405)

    def test_a_body_without_a_length_is_the_next_request(self) -> None:
        self.assert_answers(make_request(body=b"{}"), 200, BARE)

    def test_a_get_with_a_body_does_not_confuse_the_connection(self) -> None:
        status = 200 if method == "GET" else 405
        self.assert_answers(make_post(b"{}", "GET /probe/echo HTTP/1.1"), status, LAST)


class ChunkTest(HostileTest):
    def chunked(self, body: bytes, *headers: str) -> bytes:
        return make_request("POST /probe/echo HTTP/1.1", "Transfer-Encoding: chunked", *headers, body=body)

    def test_chunks_of_any_size_are_put_together(self) -> None:
        for body in (b"2\r\nab\r\n0\r\n\r\n", b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"0002\r\nab\r\n000\r\n\r\n"):
            with self.subTest(body=body):
                [answer, _] = self.assert_answers(self.chunked(body), 200, LAST)
                self.assertEqual(answer.data, "ab")

    def test_the_name_of_the_encoding_may_be_in_capitals(self) -> None:
        request = make_request("POST /probe/echo HTTP/1.1", "TRANSFER-ENCODING: CHUNKED", body=b"0\r\n\r\n")
        self.assert_answers(request, 200, LAST)

    def test_a_chunk_size_that_is_none_is_cut_off(self) -> None:
        for size in (
            b"",
            b"-1",
            b"+2",
            b"0x2",
            b"g",
            b"2 ",
            b" 2",
            b"2_0",
            b"\xb2",
            b"\xff",
            b"2;a=b",
            b"2\n",
        ):
            with self.subTest(size=size):
                self.assert_answers(self.chunked(size + b"\r\nab\r\n0\r\n\r\n"), BARE)

    def test_a_chunk_size_that_never_ends_is_cut_off(self) -> None:
        self.assert_only(self.chunked(10_000 * b"0"), BARE)

    def test_a_chunk_that_is_longer_than_it_says_is_cut_off(self) -> None:
        self.assert_answers(self.chunked(b"1\r\nab\r\n0\r\n\r\n"), BARE)

    def test_trailers_are_cut_off(self) -> None:
        self.assert_answers(self.chunked(b"2\r\nab\r\n0\r\nExpires: never\r\n\r\n"), BARE)

    def test_a_huge_chunk_is_refused_in_an_envelope(self) -> None:
        self.set(requests, "LINGER_SECONDS", 0.05)
        self.set(config, "MAX_BODY_SIZE", 100)
        for size in (b"ffffffff", b"7fffffffffffffff", b"ffffffffffffffff", 30 * b"f"):
            with self.subTest(size=size):
                self.assert_only(self.chunked(size + b"\r\n" + 1000 * b"a"), 413)

    def test_a_refused_body_that_ends_in_nonsense_gets_one_answer(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        for nonsense in (b"nonsense\r\n", b"0\r\nnonsense", b"1\r\nnonsense"):

            async def talk(client: Client, nonsense: bytes = nonsense) -> bytes:
                await client.send(self.chunked(b"80\r\n" + 128 * b"a" + b"\r\n"))
                answer = await client.receive()
                await client.send(nonsense)
                return answer + await client.receive_all()

            with self.subTest(nonsense=nonsense):
                answers = read_answers(self.run_client(talk))
                self.assertEqual([answer.status for answer in answers], [413])
                self.most_lines += 2

    def test_another_encoding_is_cut_off(self) -> None:
        for encoding in (
            "gzip",
            "gzip, chunked",
            "chunked, chunked",
            "identity",
            "chunked, identity",
            "",
            "x",
        ):
            with self.subTest(encoding=encoding):
                request = make_request(
                    "POST /probe/echo HTTP/1.1", f"Transfer-Encoding: {encoding}", body=b"0\r\n\r\n"
                )
                self.assert_answers(request, BARE)

    def test_chunked_said_twice_is_cut_off(self) -> None:
        self.assert_answers(self.chunked(b"0\r\n\r\n", "Transfer-Encoding: chunked"), BARE)


class ExpectTest(HostileTest):
    def test_a_client_that_asks_is_told_to_go_on(self) -> None:
        [answer, _] = self.assert_answers(
            make_post(b"ab", "POST /probe/echo HTTP/1.1", "Expect: 100-continue"), 200, LAST
        )
        self.assertEqual(answer.data, "ab")

    def test_the_case_of_the_expectation_makes_no_difference(self) -> None:
        for expectation in ("100-Continue", "100-CONTINUE", " 100-continue "):
            with self.subTest(expectation=expectation):
                answer = self.send_when_asked(expectation)
                self.assertEqual((answer.status, answer.data), (200, "ab"))


class TypeTest(HostileTest):  # over envelopes alone: no other handler looks at the type of a body
    def test_no_content_type_or_encoding_is_an_error_of_its_own(self) -> None:
        for header in (
            "Content-Type: multipart/form-data",
            "Content-Type: multipart/form-data; boundary=",
            "Content-Type: multipart/form-data; boundary=x",
            "Content-Type: application/x-www-form-urlencoded",
            "Content-Type: application/json; charset=utf-16",
            "Content-Type: text/html; charset=nonsense",
            "Content-Type: \xff",
            "Content-Type:",
            "Content-Encoding:",
            "Content-Encoding: Identity",
        ):
            with self.subTest(header=header):
                body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
                request = make_post(body, "POST /user/find HTTP/1.1", header)
                self.assert_answers(request, 401, LAST)
                request = make_post(body, "POST /auth/login HTTP/1.1", header)
                self.assert_answers(request, 400, LAST)


class PipelineTest(HostileTest):
    def test_good_requests_in_one_piece_are_answered_in_order(self) -> None:
        requests = [make_post(str(number).encode()) for number in range(50)]
        answers = self.assert_answers(b"".join(requests), *(50 * [200]), LAST)
        self.assertEqual([answer.data for answer in answers], [*map(str, range(50)), "last"])

    def test_good_and_bad_requests_are_answered_in_order(self) -> None:
        mixed = (
            make_post(b"a")
            + make_request("PUT /probe/echo HTTP/1.1")
            + make_request("POST /nope HTTP/1.1")
            + make_request("HEAD /probe/echo HTTP/1.1")
            + make_post(b"nonsense", "POST /auth/login HTTP/1.1")
            + make_request("POST /user/find HTTP/1.1")
        )
        head = 200 if "HEAD" in self.allowed else 405
        self.assert_answers(mixed, 200, 405, 404, head, 400, 401, LAST)

    def test_what_follows_nonsense_is_not_answered(self) -> None:
        self.assert_answers(make_post(b"a") + b"nonsense\r\n\r\n" + make_post(b"b"), 200, BARE)

    def test_what_follows_a_close_is_not_answered(self) -> None:
        closing = make_request("POST /probe/echo HTTP/1.1", "Connection: close")
        self.assert_answers(make_post(b"a") + closing, 200, 200)

    def test_what_follows_a_body_too_large_is_not_answered(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        self.assert_answers(make_post(b"a") + make_post(101 * b"a"), 200, 413)

    def test_requests_in_single_bytes_are_answered(self) -> None:
        async def talk(client: Client) -> bytes:
            client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in make_post(b"ab") + self.make_last(200):
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            return await client.receive_all()

        answers = read_answers(self.run_client(talk))
        self.assertEqual([answer.status for answer in answers], [200, LAST])

    @slow
    def test_a_thousand_requests_are_answered_one_by_one(self) -> None:
        self.assert_answers(1000 * make_request("POST /nope HTTP/1.1"), *(1000 * [404]), LAST)


class LeavingTest(HostileTest):
    """Clients that vanish: nothing is left of them, and nobody complains."""

    async def vanish(self, data: bytes, leave: Callable[[Client], None]) -> None:
        async with self.client() as client:
            await client.send(data)
            leave(client)
        await self.wait_until_left()

    def leave_everywhere(self, data: bytes) -> None:
        """Leave after each byte of it, by an end and by a reset."""

        async def leave_each() -> None:
            for leave in (Client.end, Client.reset):
                for length in range(len(data) + 1):
                    await asyncio.wait_for(self.vanish(data[:length], leave), PATIENCE)
                    self.most_lines += 2

        self.io_loop.run_sync(leave_each)
        [answer] = self.exchange(LAST_REQUEST)
        self.assertEqual(answer.status, LAST)

    def test_a_client_may_leave_after_each_byte_of_a_request(self) -> None:
        self.leave_everywhere(make_post(b"{}", "POST /auth/login HTTP/1.1", "Expect: 100-continue"))

    def test_a_client_may_leave_after_each_byte_of_a_chunked_request(self) -> None:
        self.leave_everywhere(
            make_request("POST /nope HTTP/1.1", "Transfer-Encoding: chunked", body=b"2\r\nab\r\n0\r\n\r\n")
        )

    @slow
    def test_a_client_may_leave_while_its_body_is_refused(self) -> None:
        self.set(config, "MAX_BODY_SIZE", 100)
        self.leave_everywhere(make_post(150 * b"a")[-150:])
        for leave in (Client.end, Client.reset):
            self.io_loop.run_sync(lambda: self.vanish(make_post(150 * b"a")[:-20], leave))  # noqa: B023

    @gen_test(timeout=PATIENCE)
    async def test_a_coroutine_is_cancelled_when_its_client_resets_the_connection(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            client.reset()
            await self.cancelled.wait()
            await self.wait_until_left()

    @gen_test(timeout=PATIENCE)
    async def test_a_coroutine_does_not_outlive_a_client_that_leaves_with_its_request(self) -> None:
        for leave in (Client.end, Client.reset):
            for _ in range(10):
                await self.vanish(make_request("POST /probe/hangs HTTP/1.1"), leave)
                self.most_lines += 2
            await self.wait_until_all_left()

    @gen_test(timeout=PATIENCE)
    async def test_a_client_that_half_closes_while_it_waits_has_left(self) -> None:
        async with self.client() as client:
            await client.send(make_request("POST /probe/hangs HTTP/1.1"))
            await self.started.wait()
            client.end()
            await self.cancelled.wait()
            self.assertEqual(await client.receive_all(), b"")
            await self.wait_until_left()

    @gen_test(timeout=PATIENCE)
    async def test_a_client_may_leave_in_the_middle_of_a_large_answer(self) -> None:
        for leave in (Client.end, Client.reset):
            async with self.client() as client:
                await client.send(make_request("POST /probe/large HTTP/1.1"))
                self.assertTrue((await client.receive()).startswith(self.begin))
                leave(client)
            await self.wait_until_left()
            self.most_lines += 2

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_clients_may_leave_between_pipelined_requests(self) -> None:
        for leave in (Client.end, Client.reset):
            async with self.client() as client:
                await client.send(20 * make_request("POST /probe/large HTTP/1.1"))
                await client.receive()
                leave(client)
            await self.wait_until_left()
            self.most_lines += 40

    def test_a_connection_that_is_half_closed_after_an_answer_is_closed(self) -> None:
        async def talk(client: Client) -> bytes:
            await client.send(make_post(b"a"))
            received = await client.receive()
            client.end()
            return received + await client.receive_all()

        [answer] = read_answers(self.run_client(talk))
        self.assertEqual((answer.status, answer.data), (200, "a"))
