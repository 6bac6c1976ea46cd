"""
What `GET /metrics` counts, in one process and over several, and that the dashboard asks for nothing else.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import os
import re
import signal
import socket
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from unittest import mock

from prometheus_client.parser import text_string_to_metric_families
from pymongo.errors import OperationFailure
from tornado.testing import gen_test

import indico
from indico import config, db
from indico.batteries import metrics
from indico.batteries.metrics import sharing
from indico.core.hooks import Application
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, linux, wait_until
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import LOGGER

Series = dict[tuple[str, ...], float]

DASHBOARD = Path(indico.__file__).parents[1] / "docs" / "batteries" / "grafana.json"


def read(text: str) -> Series:
    """What a scrape says: `("name", "value of the first label", ...)` and its number."""
    order = ("route", "action", "status", "command", "le")
    return {
        (sample.name, *(sample.labels[label] for label in order if label in sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class OddHandler(IndicoHandler):
    async def wait(self, data: bytes) -> None:
        await self.settings["go"].wait()

    async def refuse(self, data: bytes) -> None:
        await db.mongodb.command("noSuchCommand")

    def block(self, data: bytes) -> bool:
        time.sleep(0.3)
        return True


class MetricsTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")

    def add_odd_route(self) -> None:
        self._app.add_handlers(".*", [(r"/odd/(?P<action>[a-zA-Z]+)?", OddHandler)])

    def scrape(self) -> Series:
        return read(self.fetch("/metrics").body.decode())

    def test_it_is_prometheus_text_and_needs_no_key(self) -> None:
        response = self.fetch("/metrics")
        self.assertEqual(response.code, 200)
        self.assertRegex(response.headers["Content-Type"], "^text/plain; version=")
        self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")

    def test_who_asks_for_openmetrics_gets_it(self) -> None:
        response = self.fetch("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        self.assertRegex(response.headers["Content-Type"], "^application/openmetrics-text")
        self.assertTrue(response.body.endswith(b"# EOF\n"))

    def test_who_asks_for_a_version_that_is_none_gets_text(self) -> None:
        for accept in ("application/openmetrics-text; version=new", "text/plain; version=1.x"):
            response = self.fetch("/metrics", headers={"Accept": accept})
            self.assertEqual((response.code, response.headers["Content-Type"][:10]), (200, "text/plain"))

    def test_with_a_token_only_who_sends_it_reads_the_page(self) -> None:
        token = "of metrics, ä"
        with mock.patch.object(config, "METRICS_TOKEN", token):
            for given in ("", token, f"Basic {token}", "Bearer", "Bearer of", f"Bearer {token} ,", "\xff"):
                with self.subTest(given):
                    response = self.fetch("/metrics", headers={"Authorization": given})
                    self.assertEqual((response.code, json.loads(response.body)["status"]), (401, 401))
            sent = f"Bearer {token}".encode().decode("latin-1")
            self.assertEqual(self.fetch("/metrics", headers={"Authorization": sent}).code, 200)
            self.assertEqual(self.fetch("/metrics", method="HEAD", headers={"Authorization": sent}).code, 200)

    def test_one_process_shows_its_own_memory_time_and_files(self) -> None:
        series = self.scrape()
        for name in (
            "resident_memory_bytes",
            "virtual_memory_bytes",
            "cpu_seconds_total",
            "open_fds",
            "max_fds",
        ):
            self.assertGreater(series[f"process_{name}",], 0)

    def test_only_get_is_allowed(self) -> None:
        self.assertEqual(self.post("metrics", {})["status"], 405)

    @slow
    def test_answers_count_by_route_action_and_status(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        for headers in (HEADERS, HEADERS, {}):
            self.post("auth/check", {}, headers)
        series = self.scrape()
        self.assertEqual(series["http_requests_total", "auth", "login", "200"], 1)
        self.assertEqual(series["http_requests_total", "auth", "check", "200"], 2)
        self.assertEqual(series["http_requests_total", "auth", "check", "401"], 1)

    @slow
    def test_latencies_count_by_route_and_action(self) -> None:
        self.add_odd_route()
        self.post("odd/block", {})
        series = self.scrape()
        self.assertEqual(series["http_request_duration_seconds_count", "odd", "block"], 1)
        self.assertEqual(series["http_request_duration_seconds_bucket", "odd", "block", "0.25"], 0)
        self.assertEqual(series["http_request_duration_seconds_bucket", "odd", "block", "60.0"], 1)
        self.assertGreaterEqual(series["http_request_duration_seconds_sum", "odd", "block"], 0.3)

    def test_what_clients_make_up_adds_no_series(self) -> None:
        for path in ("a", "b/c", "auth/made", "auth/up", "auth/"):
            self.post(path, {})
        self.fetch("/auth/check", method="MADEUP", body="", allow_nonstandard_methods=True)
        counts = {key[1:]: value for key, value in self.scrape().items() if key[0] == "http_requests_total"}
        self.assertEqual(counts, {("unknown", "", "404"): 2, ("auth", "", "404"): 3, ("auth", "", "405"): 1})

    @gen_test
    async def test_requests_in_flight_are_those_not_answered_yet(self) -> None:
        self.add_odd_route()
        go = self._app.settings["go"] = asyncio.Event()

        async def count() -> float:
            answer = await self.http_client.fetch(self.get_url("/metrics"))
            return read(answer.body.decode())["http_requests_in_progress",]

        self.assertEqual(await count(), 1)  # itself
        waiting = [
            self.http_client.fetch(self.get_url("/odd/wait"), method="POST", body="") for _ in range(3)
        ]
        while await count() < 4:
            pass
        go.set()
        await asyncio.gather(*waiting)
        self.assertEqual(await count(), 1)

    @slow
    def test_mongodbs_commands_count_by_name(self) -> None:
        before = self.scrape().get(("mongodb_command_duration_seconds_count", "find"), 0)
        self.post("auth/login", LOGIN_DATA)
        self.post("auth/check", {})
        series = self.scrape()
        self.assertGreater(series["mongodb_command_duration_seconds_count", "find"], before)
        self.assertGreater(series["mongodb_command_duration_seconds_sum", "find"], 0)
        self.assertNotIn(("mongodb_command_failures_total", "find"), series)

    def test_mongodbs_commands_that_fail_count_too(self) -> None:
        with self.assertRaises(OperationFailure):
            self.io_loop.run_sync(lambda: db.mongodb.command("noSuchCommand"))
        for name in ("failures_total", "duration_seconds_count"):
            self.assertEqual(self.scrape()[f"mongodb_command_{name}", "noSuchCommand"], 1)

    @slow
    def test_a_call_that_blocks_the_loop_is_a_lag(self) -> None:
        self.add_odd_route()

        def lags() -> float:
            series = self.scrape()
            return series["event_loop_lag_seconds_count",] - series["event_loop_lag_seconds_bucket", "0.1"]

        before = lags()
        self.post("odd/block", {})
        deadline = time.monotonic() + 10
        while lags() == before:
            self.assertLess(time.monotonic(), deadline)

    def test_gauges_of_the_application_have_the_values_of_now(self) -> None:
        cups = [0]
        self._app.hooks.gauges["tea_cups"] = ("Cups of tea", lambda: cups[0])
        for count in (3, 7):
            cups[0] = count
            deadline = time.monotonic() + 10
            while self.scrape().get(("tea_cups",)) != count:
                self.assertLess(time.monotonic(), deadline)

    def test_the_dashboard_asks_for_nothing_that_is_not_exported(self) -> None:
        self.add_odd_route()
        if not DASHBOARD.exists():
            self.skipTest("docs/ is not there: the package is installed, and not a checkout")
        self.post("auth/check", {})
        with self.assertLogs("indico", logging.ERROR):
            self.post("odd/refuse", {})
        exported = {key[0] for key in self.scrape()}
        queries = re.findall('"expr": "(.*)"', DASHBOARD.read_text())
        self.assertGreater(len(queries), 8)
        for query in queries:
            asked = set(re.findall(r"\b(?:http|mongodb|event_loop)_\w+", query))
            self.assertTrue(asked, query)
            self.assertLessEqual(asked, exported, query)


class MissingTest(StrictTest):
    def test_without_prometheus_client_the_server_says_so(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"prometheus_client": None}),
            self.assertLogs("indico", logging.WARNING) as logged,
        ):
            make_app()
        self.assertEqual(
            logged.output,
            ["WARNING:indico:GET /metrics needs prometheus-client: pip install -e '.[metrics]'"],
        )


class ProductionTest(StrictTest):
    def test_production_says_once_when_everybody_may_read_the_page(self) -> None:
        async def run(application: Application) -> None:
            async with metrics.lifespan(mock.Mock(), mock.Mock(), None, application):
                pass

        sentence = "GET /metrics needs no token: set METRICS_TOKEN unless a proxy keeps it private"
        for production, token, worker, says in (
            (True, "", None, True),
            (True, "", 0, True),
            (True, "", 1, False),
            (True, "secret", None, False),
            (False, "", None, False),
        ):
            application = Application(database=db)
            application.state.worker = worker
            with (
                self.subTest(production=production, token=token, worker=worker),
                mock.patch.multiple(config, PRODUCTION=production, METRICS_TOKEN=token),
                mock.patch.object(LOGGER, "warning") as warning,
            ):
                asyncio.run(run(application))
                self.assertEqual(warning.mock_calls, [mock.call(sentence)] if says else [])


class NotSharedTest(StrictTest):
    """Several workers that can't be added up."""

    def setUp(self) -> None:
        super().setUp()
        self.set(config, "WORKERS", 2)
        self.enterContext(mock.patch.dict(os.environ))

    def assert_says(self, sentence: str) -> None:
        with self.assertLogs("indico", logging.WARNING) as logged:
            make_app()
        (line,) = logged.output
        self.assertIn(f"GET /metrics shows one worker at a time{sentence}", line)
        self.assertNotIn("PROMETHEUS_MULTIPROC_DIR", os.environ)

    def test_a_prometheus_client_that_was_imported_before_is_named(self) -> None:
        self.assert_says(", because prometheus_client was imported before")

    def test_that_there_is_no_folder_to_write_to_is_said(self) -> None:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = "/nonexistent"
        with mock.patch.object(tempfile, "mkdtemp", side_effect=OSError(2, "No usable temporary directory")):
            self.assert_says(": No usable temporary directory")


