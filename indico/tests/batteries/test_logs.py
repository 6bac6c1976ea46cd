"""
What is logged, and that every line says which request caused it.
"""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
import os
import pty
import signal
import sys
import warnings
import weakref
from typing import Any
from unittest import mock

from tornado.web import RequestHandler

import indico.db.user_db as UserDB
from indico import config, db
from indico.batteries.logs import formatters
from indico.core.lifecycle import drain
from indico.core.tasks import spawn
from indico.db import mongo
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, linux, processes_in, wait_until
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import LOGGER, mongo_callback

Line = dict[str, Any]


class OddHandler(IndicoHandler):
    def tell(self, data: bytes) -> None:
        LOGGER.info("in the action")

        @mongo_callback(self)
        def found(user: Any) -> None:
            LOGGER.info("in the callback")
            spawn(tell_later())
            self.respond(True)

        async def tell_later() -> None:
            await asyncio.sleep(0)
            logging.getLogger("elsewhere").warning("in a task")
            await asyncio.to_thread(LOGGER.info, "in a thread")

        UserDB.find_user(USER_ID, found)

    async def explode(self, data: bytes) -> None:
        raise ValueError(f"it was\n{data.decode()}")

    async def stay(self, data: bytes) -> None:
        self.settings["staying"].set()
        await asyncio.Event().wait()

    async def command(self, data: bytes) -> None:
        await command(data.decode())


@mongo
async def command(name: str) -> None:
    await db.mongodb.command(name)


class LogTest(ServerTest):
    """What goes to a stream that is no terminal, and at which level."""

    routes = [AuthRoute, UserRoute, (r"/odd/(?P<action>[a-zA-Z]+)?", OddHandler)]
    stores = ("auth", "user")
    level = logging.INFO

    def setUp(self) -> None:
        root = logging.getLogger()
        self.stream = io.StringIO()
        handler = logging.StreamHandler(self.stream)
        handler.setFormatter(formatters.JSONFormatter())  # until the battery does it
        root.addHandler(handler)
        self.addCleanup(root.removeHandler, handler)
        self.addCleanup(root.setLevel, root.level)
        self.addCleanup(logging.captureWarnings, False)
        root.setLevel(self.level)
        super().setUp()

    @property
    def lines(self) -> list[Line]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def line(self, message: str) -> Line:
        """The only line with this in its message."""
        found = [line for line in self.lines if message in line["message"]]
        self.assertEqual(len(found), 1, (message, self.lines))
        return found[0]

    def request(self, route: str, body: str = "", **headers: str) -> str:
        """POST to it; the id that it answered."""
        response = self.fetch(f"/{route}", method="POST", body=body, headers=headers)
        (request_id,) = response.headers.get_list("X-Request-Id")
        return request_id

    def talk(self, *requests: str) -> bytes:
        """Send requests over one connection, at once, and read until the server closes it."""

        async def talk() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write("".join(requests).encode())
            answers = await reader.read()
            writer.close()
            return answers

        return bytes(self.io_loop.run_sync(talk))


