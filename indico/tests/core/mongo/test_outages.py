"""
MongoDB away: what a server answers meanwhile, in what time, and how it comes back. MongoDB is behind a proxy.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import IndexModel, MongoClient

from indico import config, db
from indico.core import supervisor
from indico.core.mongo.mongod import find_mongod
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.process import Answer, ProcessTest, ServerProcess, linux, wait_until
from indico.tests.testutils.proxy import Proxy, reserve_port

TIMEOUT = 1  # seconds, MONGODB_TIMEOUT
GRACE = 1  # seconds that a 503 may take longer
RESUME = 2  # seconds from MongoDB's return to the first answer

LONGEST_LINE = 3000  # characters of the log

NEEDS_MONGODB: dict[str, Any] = {
    "auth/login": LOGIN_DATA,
    "auth/check": None,
    "user/find": None,
    "user/update": {"update_user": {"name": "Ada"}},
}
NOT_AUTHENTICATED = (401, "User not authenticated")
NEEDS_NOTHING: list[tuple[str, Any, Mapping[str, str], tuple[int, str]]] = [
    ("auth/nope", None, HEADERS, (404, "nope route could not be found")),
    ("nope", None, HEADERS, (404, "/nope route could not be found")),
    ("auth/login", [], HEADERS, (400, "No JSON object could be decoded.")),
    ("auth/login", {"access_token": ""}, HEADERS, (400, "oauth_id field was not provided")),
    ("auth/login", {**LOGIN_DATA, "access_token": "wrong"}, HEADERS, (401, "Facebook Auth Token invalid")),
    ("auth/check", None, {}, NOT_AUTHENTICATED),
    ("user/find", None, {"indico_key": "no key"}, NOT_AUTHENTICATED),
    ("user/update", {"update_user": {}}, {}, NOT_AUTHENTICATED),
]


class Timed(NamedTuple):
    answer: Answer
    seconds: float


class OutageTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        address = start_mongodb().address
        assert address is not None
        self.proxy = Proxy(address)
        self.addCleanup(self.proxy.close)
        # What it is reached by otherwise stays: a password, and options.
        uri = re.sub(
            "(?<=//)((?:[^/]*@)?)[^/?]+/?", rf"\g<1>127.0.0.1:{self.proxy.port}/", config.MONGODB, count=1
        )
        self.uri = f"{uri}{'&' if '?' in uri else '?'}directConnection=true"

    def launch_server(self, **settings: str) -> ServerProcess:
        return self.launch(**{"MONGODB": self.uri, "MONGODB_TIMEOUT": str(TIMEOUT), **settings})

    def start_server(self, **settings: str) -> ServerProcess:
        """A server with a user, who is logged in."""
        server = self.launch_server(**settings).wait_ready()
        self.assertEqual(server.fetch("auth/login", LOGIN_DATA).status, 200)
        return server

    def fetch(
        self, server: ServerProcess, route: str, data: Any = None, headers: Mapping[str, str] = HEADERS
    ) -> Timed:
        started = time.monotonic()
        answer = server.fetch(route, data, headers)
        return Timed(answer, time.monotonic() - started)

    def assert_unavailable(self, timed: Timed, timeout: float = TIMEOUT) -> None:
        self.assertEqual((timed.answer.status, timed.answer.headers["Retry-After"]), (503, "1"), timed)
        self.assertRegex(timed.answer.data, r"^The database [a-z' ]+$")
        self.assertLess(timed.seconds, timeout + GRACE)

    def assert_is_away(self, server: ServerProcess, rounds: int = 3) -> None:
        """
        Many requests at once: those that need MongoDB are answered 503 in time, and meanwhile those that
        need it not are answered as ever.
        """
        with ThreadPoolExecutor(rounds * len(NEEDS_MONGODB)) as executor:
            waiting = [
                executor.submit(self.fetch, server, route, data)
                for route, data in list(NEEDS_MONGODB.items()) * rounds
            ]
            self.assert_answers_what_needs_nothing(server)
            for future in waiting:
                self.assert_unavailable(future.result())

    def assert_answers_what_needs_nothing(self, server: ServerProcess) -> None:
        for route, data, headers, expected in NEEDS_NOTHING:
            answer, seconds = self.fetch(server, route, data, headers)
            self.assertEqual((answer.status, answer.data), expected)
            self.assertLess(seconds, TIMEOUT)

    def assert_resumes(self, server: ServerProcess) -> None:
        """MongoDB returns; within two seconds a request is answered with 200, and then all others are."""
        self.proxy.pass_on()
        deadline = time.monotonic() + RESUME
        wait_until(lambda: server.fetch("auth/check").status == 200, "an answer", RESUME)
        self.assertLess(time.monotonic(), deadline)
        for route, data in NEEDS_MONGODB.items():
            answer, seconds = self.fetch(server, route, data)
            self.assertEqual(answer.status, 200)
            self.assertLess(seconds, TIMEOUT)

    def assert_log_is_bounded(self, server: ServerProcess, requests: int) -> None:
        """A line for each request, one for each 503, and a few besides."""
        lines = server.output.splitlines()
        self.assertLess(len(lines), 2 * requests + 20, server.output)
        self.assertLess(max(map(len, lines)), LONGEST_LINE)
        for word in ("Traceback", "never retrieved", "never awaited", " ERROR "):
            self.assertNotIn(word, server.output)


class AwayTest(OutageTest):
    """In the middle: the server has served before."""

    @slow
    def test_refused_it_answers_503_and_resumes(self) -> None:
        server = self.start_server(MONGODB_TIMEOUT="0.3")
        self.proxy.refuse()
        self.assert_unavailable(self.fetch(server, "auth/check"), 0.3)
        self.assert_answers_what_needs_nothing(server)
        self.assert_resumes(server)

    @slow
    def test_refused_many_at_once_are_answered_503_in_time(self) -> None:
        server = self.start_server()
        self.proxy.refuse()
        self.assert_is_away(server)
        self.assert_resumes(server)

    @slow
    def test_silent_it_answers_503_in_time_and_resumes(self) -> None:
        server = self.start_server()
        self.proxy.swallow()
        self.assert_is_away(server, rounds=5)  # more than a pool of threads may have
        self.assert_is_away(server, rounds=5)
        self.assert_resumes(server)

    @slow
    def test_silent_for_long_it_answers_503_in_time_and_resumes(self) -> None:
        server = self.start_server()
        self.proxy.swallow()
        end = time.monotonic() + 13  # longer than the driver takes to see that nothing comes any more
        while time.monotonic() < end:
            self.assert_is_away(server)
        self.assert_resumes(server)

    @slow
    def test_a_cable_pulled_out_and_put_in_again_is_503_meanwhile(self) -> None:
        server = self.start_server()
        self.proxy.hold()
        self.assert_is_away(server)
        self.assert_resumes(server)

    @slow
    def test_silent_with_the_default_timeout_it_resumes_as_soon(self) -> None:
        server = self.start_server(MONGODB_TIMEOUT="")
        self.proxy.swallow()
        timeout = 5  # seconds, the default
        for _ in range(2):
            with ThreadPoolExecutor(12) as executor:
                for timed in executor.map(lambda _: self.fetch(server, "auth/check"), range(12)):
                    self.assert_unavailable(timed, timeout)
        self.assert_resumes(server)

    @slow
    def test_answers_that_come_later_than_the_timeout_are_503_in_time(self) -> None:
        server = self.start_server()
        self.proxy.delay(3 * TIMEOUT)
        self.assert_is_away(server)
        self.assert_is_away(server)
        self.assert_resumes(server)

    @slow
    def test_a_connection_that_is_cut_is_made_again_without_a_503(self) -> None:
        server = self.start_server()
        for _ in range(5):
            self.proxy.cut()
            for route, data in NEEDS_MONGODB.items():
                self.assertEqual(server.fetch(route, data).status, 200)

    @slow
    def test_requests_whose_operations_take_longer_together_are_503_in_time(self) -> None:
        server = self.start_server()
        self.assertEqual(server.fetch("auth/check").status, 200)
        self.proxy.delay(0.6 * TIMEOUT)
        self.assertEqual(server.fetch("auth/check").status, 200)  # one operation
        for route in ("auth/login", "user/update", "user/find"):  # three, and two
            timed = self.fetch(server, route, NEEDS_MONGODB[route])
            self.assert_unavailable(timed)
            self.assertLess(timed.seconds, 1.5 * TIMEOUT)
        self.assert_resumes(server)

    @slow
    def test_a_full_pool_answers_all_in_time_and_keeps_nobody_else_waiting(self) -> None:
        server = self.start_server(MONGODB=f"{self.uri}&maxPoolSize=1")
        self.proxy.delay(0.3 * TIMEOUT)
        with ThreadPoolExecutor(30) as executor:
            waiting = [executor.submit(self.fetch, server, "auth/check") for _ in range(30)]
            self.assert_answers_what_needs_nothing(server)
            answers = [future.result() for future in waiting]
        refused = [timed for timed in answers if timed.answer.status != 200]
        self.assertLess(len(refused), len(answers))
        self.assertGreater(len(refused), 0)
        for timed in refused:
            self.assert_unavailable(timed)
        self.assert_resumes(server)

    @slow
    def test_a_full_pool_that_is_silent_answers_503_in_time_and_resumes(self) -> None:
        server = self.start_server(MONGODB=f"{self.uri}&maxPoolSize=1")
        self.proxy.swallow()
        self.assert_is_away(server)
        self.assert_resumes(server)

    @slow
    def test_the_log_stays_bounded(self) -> None:
        server = self.start_server()
        requests = 1
        for go_away in (self.proxy.refuse, self.proxy.swallow, lambda: self.proxy.delay(3 * TIMEOUT)):
            go_away()
            self.assert_is_away(server, rounds=10)
            requests += 10 * len(NEEDS_MONGODB) + len(NEEDS_NOTHING)
            self.proxy.pass_on()
            requests += self.count_requests_until_it_is_back(server)
        self.assertEqual(server.stop(), 0)
        self.assert_log_is_bounded(server, requests)

    def count_requests_until_it_is_back(self, server: ServerProcess) -> int:
        statuses: list[int] = []

        def is_back() -> bool:
            statuses.append(server.fetch("auth/check").status)
            return statuses[-1] == 200

        wait_until(is_back, "an answer")
        return len(statuses)

    @slow
    def test_it_stops_in_time_while_requests_wait_for_a_silent_mongodb(self) -> None:
        server = self.start_server()
        self.proxy.swallow()
        with ThreadPoolExecutor(20) as executor:
            waiting = [executor.submit(self.fetch, server, "auth/check") for _ in range(20)]
            for future in waiting:
                self.assert_unavailable(future.result())
        started = time.monotonic()
        self.assertEqual(server.stop(), 0)
        self.assertLess(time.monotonic() - started, TIMEOUT + GRACE)


class AtStartTest(OutageTest):
    """The server starts without MongoDB, which comes later."""

    SENTENCE = "This is tried again until it succeeds"

    def assert_starts_without_and_makes_the_indexes(self) -> None:
        server = self.launch_server().wait_ready()
        server.wait_for(self.SENTENCE)
        self.assert_is_away(server)
        self.proxy.pass_on()
        wait_until(lambda: server.fetch("auth/login", LOGIN_DATA).status == 200, "a login", RESUME)
        wait_until(self.has_indexes, "the indexes", RESUME)
        self.assert_resumes(server)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(server.output.count(self.SENTENCE), 1)
        self.assert_log_is_bounded(server, requests=50)

    def has_indexes(self) -> bool:
        def name(model: IndexModel) -> Any:
            return model.document["name"]

        return all(name(model) in self.database[place].index_information() for place, model in db.INDEXES)

    @slow
    def test_refused_it_starts_answers_503_and_makes_the_indexes_when_it_comes(self) -> None:
        self.proxy.refuse()
        self.assert_starts_without_and_makes_the_indexes()

    @slow
    def test_silent_it_starts_answers_503_and_makes_the_indexes_when_it_comes(self) -> None:
        self.proxy.swallow()
        self.assert_starts_without_and_makes_the_indexes()

    @slow
    def test_slow_it_starts_answers_503_and_makes_the_indexes_when_it_comes(self) -> None:
        self.proxy.delay(3 * TIMEOUT)
        self.assert_starts_without_and_makes_the_indexes()

    @slow
    def test_left_alone_it_hardly_logs_anything_while_it_waits(self) -> None:
        self.proxy.refuse()
        server = self.launch_server(MONGODB_TIMEOUT="0.1").wait_ready()
        server.wait_for(self.SENTENCE)
        before = server.output
        end = time.monotonic() + 3  # in which it tries again more than once
        wait_until(lambda: time.monotonic() > end, "the end of time")
        self.assertEqual(server.output, before)


# Names are looked up by this until the file `resolved` exists: after that, db.example.test is MongoDB's host.
UNRESOLVED = """
import asyncio, dns.resolver, dns.asyncresolver, dns.name, os, socket
from types import SimpleNamespace
from indico import server
from indico.core import serving

