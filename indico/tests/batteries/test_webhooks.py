"""
Webhooks: what is sent when a job has ended, and where nothing is sent.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import signal
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from tornado.httpclient import HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerRequest, ResponseStartLine
from tornado.testing import bind_unused_port

from indico import config
from indico.batteries import jobs, webhooks
from indico.batteries.jobs import job
from indico.batteries.webhooks import sending
from indico.batteries.webhooks.sending import PrivateAddress, check_url, is_public, send
from indico.core.decorators import get_info
from indico.error import InvalidValue, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.tests.core.test_fetch import HOST, make_certificate
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, report_figures, wait_until
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth.auth_utils import auth

PATIENCE = 10  # seconds until a wait fails
PRIVATE = (
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
    *("224.0.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "2001:db8::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "2001::1"),
)


def resolves(host: str, addresses: list[str], times: int) -> Any:
    """Makes a name resolve to addresses, a number of times; other names resolve as they do."""
    look_up = asyncio.BaseEventLoop.getaddrinfo
    left = times

    async def answer(loop: Any, asked: str, port: int, **options: Any) -> Any:
        nonlocal left
        if asked != host:  # the driver connects meanwhile
            return await look_up(loop, asked, port, **options)
        left -= 1
        assert left >= 0, f"{host} was looked up more than {times} times"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    return mock.patch.object(asyncio.BaseEventLoop, "getaddrinfo", answer)


class ToolHandler(IndicoHandler):
    @auth
    @job
    async def run(self, data: bytes) -> int:
        """Does nothing."""
        return 1

    @auth
    @job
    async def refuse(self, data: bytes) -> None:
        raise InvalidValue("bad")

    @auth
    @job
    async def wait(self, data: bytes) -> None:
        await asyncio.sleep(60)


ToolRoute = (r"/tool/(?P<action>[a-zA-Z]+)?", ToolHandler)


class AddressTest(StrictTest):
    def test_private_addresses_are_no_public_ones(self) -> None:
        for address in PRIVATE:
            self.assertFalse(is_public(address), address)
        for address in ("1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"):
            self.assertTrue(is_public(address), address)

    def test_a_url_with_a_private_address_or_of_another_kind_is_refused(self) -> None:
        hosts = [f"[{address}]" if ":" in address else address for address in PRIVATE if "%" not in address]
        for url in (
            *(f"https://{host}/" for host in hosts),
            *(
                "",
                "example.com",
                "ftp://example.com/",
                "https://",
                "https://a:b@example.com/",
                "https://a b/",
            ),
            *("https://example.com:99999/", "https://[::1", "https://a,https://b", "https://exämple.com/"),
            "https://example.com/" + "a" * 2048,
        ):
            with self.subTest(url), self.assertRaises(InvalidValue):
                check_url(url)
        for url in ("https://example.com/hook?a=1", "http://example.com:8080/", "https://[2606:4700::1]/"):
            self.assertEqual(check_url(url), url)

    def test_in_production_it_has_to_be_https(self) -> None:
        with mock.patch.object(config, "PRODUCTION", True), self.assertRaisesRegex(InvalidValue, "of https,"):
            check_url("http://example.com/")


class WebhooksTest(ServerTest):
    routes = [AuthRoute, ToolRoute]
    stores = ("auth", "job", "user")

    def setUp(self) -> None:
        patch = mock.patch.object(jobs.worker, "POLL_SECONDS", 0.02)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()
        self.received: list[HTTPServerRequest] = []
        self.statuses: list[int] = []  # of the next responses; then 200
        listening, self.port = bind_unused_port()
        self.receiver = self.make_receiver()
        self.receiver.add_sockets([listening])
        self.post("auth/login", LOGIN_DATA)

    def make_receiver(self) -> HTTPServer:
        return HTTPServer(self.receive)

    def tearDown(self) -> None:
        self.receiver.stop()
        self.io_loop.run_sync(self.receiver.close_all_connections)
        super().tearDown()

    def receive(self, request: HTTPServerRequest) -> None:
        self.received.append(request)
        status = self.statuses.pop(0) if self.statuses else 200
        headers = request.headers.parse(
            f"Content-Length: 0\r\nLocation: http://localhost:{self.port}/other\r\n"
        )
        assert request.connection is not None
        request.connection.write_headers(ResponseStartLine("HTTP/1.1", status, "Status"), headers)
        request.connection.finish()

    def add(self, url: str, action: str = "run") -> Any:
        return self.post(f"tool/{action}", None, {**HEADERS, "Webhook-URL": url})

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            self.io_loop.run_sync(lambda: asyncio.sleep(0.02))

    def wait_until_settled(self) -> None:
        """Return when no webhook is to be sent any more."""
        query = {"webhook.due": {"$exists": True}}
        self.wait_until(lambda: not self.database.job.count_documents(query), "no webhook that is due")


class SendTest(WebhooksTest):
    def setUp(self) -> None:
        super().setUp()
        patch = mock.patch.object(sending, "is_public", lambda text: True)
        patch.start()
        self.addCleanup(patch.stop)
        self.url = f"http://localhost:{self.port}/hook"

    def test_when_the_job_has_ended_its_address_gets_a_signed_message(self) -> None:
        from standardwebhooks import Webhook

        job = self.add(self.url)["data"]["job"]
        self.wait_until_settled()
        [request] = self.received
        secret = self.post("job/secret", None)["data"]
        message = Webhook(secret).verify(request.body, dict(request.headers))
        self.assertRegex(message.pop("timestamp"), r"^\d{4}-\d\d-\d\dT[\d:]+\+00:00$")
        self.assertEqual(message, {"type": "job.done", "data": {"job": job, "state": "done"}})
        self.assertEqual(request.headers["webhook-id"], job)
        self.assertEqual(request.headers["User-Agent"], "indico")

    @slow
    def test_a_job_that_fails_and_one_that_is_cancelled_send_a_message_too(self) -> None:
        for action, state in (("refuse", "failed"), ("wait", "cancelled")):
            with self.subTest(state):
                job = self.add(self.url, action)["data"]
                if state == "cancelled":
                    self.post("job/cancel", job)
                self.wait_until_settled()
                message = json.loads(self.received.pop().body)
                self.assertEqual(
                    (message["type"], message["data"]), (f"job.{state}", {**job, "state": state})
                )
                self.assertEqual(self.received, [])

    def test_the_description_of_a_job_has_the_header(self) -> None:
        self.assertEqual(list(get_info(ToolHandler.run).headers), ["Webhook-URL"])
        self.assertIn("auth", get_info(ToolHandler.run).decorators)

    def test_users_have_different_secrets(self) -> None:
        key = self.post("auth/login", {**LOGIN_DATA, "oauth_id": "2"})["data"]["indico_key"]
        secrets = [self.post("job/secret", None, {"indico_key": each})["data"] for each in (key, key)]
        self.assertEqual(len({*secrets, self.post("job/secret", None)["data"]}), 2)
        self.assertEqual(self.post("job/secret", None, {})["status"], 401)

    def test_a_job_without_an_address_sends_nothing(self) -> None:
        self.assertEqual(self.post("tool/run", None)["status"], 202)
        self.wait_until(lambda: self.database.job.count_documents({"state": "done"}), "the end of the job")
        self.assertNotIn("webhook", self.database.job.find_one({}) or {})

    def test_what_fails_is_sent_again_with_the_same_id(self) -> None:
        self.statuses = [500, 404]
        with mock.patch.object(webhooks, "PAUSES", (0, 0)):
            self.add(self.url)
            self.wait_until_settled()
        self.assertEqual(len(self.received), 3)
        self.assertEqual(len({request.headers["webhook-id"] for request in self.received}), 1)

    def test_a_redirect_is_not_followed(self) -> None:
        self.statuses = [302, 307, 308]
        with mock.patch.object(webhooks, "PAUSES", (0, 0)), self.assertLogs("indico", "WARNING") as logs:
            self.add(self.url)
            self.wait_until_settled()
        self.assertEqual([request.path for request in self.received], 3 * ["/hook"])
        self.assertIn("can't be sent", logs.output[0])

    def test_a_name_is_looked_up_once_and_its_address_is_the_one_connected_to(self) -> None:
        url = f"http://rebinding.example.com:{self.port}/hook"
        with resolves("rebinding.example.com", ["127.0.0.1"], times=1):
            self.io_loop.run_sync(lambda: send(url, "whsec_MDA=", "1", {}))
        self.assertEqual(self.received[0].host, f"rebinding.example.com:{self.port}")

    def test_an_outage_of_mongodb_is_logged_once(self) -> None:
        failing = mock.AsyncMock(side_effect=Unavailable("no primary"))
        with (
            mock.patch.object(webhooks, "claim_webhook", failing),
            self.assertLogs("indico", "WARNING") as logs,
        ):
            self.wait_until(lambda: failing.await_count > 2, "three attempts")
        self.assertEqual(len(logs.records), 1)
        self.add(self.url)
        self.wait_until_settled()


class HTTPSTest(WebhooksTest):
    """The receiver has a certificate for HOST, which the server trusts."""

    def make_receiver(self) -> HTTPServer:
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        path = make_certificate(Path(folder.name))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        self.enterContext(mock.patch.dict(HTTPRequest._DEFAULTS, ca_certs=str(path)))
        self.enterContext(mock.patch.object(sending, "is_public", lambda text: True))
        return HTTPServer(self.receive, ssl_options=context)

    @slow
    def test_a_message_is_sent_by_https_to_the_host_that_the_certificate_names(self) -> None:
        with resolves(HOST, ["127.0.0.1"], times=1), mock.patch.object(config, "PRODUCTION", True):
            self.io_loop.run_sync(
                lambda: send(check_url(f"https://{HOST}:{self.port}/"), "whsec_MDA=", "1", {})
            )
        [request] = self.received
        self.assertEqual((request.protocol, request.host), ("https", f"{HOST}:{self.port}"))

    @slow
    def test_a_host_with_the_certificate_of_another_gets_nothing(self) -> None:
        url = f"https://other.example.com:{self.port}/"
        with (
            resolves("other.example.com", ["127.0.0.1"], times=1),
            self.assertRaises(ssl.SSLCertVerificationError),
        ):
            self.io_loop.run_sync(lambda: send(url, "whsec_MDA=", "1", {}))
        self.assertEqual(self.received, [])


class PrivateTest(WebhooksTest):
    def test_a_private_address_is_400_and_nothing_is_stored(self) -> None:
        answer = self.add(f"http://127.0.0.1:{self.port}/hook")
        self.assertEqual(answer, {"status": 400, "data": "Webhook-URL should have a public address"})
        self.assertEqual(self.database.job.count_documents({}), 0)

    @slow
    def test_a_name_that_resolves_to_a_private_address_is_not_connected_to(self) -> None:
        for host in ("localhost", "127.1", "2130706433"):
            with self.assertLogs("indico", "WARNING") as logs:
                self.database.job.delete_many({})
                self.assertEqual(self.add(f"http://{host}:{self.port}/hook")["status"], 202)
                self.wait_until_settled()
            self.assertIn(f"{host} is not a public address", logs.output[0])
        self.assertEqual(self.received, [])

    def test_one_private_address_of_several_is_enough(self) -> None:
        addresses = ["1.1.1.1", "10.0.0.1"]
        with resolves("example.com", addresses, times=1), self.assertRaises(PrivateAddress):
            self.io_loop.run_sync(lambda: send("https://example.com/", "whsec_MDA=", "1", {}))


class InstallTest(ServerTest):
    routes = [AuthRoute, ToolRoute]

    def get_app(self) -> Any:
        with (
            mock.patch("importlib.util.find_spec", return_value=None),
            self.assertLogs("indico", "WARNING") as logs,
        ):
            application = super().get_app()
        self.assertIn("indico:There are no webhooks: pip install -e '.[webhooks]'", logs.output[-1])
        return application

    def test_without_standardwebhooks_it_says_so_and_jobs_run_without_it(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        self.assertEqual(self.post("tool/run", None, {**HEADERS, "Webhook-URL": "x"})["status"], 202)
        self.assertEqual(self.post("job/secret", None)["status"], 404)


class UnusedTest(ServerTest):
    routes = [AuthRoute]
    stores = False

    def test_a_process_without_workers_sends_none(self) -> None:
        with mock.patch.object(config, "JOB_WORKERS", 0):
            self.io_loop.run_sync(lambda: webhooks.send_webhooks(self._app))

    def test_without_jobs_there_is_no_secret(self) -> None:
        self.assertEqual(self.post("job/secret", None)["status"], 404)


SCRIPT = """
from indico import server
from indico.batteries import webhooks
from indico.batteries.jobs import job
from indico.batteries.webhooks import sending
from indico.routes.handler import IndicoHandler
from indico.utils.auth.auth_utils import auth