class LineTest(LogTest):
    def test_a_request_is_one_line_with_its_id_route_action_user_status_and_duration(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        request_id = self.request("user/find", **HEADERS)
        line = self.line("200 user.find")
        self.assertRegex(line.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        duration = line.pop("duration_ms")
        self.assertGreater(duration, 0)
        self.assertEqual(
            line,
            {
                "level": "INFO",
                "logger": "indico",
                "message": f"200 user.find {duration:.1f} ms",
                "request_id": request_id,
                "route": "user",
                "action": "find",
                "user_id": USER_ID,
                "status": 200,
            },
        )

    def test_what_is_not_known_is_left_out(self) -> None:
        self.request("nowhere")
        self.assertNotIn("action", self.line("404 unknown"))
        self.assertNotIn("user_id", self.line("404 unknown"))

    def test_nothing_of_path_key_and_body_is_in_a_line(self) -> None:
        self.request("auth/secret?secret=secret", "secret", indico_key=USER_KEY, secret="secret")
        self.assertNotIn("secret", self.stream.getvalue())
        self.assertNotIn(USER_KEY, self.stream.getvalue())

    def test_what_a_call_passes_as_extra_becomes_fields(self) -> None:
        LOGGER.info("an order", extra={"order_id": 7, "item": {"tea"}})
        line = self.line("an order")
        self.assertEqual((line["order_id"], line["item"]), (7, "{'tea'}"))

    def test_a_newline_begins_no_line(self) -> None:
        LOGGER.info("one\n%s\r\x1b[31m\u2028", '{"level": "ERROR"}')
        self.assertEqual(self.stream.getvalue().count("\n"), 1)
        self.assertEqual(self.line("one")["message"], 'one\n{"level": "ERROR"}\r\x1b[31m\u2028')

    def test_a_stack_is_a_field(self) -> None:
        LOGGER.info("here", stack_info=True)
        self.assertIn("test_a_stack_is_a_field", self.line("here")["stack"])

    def test_a_warning_is_a_line(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("too old", UserWarning, stacklevel=1)
        self.assertIn("UserWarning: too old", self.lines[-1]["message"])


class IdTest(LogTest):
    def test_an_id_that_looks_like_one_is_taken(self) -> None:
        for given in ("7", "3f0c9e3a-5f1b-4c57-9e0e-0b5a1c1f8f6d", "A.b_c-d", 48 * "a"):
            self.assertEqual(self.request("odd/tell", **{"X-Request-Id": given}), given)
            self.assertEqual(self.lines[-1]["request_id"], given)

    def test_any_other_is_replaced(self) -> None:
        for given in ("", "a b", 'a"b', "a,b", "{}", "é", 49 * "a", USER_KEY):
            self.assertRegex(self.request("odd/tell", **{"X-Request-Id": given}), "^[0-9a-f]{32}$")

    def test_each_request_gets_another(self) -> None:
        self.assertEqual(len({self.request("auth/check") for _ in range(3)}), 3)

    def test_errors_have_it_too(self) -> None:
        with self.assertLogs("indico", logging.ERROR):
            for path, method, body, status in (
                ("/nowhere", "POST", b"", 404),
                ("/odd/nowhere", "POST", b"", 404),
                ("/auth/check", "GET", None, 405),
                ("/auth/check", "POST", b"", 401),
                ("/odd/tell", "POST", (config.MAX_BODY_SIZE + 1) * b" ", 413),
                ("/odd/explode", "POST", b"", 500),
            ):
                response = self.fetch(path, method=method, body=body, headers={"X-Request-Id": "mine"})
                self.assertEqual((response.code, response.headers["X-Request-Id"]), (status, "mine"))


class PlainHandler(RequestHandler):
    def get(self) -> None:
        LOGGER.info("in the plain one")
        self.finish("plain")


class CauseTest(LogTest):
    routes = [*LogTest.routes, (r"/plain", PlainHandler)]

    def test_what_a_request_logs_wherever_has_its_id(self) -> None:
        request_id = self.request("odd/tell")
        wait_until(lambda: self.io_loop.run_sync(lambda: asyncio.sleep(0)) or len(self.lines) == 5, "5 lines")
        for message in ("in the action", "in the callback", "in a task", "in a thread", "200 odd.tell"):
            self.assertEqual(self.line(message)["request_id"], request_id)

    def test_a_failure_has_its_id_and_its_traceback_as_a_field(self) -> None:
        request_id = self.request("odd/explode", "bad\nINFO all is well")
        line = self.line("A request failed unexpectedly")
        self._complaints.clear()
        self.assertEqual((line["request_id"], line["level"]), (request_id, "ERROR"))
        self.assertRegex(line["exception"], r"(?s)^Traceback .*ValueError: it was\nbad\nINFO all is well$")

    @slow
    def test_a_timeout_has_its_id(self) -> None:
        self._app.settings["staying"] = asyncio.Event()
        with mock.patch.object(config, "REQUEST_TIMEOUT", 0.01):
            request_id = self.request("odd/stay")
        self.assertEqual(self.line("took too long")["request_id"], request_id)
        self.assertEqual(self.line("504 odd.stay")["request_id"], request_id)

    def test_a_request_that_the_end_of_the_server_cut_off_has_its_id(self) -> None:
        staying = self._app.settings["staying"] = asyncio.Event()

        async def cut_off() -> str:
            answer = self.http_client.fetch(
                self.get_url("/odd/stay"), method="POST", body="", raise_error=False
            )
            await staying.wait()
            with mock.patch.object(config, "SHUTDOWN_TIMEOUT", 0):
                await drain(self._app)
            return (await answer).headers["X-Request-Id"]

        request_id = self.io_loop.run_sync(cut_off)
        self.assertEqual(self.line("is stopping")["request_id"], request_id)
        self.assertEqual(self.line("503 odd.stay")["request_id"], request_id)

    def test_a_request_whose_client_left_has_its_id(self) -> None:
        staying = self._app.settings["staying"] = asyncio.Event()

        async def leave() -> None:
            _, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(
                b"POST /odd/stay HTTP/1.1\r\nHost: a\r\nX-Request-Id: left\r\nContent-Length: 0\r\n\r\n"
            )
            await staying.wait()
            writer.close()
            while not self.lines:
                await asyncio.sleep(0.001)

        self.io_loop.run_sync(leave)
        self.assertEqual(self.line("499 odd.stay")["request_id"], "left")

    def test_requests_of_one_connection_have_their_own(self) -> None:
        self.talk(
            "POST /odd/tell HTTP/1.1\r\nHost: a\r\nX-Request-Id: one\r\nContent-Length: 0\r\n\r\n",
            "POST /odd/tell HTTP/1.1\r\nHost: a\r\nX-Request-Id: two\r\nContent-Length: 0\r\n\r\n",
            "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        )
        for message in ("in the action", "in the callback", "200 odd.tell"):
            found = [line["request_id"] for line in self.lines if message in line["message"]]
            self.assertEqual(found, ["one", "two"], message)
        plain = self.line("200 plain")["request_id"]
        self.assertEqual(self.line("in the plain one")["request_id"], plain)
        self.assertNotIn(plain, ("one", "two"))

    def test_a_plain_handler_of_tornados_has_its_id_too(self) -> None:
        self.fetch("/plain", headers={"X-Request-Id": "mine"})
        for message in ("in the plain one", "200 plain"):
            self.assertEqual(self.line(message)["request_id"], "mine")

    def test_a_connection_that_stays_open_keeps_no_handler(self) -> None:
        handlers: list[weakref.ref[IndicoHandler]] = []

        def note(handler: IndicoHandler) -> Any:
            handlers.append(weakref.ref(handler))
            return lambda: None

        self._app.hooks.around_request.append(note)

        async def ask() -> asyncio.StreamWriter:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(b"POST /odd/tell HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await reader.readuntil(b"true}")
            return writer

        async def hang_up() -> None:
            writer.close()
            await writer.wait_closed()

        writer = self.io_loop.run_sync(ask)
        gc.collect()
        self.assertEqual([handler() for handler in handlers], [None])
        self.io_loop.run_sync(hang_up)


class CommandTest(LogTest):
    level = logging.DEBUG

    def test_commands_are_lines_with_their_requests_id_and_nothing_of_documents(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        request_id = self.request("user/find", **HEADERS)
        finds = [line for line in self.lines if line.get("command") == "find"]
        mine = [line for line in finds if line.get("request_id") == request_id]
        self.assertEqual(len(mine), 2)  # the key's and the user's
        self.assertRegex(mine[0]["message"], r"^MongoDB's find took \d+\.\d ms$")
        self.assertGreater(mine[0]["duration_ms"], 0)
        self.assertEqual((mine[0]["level"], mine[0]["route"], mine[0]["action"]), ("DEBUG", "user", "find"))
        for content in (LOGIN_DATA["user"]["email"], USER_KEY, "Lovelace"):
            self.assertNotIn(content, self.stream.getvalue())

    def test_a_command_that_failed_is_a_line_too(self) -> None:
        request_id = self.request("odd/command", "noSuchCommand")
        self._complaints.clear()
        line = self.line("MongoDB's noSuchCommand failed after")
        self.assertEqual(line["request_id"], request_id)


class TextTest(StrictTest):
    def format(self, record: logging.LogRecord, coloured: bool = False) -> str:
        return formatters.TextFormatter(coloured).format(record)

    def record(self, message: str, level: int = logging.INFO, **changes: Any) -> logging.LogRecord:
        record = logging.LogRecord("indico", level, __file__, 1, message, (), None)
        vars(record).update(changes)
        return record

    def test_a_line_has_time_level_logger_message_id_and_user(self) -> None:
        line = self.format(self.record("200 user.find 1.2 ms", request_id="mine", user_id="facebook1"))
        self.assertRegex(
            line,
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} INFO    indico: 200 user.find 1.2 ms mine facebook1$",
        )

    def test_control_characters_are_escaped(self) -> None:
        line = self.format(self.record("one\ntwo\x1b[2J\u202e\ud800 é", user_id="a\nb"))
        self.assertTrue(line.endswith(r"indico: one\ntwo\x1b[2J\u202e\ud800 é a\nb"), line)

    def test_a_traceback_is_set_in_and_holds_no_control_characters(self) -> None:
        try:
            raise ValueError("bad\n2026-01-01 00:00:00 INFO fake \x1b[2J")
        except ValueError:
            text = self.format(self.record("failed", exc_info=sys.exc_info(), stack_info="Stack:\n  here"))
        first, *rest = text.split("\n")
        self.assertTrue(first.endswith("failed"))
        self.assertTrue(all(line.startswith("    ") for line in rest))
        self.assertIn(r"    2026-01-01 00:00:00 INFO fake \x1b[2J", rest)
        self.assertEqual(rest[-1], "      here")

    def test_colours_are_around_time_level_and_id_alone(self) -> None:
        line = self.format(self.record("bad", logging.ERROR, request_id="mine"), coloured=True)
        self.assertRegex(
            line, "^\033\\[2m.{23}\033\\[0m \033\\[31mERROR  \033\\[0m indico: bad \033\\[2mmine\033\\[0m$"
        )


class FormatTest(StrictTest):
    def choose(self, setting: str, terminal: bool) -> logging.Formatter:
        stream = mock.Mock(isatty=lambda: terminal)
        with mock.patch.object(config, "LOG_FORMAT", setting):
            return formatters.make_formatter(stream)

    def test_a_terminal_gets_text_and_all_else_json_unless_told_otherwise(self) -> None:
        self.assertIsInstance(self.choose("auto", terminal=True), formatters.TextFormatter)
        self.assertIsInstance(self.choose("auto", terminal=False), formatters.JSONFormatter)
        self.assertIsInstance(self.choose("json", terminal=True), formatters.JSONFormatter)
        self.assertIsInstance(self.choose("text", terminal=False), formatters.TextFormatter)


class ProcessLogTest(ProcessTest):
    @slow
    @linux
    def test_every_line_to_a_file_is_a_json_object_also_the_parents(self) -> None:
        process = self.start(WORKERS="2", LOG_LEVEL="DEBUG")
        process.post("auth/login", LOGIN_DATA)
        process.wait_for("200 auth.login")
        os.kill(max(set(processes_in(self.folder)) - {process.pid}), signal.SIGKILL)
        process.wait_for("died; another takes its place")
        self.assertEqual(process.stop(), 0)
        lines = [json.loads(line) for line in process.output.splitlines() if line.startswith("{")]
        others = [line for line in process.output.splitlines() if not line.startswith("{")]
        self.assertRegex("\n".join(others), r"\Aindico listens on \S+\n(  .*\n)+Log in with\n  curl .*\Z")
        self.assertTrue(all({"time", "level", "logger", "message"} <= set(line) for line in lines))

    @slow
    def test_a_terminal_gets_colours(self) -> None:
        terminal, inner = pty.openpty()
        self.addCleanup(os.close, terminal)
        self.addCleanup(os.close, inner)
        script = (
            "import os, sys\n"
            f"os.dup2(os.open({os.ttyname(inner)!r}, os.O_RDWR | os.O_NOCTTY), 2)\n"
            "from indico import server\n"
            "server.main(debug=False, port=0)\n"
        )
        process = self.start(script=script)
        process.post("auth/check")
        line = os.read(terminal, 10_000).decode().splitlines()[-1]
        self.assertRegex(
            line, "\033\\[32mINFO   \033\\[0m indico: 401 auth.check .* ms \033\\[2m[0-9a-f]{32}\033\\[0m$"
        )
        self.assertEqual(process.stop(), 0)

    @slow
    def test_log_level_says_from_where_on(self) -> None:
        process = self.start(LOG_LEVEL="WARNING")
        process.post("auth/check")
        self.assertEqual(process.stop(signal.SIGTERM), 0)
        self.assertNotIn("auth.check", process.output)