def resolve(name, kind, *args, **kwargs):
    if not os.path.exists("resolved"):
        raise dns.resolver.NXDOMAIN(qnames=[dns.name.from_text(str(name))])
    if kind != "SRV":
        raise dns.resolver.NoAnswer(response=SimpleNamespace(question=[SimpleNamespace(to_text=str)]))
    target = dns.name.from_text("db.example.test.")
    class Answer(list):
        rrset = SimpleNamespace(ttl=60)
    return Answer([SimpleNamespace(target=target, port=PORT, priority=0, weight=0)])

async def resolve_later(*args, **kwargs):
    return resolve(*args, **kwargs)

dns.resolver.resolve, dns.asyncresolver.resolve = resolve, resolve_later
look_up = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **options: look_up(
    "127.0.0.1" if host == "db.example.test" else host, *rest, **options
)
serving.run = asyncio.run  # uvloop looks up names by itself
server.main(debug=False, port=0)
"""


class NotYetTest(ProcessTest):
    """A MongoDB that can't be used yet, for another reason than a lost connection."""

    def assert_waits(self, server: ServerProcess) -> None:
        """It answers 503 with one line for each request, and is not ready."""
        server.wait_for("This is tried again until it succeeds")
        before = len(server.output.splitlines())
        answer = server.fetch("auth/check")
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))
        self.assertEqual(self.get_ready(server)[0], 503)
        lines = server.output.splitlines()[before:]
        self.assertEqual(len([line for line in lines if "WARNING" in line]), 2, lines)
        self.assertNotIn("Traceback", server.output)

    def get_ready(self, server: ServerProcess) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"{server.url}/health/ready", timeout=30) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def assert_serves_soon(self, server: ServerProcess) -> None:
        wait_until(lambda: self.get_ready(server)[0] == 200, "readiness", 10)
        self.assertEqual(server.fetch("auth/login", LOGIN_DATA).status, 200)
        self.assertEqual(server.output.count("This is tried again until it succeeds"), 1)
        self.assertEqual(server.output.count("Indexes: done"), 1)
        self.assertEqual(server.stop(), 0)

    @slow
    def test_a_name_that_can_not_be_resolved_yet(self) -> None:
        address = start_mongodb().address
        assert address is not None
        for driver in ("motor", "pymongo"):  # mongojet looks names up by itself, outside of Python
            with self.subTest(driver):
                server = self.start(
                    script=UNRESOLVED.replace("PORT", str(address[1])),
                    MONGODB="mongodb+srv://cluster.example.test/?tls=false",
                    MONGODB_DRIVER=driver,
                )
                self.assert_waits(server)
                (self.folder / "resolved").touch()
                self.assert_serves_soon(server)
                (self.folder / "resolved").unlink()
        self.assertIn("user_id_1", self.database.user.index_information())

    @slow
    @linux
    def test_a_user_that_does_not_exist_yet(self) -> None:
        for driver in filter(importlib.util.find_spec, ("motor", "pymongo", "mongojet")):
            with self.subTest(driver), start_with_auth(self.folder / driver) as client:
                assert client.address is not None
                address = f"127.0.0.1:{client.address[1]}"
                stranger = self.start(MONGODB=f"mongodb://{address}/", MONGODB_DRIVER=driver)
                self.assert_waits(stranger)
                ready = '{"status":503,"data":"Not done yet: Indexes"}'
                self.assertEqual(self.get_ready(stranger), (503, ready))
                self.assertEqual(stranger.stop(), 0)
                server = self.start(MONGODB=f"mongodb://ada:secret@{address}/", MONGODB_DRIVER=driver)
                self.assert_waits(server)
                client.admin.command("createUser", "ada", pwd="secret", roles=["root"])
                self.assert_serves_soon(server)
                with MongoClient[dict[str, Any]](f"mongodb://ada:secret@{address}/") as admin:
                    database = admin[self.database.name]
                    self.assertTrue(database.user.index_information()["user_id_1"]["unique"])
                    self.assertTrue(database.auth.index_information()["key_1"]["unique"])


@contextmanager
def start_with_auth(folder: Path) -> Iterator[MongoClient[dict[str, Any]]]:
    """Run a mongod that requires users, and has none. Yields a client, with which the first can be made."""
    folder.mkdir()
    reserved, port = reserve_port()
    path = find_mongod()
    assert path is not None
    options = ["--auth", "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
    pid = supervisor.start_tied_to_parent([path, *options, "--nounixsocket", "--quiet"])
    client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", port, serverSelectionTimeoutMS=30_000)
    try:
        client.admin.command("ping")
        yield client
    finally:
        client.close()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: supervisor.has_ended(pid), "the end of a mongod")
        reserved.close()
