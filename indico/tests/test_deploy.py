"""
The files in deploy/ do what docs/deploy.rst says: requests through nginx, and a restart of each instance.
"""

from __future__ import annotations

import asyncio
import configparser
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import unittest
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tornado.testing import bind_unused_port
from tornado.websocket import websocket_connect

import indico
from indico import config
from indico.config import MAX_BODY_SIZE, REQUEST_TIMEOUT, SHUTDOWN_TIMEOUT
from indico.core.http.limits import LAST_REQUEST_SECONDS
from indico.db import INDEXES
from indico.server import BATTERIES, make_app
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.browser import Browser, needs_browser
from indico.tests.testutils.process import (
    Answer,
    ProcessTest,
    ServerProcess,
    make_folder,
    remove_folder,
    wait_until,
)
from indico.tests.testutils.strict import StrictTest

DEPLOY = Path(indico.__file__).parents[1] / "deploy"
CLIENTS = 8  # threads, of which half never pause, and half leave connections idle
RESTARTS = int(os.environ.get("RESTARTS", "4"))  # for a longer measurement: see docs/deploy.rst


def needs(test: unittest.TestCase, *programs: str) -> None:
    if not DEPLOY.is_dir():
        test.skipTest("deploy/ is not there: the package is installed, and not a checkout")
    for program in programs:
        if shutil.which(program) is None:
            test.skipTest(f"{program} is not installed")


def replace(text: str, changes: dict[str, str]) -> str:
    """The text with these parts, each of which it has to have, replaced."""
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def free_port() -> int:
    listening, port = bind_unused_port()
    listening.close()
    return port


def has_grown(counter: Counter[str], size: int) -> bool:
    return counter.total() >= size


PREFIX = "\n".join(
    f'location "{path}/" {{ proxy_pass http://indico/; proxy_set_header Host $host; }}'
    for path in ("/api", "/a b/v1")
)
SCRIPT = """
import asyncio
from tornado.websocket import WebSocketHandler
from indico import config, server
from indico.routes.handler import IndicoHandler

class EchoHandler(IndicoHandler):
    def headers(self, data):
        return dict(self.request.headers)

class ProbeHandler(IndicoHandler):
    async def follow(self, data):
        for number in range(3):
            yield number
            await asyncio.sleep(0.3)

class SocketHandler(WebSocketHandler):
    def on_message(self, message):
        self.write_message(message)

server.ROUTES.append((r"/echo/(?P<action>[a-zA-Z]+)?", EchoHandler))
server.ROUTES.append(("/socket", SocketHandler))
server.ROUTES.append((r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler))
server.main(debug=False, port=config.PORT)
"""


