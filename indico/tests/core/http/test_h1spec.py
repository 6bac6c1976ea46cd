"""
The cases of h1spec (https://github.com/uNetworking/h1spec), a suite for the compliance of servers with
HTTP/1.1, written anew.
"""

from __future__ import annotations

import asyncio

from tornado.testing import gen_test
from tornado.web import RequestHandler

from indico.tests.core.http.test_hostile import PATIENCE, Client, HostileTest

COMPLETE = b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: example.com\r\n"
FRAGMENTS = {
    "method": b"G",
    "URL 1": b"GET ",
    "URL 2": b"GET /hello",
    "URL 3": b"GET /hello ",
    "HTTP version": b"GET /hello HTTP",
    "request line": b"GET /hello HTTP/1.1",
    "request line newline 1": b"GET /hello HTTP/1.1\r",
    "request line newline 2": b"GET /hello HTTP/1.1\r\n",
    "field name": b"GET /hello HTTP/1.1\r\nHos",
    "field value 1": b"GET /hello HTTP/1.1\r\nHost:",
    "field value 2": b"GET /hello HTTP/1.1\r\nHost: ",
    "field value 3": b"GET /hello HTTP/1.1\r\nHost: localhost",
    "field value 4": b"GET /hello HTTP/1.1\r\nHost: localhost\r",
    "request": b"GET /hello HTTP/1.1\r\nHost: localhost\r\n",
    "request termination": b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r",
}
VALID = {
    "Expect header": LINE + HOST + b"Expect: 100-continue\r\n\r\n",
    "GET request": LINE + HOST + b"\r\n",
    "GET request with edge cases": LINE + b"hoSt:\texample.com\r\nempty:\r\n\r\n",
    "empty header value": LINE + HOST + b"X-Empty-Header: \r\n\r\n",
    "POST request with body": b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 5\r\n\r\nhello",
    "chunked request": b"POST / HTTP/1.1\r\n"
    + HOST
    + b"Transfer-Encoding: chunked\r\n\r\nc\r\nHello world!\r\n0\r\n\r\n",
}
INVALID = {
    "no HTTP version": b"GET / \r\n\r\n",
    "invalid header characters": LINE + HOST + b"X-Invalid[]: test\r\n\r\n",
    "missing Host header": LINE + b"Content-Length: 5\r\n\r\n",
    "multiple Host headers": LINE + HOST + b"Host: example.org\r\n\r\n",
    "overflowing negative Content-Length": LINE
    + HOST
    + b"Content-Length: -123456789123456789123456789\r\n\r\n",
    "negative Content-Length": LINE + HOST + b"Content-Length: -1234\r\n\r\n",
    "non-numeric Content-Length": LINE + HOST + b"Content-Length: abc\r\n\r\n",
    "invalid control character": LINE + HOST + b"X-Bad-Control-Char: test\x07\r\n\r\n",
    "invalid HTTP version": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "invalid prefix": b"Extra lineGET / HTTP/1.1\r\n" + HOST + b"\r\n",
    "invalid line ending": LINE + HOST + b"\rSome-Header: Test\r\n\r\n",
    "conflicting lengths": LINE + HOST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
}


class EchoHandler(RequestHandler):
    def get(self, path: str) -> None:
        self.write(self.request.body)

    post = get


class SpecTest(HostileTest):
    routes = [("/(.*)", EchoHandler)]

    def setUp(self) -> None:
        super().setUp()
        self.most_lines = 100

    def test_there_are_all_cases(self) -> None:
        self.assertEqual(len(FRAGMENTS) + len(VALID) + len(INVALID), 33)

    @gen_test(timeout=PATIENCE)
    async def test_a_fragment_gets_no_answer_before_it_is_complete(self) -> None:
        clients = {name: Client(self.get_http_port()) for name in FRAGMENTS}
        for name, client in clients.items():
            self.addCleanup(client.socket.close)
            await client.connect()
            await client.send(FRAGMENTS[name])
        answers = {name: asyncio.ensure_future(client.receive()) for name, client in clients.items()}
        await asyncio.sleep(0.05)
        self.assertEqual([name for name, answer in answers.items() if answer.done()], [])
        for name, client in clients.items():
            await client.send(COMPLETE.removeprefix(FRAGMENTS[name]))
            self.assertTrue((await answers[name]).startswith(b"HTTP/1.1 200 "), name)

    @gen_test(timeout=PATIENCE)
    async def test_what_is_valid_is_served(self) -> None:
        for name, data in VALID.items():
            async with self.client() as client:
                await client.send(data)
                self.assertRegex(await client.receive(), rb"^HTTP/1\.1 (100|200) ", name)

    @gen_test(timeout=PATIENCE)
    async def test_what_is_invalid_is_refused(self) -> None:
        for name, data in INVALID.items():
            async with self.client() as client:
                await client.send(data)
                self.assertRegex(await client.receive_all(), rb"^HTTP/1\.1 400 ", name)