class FolderTest(StrictTest):
    """The folder of several workers, in one process."""

    def test_it_is_removed_by_a_worker_whose_supervisor_was_killed(self) -> None:
        with (
            mock.patch.object(config, "WORKERS", 2),
            mock.patch.dict(os.environ),
            mock.patch.dict(sys.modules),
            mock.patch.object(os, "getppid", side_effect=[2, 1]),
        ):
            sys.modules.pop("prometheus_client", None)
            application = make_app()
            folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
            (folder / "worker-1.pid").write_text("1")  # of a worker that died
            for worker in (0, 1):
                sharing.register_worker(str(folder), worker)
            asyncio.run(self.live(application, folder))
        self.assertFalse(folder.exists())

    async def live(self, application: Application, folder: Path) -> None:
        async with metrics.lifespan(mock.Mock(), mock.Mock(), str(folder), application):
            self.assertEqual((folder / "worker-0.pid").read_text(), str(os.getpid()))


class GivenFolderTest(StrictTest):
    """One process, in an environment that names a folder."""

    def make_folder(self, name: str, value: str) -> str | None:
        with mock.patch.dict(os.environ, {name: value}):
            made = sharing.make_folder()
            self.assertNotIn("prometheus_multiproc_dir", os.environ)
            self.assertEqual(os.environ["PROMETHEUS_MULTIPROC_DIR"], made or value)
        return made

    def test_one_that_can_not_hold_files_is_replaced_by_its_other_name_too(self) -> None:
        for name in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"):
            for value in ("/nonexistent", __file__, "/proc"):
                with self.subTest(name=name, value=value):
                    made = self.make_folder(name, value)
                    assert made is not None
                    os.rmdir(made)

    def test_one_that_can_hold_files_is_kept(self) -> None:
        with tempfile.TemporaryDirectory(prefix="indico-test-") as folder:
            self.assertIsNone(self.make_folder("prometheus_multiproc_dir", folder))