class NginxTest(ProcessTest):
    """Two instances and nginx before them, as deploy/nginx.conf has it but for ports and paths."""

    def setUp(self) -> None:
        super().setUp()
        needs(self, "nginx", "openssl")
        self.servers = [self.start_instance(), self.start_instance()]
        self.ports = [server.port for server in self.servers]
        self.port, self.plain_port = free_port(), free_port()
        self.page = f"http://127.0.0.1:{self.ports[0]}"  # the origin of a page that may read
        self.start_nginx()

    def start_instance(self, port: int = 0) -> ServerProcess:
        settings = {"PORT": str(port), "TRUSTED_PROXIES": "127.0.0.1", "LOGIN_RATE": "3/day", "WORKERS": "2"}
        settings["MAX_USER_SIZE"] = str(2 * MAX_BODY_SIZE)  # so that the largest body fits into a user
        return self.start(script=SCRIPT, **settings)

    def start_nginx(self) -> None:
        certificate, key = self.folder / "certificate.pem", self.folder / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
            + ["-out", certificate, "-keyout", key],
            check=True,
            capture_output=True,
        )
        changes = {
            "127.0.0.1:5001": f"127.0.0.1:{self.ports[0]}",
            "127.0.0.1:5002": f"127.0.0.1:{self.ports[1]}",
            "listen 443 ssl": f"listen 127.0.0.1:{self.plain_port}; listen 127.0.0.1:{self.port} ssl",
            "https://app.example.com": self.page,
            "    location /metrics": f"{PREFIX}\n    location /metrics",
            "/etc/ssl/api.example.com.pem": str(certificate),
            "/etc/ssl/private/api.example.com.key": str(key),
        }
        (self.folder / "indico.conf").write_text(replace((DEPLOY / "nginx.conf").read_text(), changes))
        temporary = "".join(
            f"{name}_temp_path {self.folder}/{name};"
            for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (self.folder / "nginx.conf").write_text(
            f"daemon off; master_process off; pid {self.folder}/nginx.pid; error_log {self.folder}/error.log;"
            f"events {{}} http {{ access_log off; {temporary} include {self.folder}/indico.conf; }}"
        )
        nginx = subprocess.Popen(
            ["nginx", "-p", self.folder, "-c", self.folder / "nginx.conf"],
            cwd=self.folder,
            stderr=subprocess.PIPE,
        )

        def stop() -> None:
            nginx.terminate()
            nginx.communicate()

        self.addCleanup(stop)
        wait_until(self.is_listening, "nginx listens")

    def is_listening(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port)).close()
        except ConnectionRefusedError:
            return False
        return True

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        context = ssl.create_default_context(cafile=str(self.folder / "certificate.pem"))
        context.check_hostname = False
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, context=context, timeout=30, source_address=(source, 0)
        )

    def post(
        self,
        path: str,
        data: Any = None,
        headers: dict[str, str] = HEADERS,
        source: str = "127.0.0.1",
        body: bytes | None = None,
    ) -> Answer:
        connection = self.connect(source)
        try:
            connection.request("POST", path, json.dumps(data) if body is None else body, headers)
            response = connection.getresponse()
            return Answer(response.status, response.headers, json.loads(response.read())["data"])
        finally:
            connection.close()

    @slow
    def test_the_key_passes_in_either_header(self) -> None:
        self.assertEqual(self.post("/auth/login", LOGIN_DATA).status, 200)
        for headers in ({"indico_key": USER_KEY}, {"Authorization": f"Bearer {USER_KEY}"}):
            self.assertEqual(self.post("/auth/check", headers=headers).data, True)
        self.assertEqual(self.post("/auth/check", headers={}).status, 401)

    @slow
    def test_logins_are_counted_for_the_clients_address_and_not_for_what_it_claims(self) -> None:
        if "indico.batteries.limit" not in BATTERIES:
            self.skipTest("the battery was taken out")

        def login(source: str, oauth_id: str) -> int:
            claim = {"X-Forwarded-For": f"10.0.0.{oauth_id}"}
            data = {**LOGIN_DATA, "oauth_id": oauth_id, "access_token": "guess"}
            return self.post("/auth/login", data, claim, source).status

        first = [login("127.0.0.2", str(number)) for number in range(4)]
        self.assertEqual(first, [401, 401, 401, 429])
        self.assertEqual(login("127.0.0.3", "5"), 401)

    @slow
    def test_the_largest_body_passes_and_one_byte_more_is_refused_in_an_envelope(self) -> None:
        self.post("/auth/login", LOGIN_DATA)
        body = json.dumps({"update_user": {"location": ""}}).encode()
        fits = body.replace(b'""', b'"' + (MAX_BODY_SIZE - len(body)) * b"x" + b'"')
        self.assertEqual(len(fits), MAX_BODY_SIZE)
        self.assertEqual(self.post("/user/update", body=fits).status, 200)
        answer = self.post("/user/update", body=fits + b" ")
        direct = self.servers[0].fetch("user/update", data=MAX_BODY_SIZE * "x")
        self.assertEqual((answer.status, answer.data), (direct.status, direct.data))

    @slow
    def test_a_head_that_is_too_large_for_nginx_is_a_400_in_an_envelope(self) -> None:
        answer = self.post("/auth/check", headers={"X-Long": 40_000 * "x"})
        self.assertEqual((answer.status, answer.data), (400, "Bad Request"))

    @slow
    def test_without_an_instance_the_answer_is_an_envelope(self) -> None:
        for server in self.servers:
            self.assertEqual(server.stop(), 0)
        answer = self.post("/auth/check")
        self.assertEqual((answer.status, answer.data), (503, "The server can not be reached"))
        self.assertEqual(answer.headers["Retry-After"], "1")
        self.assertNotIn("Access-Control-Allow-Origin", answer.headers)

    @slow
    @needs_browser
    def test_a_page_of_another_origin_reads_what_nginx_answers_by_itself(self) -> None:
        ask = """
            const [url, headers, body] = arguments
            return fetch(url, {method: "POST", headers, body, credentials: "include"}).then(
              async response =>
                [response.status, (await response.json()).data, response.headers.get("Retry-After")],
              error => error.name)
        """
        url = f"http://127.0.0.1:{self.plain_port}/auth/check"
        with Browser() as browser:
            browser.open(f"http://127.0.0.1:{self.ports[1]}")  # nginx does not name it
            self.assertEqual(browser.run(ask, url, {}, (MAX_BODY_SIZE + 1) * "x"), "TypeError")
            browser.open(self.page)
            self.assertEqual(browser.run(ask, url, {}, (MAX_BODY_SIZE + 1) * "x")[0], 413)
            for server in self.servers:
                self.assertEqual(server.stop(), 0)
            for headers in ({}, {**HEADERS, "traceparent": "1"}):
                found = browser.run(ask, url, headers, "{}")
                self.assertEqual(found, [503, "The server can not be reached", "1"])

    @slow
    @needs_browser
    def test_below_a_prefix_the_docs_page_calls_actions_below_it(self) -> None:
        with Browser() as browser:
            for prefix in ("/api", "/a%20b/v1"):
                address = f"http://127.0.0.1:{self.plain_port}{prefix}"
                browser.open(f"{address}/docs")
                browser.fold("/auth/check")
                browser.find("button.execute").click()
                browser.find(".live-responses-table", "User not authenticated")
                requests = browser.read_requests()
                self.assertIn(f"{address}/auth/check", requests)
                self.assertEqual([url for url in requests if not url.startswith(address)], [])

    @slow
    def test_trace_context_of_clients_stops_at_nginx(self) -> None:
        strange = dict.fromkeys(("traceparent", "tracestate", "sentry-trace", "baggage"), "of a stranger")
        headers = self.post("/echo/headers", headers={"X-Mine": "seen", **strange}).data
        self.assertEqual(headers["X-Mine"], "seen")
        self.assertNotIn("of a stranger", headers.values())

    @slow
    def test_a_websocket_passes_and_is_closed_when_its_instance_stops(self) -> None:
        async def talk() -> None:
            url = f"ws://127.0.0.1:{self.plain_port}/socket"
            connections = [await websocket_connect(url) for _ in range(4)]
            for connection in connections:
                await connection.write_message("hello")
                self.assertEqual(await connection.read_message(), "hello")
            for server in self.servers:
                server.send(signal.SIGTERM)
            for connection in connections:
                self.assertIsNone(await connection.read_message())
                self.assertEqual(connection.close_code, 1001)
                connection.close()

        asyncio.run(talk())

    @slow
    def test_requests_that_ask_for_no_websocket_leave_nginx_connections_open(self) -> None:
        for asked in ({}, {"Connection": "Upgrade", "Upgrade": "h2c"}, {"Connection": "close"}):
            self.assertNotIn("Connection", self.post("/echo/headers", headers=asked).data)

    @slow
    def test_a_stream_arrives_event_by_event(self) -> None:
        connection = self.connect()
        connection.request("POST", "/probe/follow")
        response = connection.getresponse()
        times = [time.monotonic() for line in response if line.startswith(b"data: {")]
        connection.close()
        self.assertEqual(response.headers["Content-Type"], "text/event-stream")
        self.assertEqual(len(times), 3)
        for earlier, later in pairwise(times):
            self.assertGreater(later - earlier, 0.2)

    @slow
    def test_metrics_are_not_for_everybody(self) -> None:
        self.assertEqual(self.post("/metrics").status, 404)

    @slow
    def test_no_request_fails_while_each_instance_is_restarted_in_turn(self) -> None:
        self.post("/auth/login", LOGIN_DATA)
        done = threading.Event()
        answers: Counter[str] = Counter()

        def keep_asking(number: int) -> None:
            connection = self.connect()
            requests = [("/auth/check", "{}"), ("/user/update", json.dumps({"update_user": {"n": number}}))]
            while not done.wait(number % 2 * random.random()):
                path, body = requests[0]
                requests.reverse()
                try:
                    connection.request("POST", path, body, HEADERS)
                    response = connection.getresponse()
                    response.read()
                    answers[f"{path} {response.status}"] += 1
                except (OSError, http.client.HTTPException) as error:
                    answers[f"{path} {error!r}"] += 1
                    connection.close()
            connection.close()

        clients = [threading.Thread(target=keep_asking, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        try:
            for number in RESTARTS // 2 * (0, 1):
                self.assertEqual(self.servers[number].stop(), 0)
                self.servers[number].close()
                self.servers[number] = self.start_instance(self.ports[number])
                count = answers.total()
                wait_until(partial(has_grown, answers, count + 100), "a hundred more answers")
        finally:
            done.set()
            for client in clients:
                client.join()
        self.assertEqual(sorted(answers), ["/auth/check 200", "/user/update 200"], answers)


class FilesTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        needs(self)
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)

    def read_settings(self, section: str) -> dict[str, str]:
        """A section of the unit, in which a name may stand several times: the last of each."""
        unit = configparser.ConfigParser(strict=False, interpolation=None)
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read(DEPLOY / "server@.service")
        return dict(unit[section])

    @slow
    def test_systemd_takes_the_unit_and_finds_it_hardened(self) -> None:
        needs(self, "systemd-analyze")
        unit = self.folder / "indico@5001.service"
        unit.write_text(
            replace(
                (DEPLOY / "server@.service").read_text(),
                {"/srv/indico/.venv/bin/python": sys.executable, "/usr/bin/curl": sys.executable},
            )
        )
        for command in (["verify", "--man=no"], ["security", "--offline=yes", "--threshold=20"]):
            run = subprocess.run(
                ["systemd-analyze", *command, unit],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.assertEqual(run.returncode, 0, run.stdout)

    def test_systemd_and_compose_wait_longer_than_the_server_takes_to_stop(self) -> None:
        self.assertGreater(
            int(self.read_settings("Service")["TimeoutStopSec"]), SHUTDOWN_TIMEOUT + LAST_REQUEST_SECONDS
        )
        grace = re.search(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yaml").read_text())
        assert grace is not None
        self.assertGreater(int(grace[1]), SHUTDOWN_TIMEOUT + LAST_REQUEST_SECONDS)

    def test_nginx_waits_longer_than_an_action_may_take_and_a_websocket_may_be_silent(self) -> None:
        wait = re.search(r"proxy_read_timeout (\d+)s", (DEPLOY / "nginx.conf").read_text())
        assert wait is not None
        self.assertGreater(int(wait[1]), REQUEST_TIMEOUT)
        self.assertGreater(int(wait[1]), make_app().settings["websocket_ping_interval"])

    def test_the_shard_keys_of_the_guide_are_those_that_the_unique_indexes_need(self) -> None:
        make_app()  # which imports all helpers
        page = (DEPLOY.parent / "docs/deploy.rst").read_text()
        keys = dict(re.findall(r"^``([\w.]+)``.*?``\{(\w+): 1\}``", page, re.MULTILINE))
        kept = re.findall(r"^Do not shard ``(\w+)``", page, re.MULTILINE)
        unique = [
            (collection, index.document)
            for collection, index in INDEXES
            if index.document.get("unique") and collection not in kept
        ]
        self.assertLessEqual({collection for collection, _ in unique}, set(keys))
        for collection, index in unique:
            self.assertEqual(next(iter(index["key"])), keys[collection])

    def test_the_compose_file_can_be_read_and_what_it_and_the_dockerfile_name_is_there(self) -> None:
        dockerfile = (DEPLOY / "Dockerfile").read_text()
        for names in re.findall(r"^COPY (?!--from)(.*) \S+$", dockerfile, re.MULTILINE):
            for name in names.split():
                self.assertTrue((DEPLOY.parent / name).exists(), name)
        try:
            import yaml
        except ImportError:
            self.skipTest("yaml is not installed")
        compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        services, build = compose["services"], compose["services"]["indico"]["build"]
        self.assertTrue((DEPLOY / build["context"] / build["dockerfile"]).exists())
        hosts = re.findall(r"\w+", services["indico"]["environment"]["MONGODB"].split("/")[2])
        self.assertEqual([*hosts, "indico"], sorted(services, key=lambda name: name == "indico"))

    def test_what_is_installed_is_pinned_to_versions_that_will_do(self) -> None:
        lines = (DEPLOY / "constraints.txt").read_text().splitlines()
        pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
        self.assertIn("-c constraints.txt", (DEPLOY / "Dockerfile").read_text())
        [optional] = re.findall(r"^OPTIONAL = {.*?^}", (DEPLOY.parent / "setup.py").read_text(), re.M | re.S)
        needed = (DEPLOY.parent / "req.txt").read_text().splitlines()
        for line in [*needed, *re.findall(r"[\"'](\S+>=[\d.]+)", optional)]:
            name, least = re.split(">=|;", re.sub(r"\[.*\]", "", line))[:2]
            found = tuple(map(int, re.findall(r"\d+", pinned[name.replace("_", "-")])))
            self.assertGreaterEqual(found, tuple(map(int, least.split("."))), line)

    def test_no_memory_is_dumped_and_it_has_a_limit(self) -> None:
        service = self.read_settings("Service")
        self.assertEqual((service["LimitCORE"], service["MemoryMax"]), ("0", "2G"))
        compose = (DEPLOY / "compose.yaml").read_text()
        self.assertIn("ulimits: {core: 0}", compose)
        self.assertIn("mem_limit: 2g", compose)

    def test_compose_trusts_the_gateway_of_its_network(self) -> None:
        compose = (DEPLOY / "compose.yaml").read_text()
        trusted = re.findall(r"TRUSTED_PROXIES: ([0-9.]+)", compose)
        self.assertEqual(trusted, re.findall(r"gateway: ([0-9.]+)", compose))

    def test_the_container_checks_the_path_that_the_health_battery_serves(self) -> None:
        if "indico.batteries.health" not in BATTERIES:
            self.skipTest("the battery was taken out")
        [path] = re.findall(
            rf"http://127\.0\.0\.1:{config.PORT}(/[\w/]+)", (DEPLOY / "Dockerfile").read_text()
        )
        self.assertIn(f'r"{path}"', (DEPLOY.parent / "indico/batteries/health.py").read_text())

    def test_every_variable_in_the_files_is_a_setting(self) -> None:
        named = re.findall(r"^([A-Z_]+)=", (DEPLOY / "server.env").read_text(), re.MULTILINE)
        named += re.findall(r"([A-Z_]+)=", self.read_settings("Service")["Environment"])
        named += re.findall(r"^      ([A-Z_]+): ", (DEPLOY / "compose.yaml").read_text(), re.MULTILINE)
        named += re.findall(r"^ENV ([A-Z_]+)=", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
        self.assertGreater(len(named), 8)
        for name in named:
            self.assertTrue(hasattr(config, name), name)
