"""
Requests to other servers: through a proxy, beside it, and of servers that do not respond as they should.
"""

from __future__ import annotations

import asyncio
import base64
import datetime
import os
import ssl
import tempfile
import time
import unittest
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from unittest import mock

import tornado
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tornado.httpclient import HTTPRequest
from tornado.testing import AsyncTestCase, gen_test

from indico.core.fetch import FAILURES, fetch_json, find_proxy
from indico.tests.testutils import slow
from indico.tests.testutils.strict import StrictTest

HOST = "issuer.example.com"  # a name that nobody can resolve
PATIENCE = 10  # seconds
SHORT = 0.3  # seconds
JSON = b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"is": "it"}'.replace(b"11", b"12")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def make_certificate(folder: Path) -> Path:
    """Make a certificate for HOST, signed by itself, and its key in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(1))
        .not_valid_after(now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(
        key.private_bytes(pem, form, serialization.NoEncryption()) + certificate.public_bytes(pem)
    )
    return path


class FetchTest(StrictTest, AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.heads: list[str] = []  # what the proxy was asked
        self.servers: list[asyncio.Server] = []
        self.tasks: list[asyncio.Future[None]] = []
        patch = mock.patch.dict(os.environ)
        patch.start()
        self.addCleanup(patch.stop)
        for name in ("https_proxy", "all_proxy", "no_proxy", "http_proxy"):
            os.environ.pop(name, None)
            os.environ.pop(name.upper(), None)

    async def listen(self, serve: Serve, context: ssl.SSLContext | None = None) -> int:
        """Serve each connection on a free port of this machine, until the test ends."""

        async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError, asyncio.IncompleteReadError):  # the client has left
                await serve(reader, writer)
            await self.end(writer)

        def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.tasks.append(asyncio.ensure_future(run(reader, writer)))

        server = await asyncio.start_server(start, "127.0.0.1", 0, ssl=context)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def end(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    def tearDown(self) -> None:
        async def wait() -> None:
            for server in self.servers:
                server.close()
            await asyncio.wait_for(asyncio.gather(*self.tasks), PATIENCE)

        self.io_loop.run_sync(wait)
        super().tearDown()

    async def listen_tls(self) -> int:
        """A server of HOST, which the client trusts."""
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        path = make_certificate(Path(folder.name))
        patch = mock.patch.dict(HTTPRequest._DEFAULTS, ca_certs=str(path))
        patch.start()
        self.addCleanup(patch.stop)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(JSON)
            await writer.drain()

        return await self.listen(serve, context)

    async def listen_proxy(self, port: int = 0, answer: bytes = b"HTTP/1.1 200 Connected\r\n\r\n") -> int:
        """A proxy that connects whoever asks to this port, or else says no more."""

        async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await reader.read(10_000):
                    writer.write(data)
            await self.end(writer)

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer)
            if port:
                there, back = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(pump(reader, back), pump(there, writer))
            else:
                await reader.read()

        return await self.listen(serve)

    async def assert_fails(self, url: str, seconds: float = PATIENCE) -> None:
        began = time.monotonic()
        with self.assertRaises(FAILURES):
            await fetch_json(url, seconds)
        self.assertLess(time.monotonic() - began, seconds + 5)


class ProxyTest(FetchTest):
    @gen_test
    async def test_https_goes_through_the_proxy_and_is_checked_end_to_end(self) -> None:
        proxy = await self.listen_proxy(await self.listen_tls())
        for value in (f"http://127.0.0.1:{proxy}", f"127.0.0.1:{proxy}", f"http://127.0.0.1:{proxy}/"):
            os.environ["HTTPS_PROXY"] = value
            self.assertEqual(await fetch_json(f"https://{HOST}/", PATIENCE), {"is": "it"})
        self.assertEqual(self.heads, 3 * [f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"])
        await self.assert_fails("https://other.example.com/")  # the certificate is not its own
        await self.assert_fails("https://[2001:db8::1]:8443/")
        self.assertIn("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n", self.heads[-1])

    @gen_test
    async def test_user_and_password_of_the_proxy_are_sent(self) -> None:
        port = await self.listen_proxy(answer=b"HTTP/1.1 407 Who are you\r\n\r\n")
        for given, sent in (("ada:s%40crt", "ada:s@crt"), ("ada", "ada:")):
            os.environ["HTTPS_PROXY"] = f"http://{given}@127.0.0.1:{port}"
            await self.assert_fails(f"https://{HOST}/")
            encoded = base64.b64encode(sent.encode()).decode()
            self.assertIn(f"\r\nProxy-Authorization: Basic {encoded}\r\n", self.heads[-1])

    @gen_test
    async def test_a_proxy_that_does_not_connect_fails_in_time(self) -> None:
        for answer in (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"SSH-2.0\r\n\r\n", b"X: " + 20_000 * b"a", b""):
            port = await self.listen_proxy(answer=answer)
            os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{port}"
            await self.assert_fails(f"https://{HOST}/", SHORT)
        os.environ["HTTPS_PROXY"] = "http://127.0.0.1:1"
        await self.assert_fails(f"https://{HOST}/", SHORT)

    @slow
    @unittest.skipIf(tornado.version_info < (6, 6), "Tornado 6.5 leaves the socket open")
    @gen_test
    async def test_a_server_that_does_not_speak_tls_fails_in_time(self) -> None:
        os.environ["HTTPS_PROXY"] = f"http://127.0.0.1:{await self.listen_proxy()}"
        await self.assert_fails(f"https://{HOST}/", SHORT)

    def test_which_requests_go_through_which_proxy(self) -> None:
        for variables, url, proxy in (
            ({"HTTPS_PROXY": "http://p:1"}, "https://a.com/", "http://p:1"),
            ({"https_proxy": "p:1"}, "https://a.com/", "http://p:1"),
            ({"ALL_PROXY": "http://p:1"}, "https://a.com/", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1", "ALL_PROXY": "http://q"}, "https://a.com/", "http://p:1"),
            ({"HTTPS_PROXY": ""}, "https://a.com/", ""),
            ({"HTTP_PROXY": "http://p:1"}, "https://a.com/", ""),
            ({"HTTPS_PROXY": "http://p:1"}, "http://a.com/", ""),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.com"}, "https://a.com/", ""),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "b.com, .a.com"}, "https://x.a.com:8443/", ""),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.com"}, "https://user@a.com/", ""),
            ({"HTTPS_PROXY": "http://p:1", "no_proxy": "*"}, "https://a.com/", ""),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "a.com"}, "https://ba.com/", "http://p:1"),
            ({"HTTPS_PROXY": "http://p:1", "NO_PROXY": "127.0.0.1"}, "https://127.0.0.1:1/", ""),
        ):
            with self.subTest(variables, url=url), mock.patch.dict(os.environ, variables):
                self.assertEqual(find_proxy(url), proxy)

    def test_a_proxy_of_another_kind_is_refused_without_its_password(self) -> None:
        for value in ("socks5://ada:secret@p:1", "https://ada:secret@p:1"):
            os.environ["HTTPS_PROXY"] = value
            with self.assertRaises(ValueError) as raised:
                find_proxy("https://a.com/")
            self.assertEqual(str(raised.exception), "HTTPS_PROXY should begin with http://")


class OutOfOrderTest(FetchTest):
    @slow
    @gen_test
    async def test_headers_and_bodies_that_never_end_fail(self) -> None:
        for begin, more in (
            (b"HTTP/1.1 200 OK\r\n", b"X-A: " + 1000 * b"a" + b"\r\n"),
            (b"HTTP/1.1 200 OK\r\nX-A: ", 1000 * b"a"),
            (b"", 1000 * b"a"),
            (b"HTTP/1.1 200 OK\r\n\r\n", 1000 * b" "),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"3e8\r\n" + 1000 * b" " + b"\r\n"),
        ):

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(begin)  # noqa: B023
                while True:
                    writer.write(more)  # noqa: B023
                    await writer.drain()

            with self.subTest(begin):
                await self.assert_fails(f"http://127.0.0.1:{await self.listen(serve)}/")