class OneProcessTest(ProcessTest):
    def test_a_folder_of_the_environment_that_is_not_there_changes_nothing(self) -> None:
        temporary = self.folder / "temporary"
        temporary.mkdir()
        server = self.start(PROMETHEUS_MULTIPROC_DIR="/nonexistent", TMPDIR=str(temporary))
        server.post("auth/check")
        with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
            series = read(response.read().decode())
        self.assertEqual(series["http_requests_total", "auth", "check", "401"], 1)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(os.listdir(temporary), [])


class SharedMetricsTest(ProcessTest):
    """Two workers, one of which dies."""

    script = """
import asyncio, os
from indico import server
from indico.routes.handler import IndicoHandler

class WorkerHandler(IndicoHandler):
    def pid(self, data):
        return os.getpid()

    async def stay(self, data):
        print(f"staying in {os.getpid()}.", flush=True)
        await asyncio.Event().wait()

server.ROUTES.append((r"/worker/(?P<action>[a-zA-Z]+)?", WorkerHandler))
server.main(debug=False, port=0)
"""

    def setUp(self) -> None:
        super().setUp()
        self.temporary = self.folder / "temporary"
        self.temporary.mkdir()
        self.given = self.folder / "given"  # to other servers, too
        self.given.mkdir()
        self.server = self.start(
            script=self.script,
            WORKERS="2",
            TMPDIR=str(self.temporary),
            PROMETHEUS_MULTIPROC_DIR=str(self.given),
        )
        self.asked = 0

    def ask(self) -> int:
        self.asked += 1
        return int(self.server.post("worker/pid")["data"])

    def connect_to_another(self, pid: int) -> http.client.HTTPConnection:
        """A connection to the worker that is not this process."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=30)
            self.addCleanup(connection.close)
            self.asked += 1
            connection.request("POST", "/worker/pid")
            if json.loads(connection.getresponse().read())["data"] != pid:
                return connection

    def scrape(self) -> Series:
        with urllib.request.urlopen(f"{self.server.url}/metrics", timeout=30) as response:
            return read(response.read().decode())

    def assert_counted(self) -> None:
        """Each scrape, whoever answers, has all requests."""
        for _ in range(10):
            series = self.scrape()
            self.assertEqual(series["http_requests_total", "worker", "pid", "200"], self.asked)
            self.assertEqual(series["http_request_duration_seconds_count", "worker", "pid"], self.asked)
            # They would be those of the worker that answers.
            self.assertEqual([name for name, *_ in series if name.startswith("process_")], [])

    def test_a_scrape_is_the_sum_and_a_worker_that_died_is_neither_lost_nor_doubled(self) -> None:
        first = self.ask()
        wait_until(lambda: self.ask() != first, "an answer from the other worker")
        self.assert_counted()
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=30) as left:
            left.sendall(b"POST /worker/stay HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            self.server.wait_for("staying in ")
            self.assertEqual(self.scrape()["http_requests_in_progress",], 2)
            killed = int(re.findall(r"staying in (\d+)\.", self.server.output)[0])
            survivor = self.connect_to_another(killed)
            os.kill(killed, signal.SIGKILL)
            self.server.wait_for("died; another takes its place")

        def count() -> float:
            survivor.request("GET", "/metrics")
            return read(survivor.getresponse().read().decode())["http_requests_in_progress",]

        wait_until(lambda: count() == 1, "the end of the dead worker's requests")
        workers = {self.ask() for _ in range(5)}
        wait_until(lambda: len(workers | {self.ask()}) == 2, "an answer from the worker that took its place")
        self.assert_counted()
        self.assertEqual(self.server.stop(), 0)
        self.assertEqual(os.listdir(self.temporary), [])
        self.assertEqual(os.listdir(self.given), [])

    @slow
    @linux
    def test_a_parent_that_is_killed_leaves_no_folder(self) -> None:
        self.assertEqual(len(os.listdir(self.temporary)), 1)
        self.server.stop(signal.SIGKILL)
        wait_until(lambda: not os.listdir(self.temporary), "the removal of the folder")
