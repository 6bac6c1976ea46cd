"""
Whether the server runs, and whether it should get requests.
"""

from __future__ import annotations

import http.client
import json
import signal
import threading
from typing import Any

from tornado.testing import bind_unused_port

import indico.db
from indico.batteries import health
from indico.tests.test_server import SLOW_SERVER
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest

TRUE = {"status": 200, "data": True}


class HealthTest(ServerTest):
    def get(self, path: str) -> Any:
        response = self.fetch(path)
        answer = json.loads(response.body)
        self.assertEqual(response.code, answer["status"])
        self.assertEqual(response.headers["Content-Type"], "application/json; charset=UTF-8")
        return answer

    def use_another_mongodb(self, port: int) -> None:
        self.io_loop.run_sync(indico.db.close)
        indico.db.connect(f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=30000")

    def test_a_server_that_goes_down_runs_but_is_not_ready(self) -> None:
        self._app.state.draining = True
        self.assertEqual(self.get("/health"), TRUE)
        self.assertEqual(self.get("/health/ready"), {"status": 503, "data": "The server is stopping"})

    def test_a_server_that_has_not_done_all_of_its_start_is_not_ready(self) -> None:
        self._app.state.missing.add("indexes")
        self.addCleanup(self._app.state.missing.clear)
        self.assertEqual(self.get("/health/ready"), {"status": 503, "data": "Not done yet: indexes"})

    def test_a_server_that_runs_says_so_without_a_key(self) -> None:
        self.assertEqual(self.get("/health"), TRUE)

    def test_a_server_whose_mongodb_answers_is_ready(self) -> None:
        self.assertEqual(self.get("/health/ready"), TRUE)

    def test_a_server_whose_mongodb_is_away_runs_but_is_not_ready(self) -> None:
        socket, port = bind_unused_port()  # which takes connections, and says nothing
        self.addCleanup(socket.close)
        self.use_another_mongodb(port)
        self.addCleanup(setattr, health, "PING_TIMEOUT", health.PING_TIMEOUT)
        health.PING_TIMEOUT = 0.1  # type: ignore[assignment]
        self.assertEqual(self.get("/health"), TRUE)
        self.assertEqual(
            self.get("/health/ready"), {"status": 503, "data": "The database did not respond in time"}
        )

    def test_head_is_answered_like_get_without_the_body(self) -> None:
        for path in ("/health", "/health/ready"):
            answers = [self.fetch(path), self.fetch(path, method="HEAD")]
            self.assertEqual([answer.code for answer in answers], [200, 200])
            self.assertEqual(*[{**answer.headers, "Date": None, "X-Request-Id": None} for answer in answers])
            self.assertEqual((len(answers[0].body), answers[1].body), (26, b""))

    def test_only_get_and_head_are_allowed(self) -> None:
        for path in ("/health", "/health/ready"):
            response = self.fetch(path, method="POST", body="")
            self.assertEqual(response.headers["Allow"], "GET, HEAD")
            self.assertEqual(
                json.loads(response.body),
                {"status": 405, "data": "POST is not allowed here, but GET or HEAD is"},
            )


class DrainingTest(ProcessTest):
    @slow
    def test_a_server_that_was_told_to_stop_is_not_ready_while_it_finishes_its_requests(self) -> None:
        server = self.start(script=SLOW_SERVER)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(server.post("slow/wait")))
        thread.start()
        server.wait_for("waiting")
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self.addCleanup(connection.close)
        connection.request("GET", "/health/ready")
        self.assertEqual(json.loads(connection.getresponse().read()), TRUE)
        server.send(signal.SIGTERM)
        status, closing = 200, None
        while status == 200:
            connection.request("GET", "/health/ready")
            response = connection.getresponse()
            status, closing = response.status, response.headers["Connection"]
            response.read()
        self.assertEqual((status, closing), (503, "close"))
        (self.folder / "go").touch()
        self.assertEqual(server.wait(), 0)
        thread.join()
        self.assertEqual(answers, [{"status": 200, "data": "done"}])