webhooks.LEASE = 3
sending.is_public = lambda text: True

class ToolHandler(IndicoHandler):
    @auth
    @job
    async def run(self, data):
        return 1

server.ROUTES.append((r"/tool/(?P<action>[a-zA-Z]+)?", ToolHandler))
server.main(debug=False, port=0)
"""


@slow
class LeaseTest(ProcessTest):
    def test_if_its_sender_is_killed_another_sends_the_message_after_the_lease(self) -> None:
        received: list[tuple[float, str | None]] = []  # when, and the id
        killed = threading.Event()

        class Receiver(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((time.monotonic(), self.headers["webhook-id"]))
                killed.wait(PATIENCE)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Nothing."""

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as receiver:
            threading.Thread(target=receiver.serve_forever, daemon=True).start()
            self.addCleanup(receiver.shutdown)
            first, second = self.start(script=SCRIPT), self.start(script=SCRIPT, JOB_WORKERS="0")
            first.post("auth/login", LOGIN_DATA)
            url = f"http://localhost:{receiver.server_port}/hook"
            job = second.post("tool/run", None, {**HEADERS, "Webhook-URL": url})["data"]["job"]
            wait_until(lambda: received, "the first message")
            first.stop(signal.SIGKILL)
            killed.set()
            self.start(script=SCRIPT)
            query = {"webhook.due": {"$exists": True}}
            wait_until(lambda: not self.database.job.count_documents(query), "the end of the message")
            (began, first_id), (again, second_id) = received
            report_figures(self, f"1 sender killed, sent again after {again - began:.1f} seconds")
            self.assertEqual((first_id, second_id), (job, job))
            self.assertGreater(again - began, 2.5)
