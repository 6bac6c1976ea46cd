"""
The host names that a development server answers to.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar
from unittest import mock

from tornado.httpclient import HTTPResponse

from indico import config
from indico.core.http.filters import guard_hosts
from indico.core.serving import make_http_server
from indico.routes.auth import AuthRoute
from indico.tests.core.http.in_loop import make_in_loop
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

OWN = (
    "localhost",
    "LOCALHOST:5000",
    "127.0.0.1",
    "127.0.0.1:80",
    "127.8.8.8",
    "[::1]:5000",
    "app.localhost:1",
)
OTHERS = (
    *(
        "evil.example.com",
        "evil.example.com:5000",
        "localhost.evil.com",
        "evil-localhost",
        "10.0.0.1",
        "0.0.0.0",
    ),
    *("127.0.0.1.evil.com", "127.0.0.1.nip.io:5000", "[::2]:5000", "[2001:db8::1]", "::ffff:8.8.8.8"),
)


class HostTest(ServerTest):
    stores = False
    routes = [AuthRoute]
    server: ClassVar[str] = "own"

    def get_http_server(self) -> Any:
        with mock.patch.object(config, "HTTP_SERVER", self.server):
            return make_in_loop(self, lambda app: make_http_server(guard_hosts(app, "127.0.0.1")))

    def ask(self, host: str, path: str = "/auth/check", **options: Any) -> HTTPResponse:
        return self.fetch(path, headers={"Host": host}, **{"method": "POST", "body": "{}", **options})

    def test_names_and_addresses_of_loopback_are_served(self) -> None:
        for host in OWN:
            with self.subTest(host):
                self.assertEqual(self.ask(host).code, 401)

    def test_all_other_hosts_are_rejected_in_an_envelope_whatever_they_ask_for(self) -> None:
        for host in OTHERS:
            with self.subTest(host):
                response = self.ask(host)
                data = f"In development Host should be localhost or 127.0.0.1, not {host}"
                self.assertEqual(json.loads(response.body), {"status": 421, "data": data})
        for path in ("/health", "/docs", "/docs/page.js", "/openapi.json", "/metrics", "/nowhere"):
            self.assertEqual(self.ask("evil.example.com", path, method="GET", body=None).code, 421)
        self.assertEqual(self.ask("evil.example.com", body=2_000_000 * "a").code, 421)
        self.assertEqual(self._app.state.in_flight, set())


class TornadoHostTest(HostTest):
    server = "tornado"


class GuardTest(StrictTest):
    def test_only_development_on_loopback_looks_at_the_host(self) -> None:
        application: Any = object()
        for production, address, guarded in (
            (False, "127.0.0.1", True),
            (False, "localhost", True),
            (False, "::1", True),
            (False, "", False),
            (False, "0.0.0.0", False),
            (False, "192.168.0.7", False),
            (True, "127.0.0.1", False),
        ):
            with (
                self.subTest(address, production=production),
                mock.patch.object(config, "PRODUCTION", production),
            ):
                self.assertEqual(guard_hosts(application, address) is not application, guarded)


@slow
class ProcessHostTest(ProcessTest):
    def test_a_server_in_development_answers_its_own_names(self) -> None:
        for options in ({}, {"HTTP_SERVER": "tornado"}):
            server = self.start(**options)
            for host, status in (("localhost:80", 401), ("evil.example.com", 421)):
                self.assertEqual(server.post("auth/check", {}, {"Host": host})["status"], status)
