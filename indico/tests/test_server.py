"""
How the server starts and stops, as a process: what it says, what it refuses, and what becomes of requests.
"""

from __future__ import annotations

import errno
import http.client
import io
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from pymongo import MongoClient
from tornado.routing import AnyMatches, Rule
from tornado.testing import AsyncTestCase, bind_unused_port, gen_test
from tornado.web import RequestHandler

import indico
from indico import config, db, server
from indico.core import lifecycle, serving
from indico.core.hooks import Application
from indico.core.mongo.mongod import Mongod
from indico.core.welcome import print_welcome
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserHandler
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import (
    Answer,
    ProcessTest,
    ServerProcess,
    linux,
    make_environment,
    processes_in,
    run_main,
    wait_until,
)
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import LOGGER, unpack
from indico.utils.auth.auth_utils import auth

PRODUCTION = {
    "INDICO_ENV": "production",
    "USER_SALT": "a salt of production",
    "DEV_TOKEN": "",
    "ADDRESS": "127.0.0.1",
}

# A server that waits long for connections to end.
PATIENT_SERVER = """
from indico import server
from indico.core.http import limits
limits.LAST_REQUEST_SECONDS = 30
server.main(debug=False, port=0)
"""
# A server with an action that takes until it is let go by a file, and one that never ends.
SLOW_SERVER = """
import asyncio, os
from indico import server
from indico.routes.handler import IndicoHandler

class SlowHandler(IndicoHandler):
    async def wait(self, data):
        print("waiting", flush=True)
        while not os.path.exists("go"):
            await asyncio.sleep(0.01)
        return "done"

    async def stay(self, data):
        print("staying", flush=True)
        await asyncio.Event().wait()

server.ROUTES.append((r"/slow/(?P<action>[a-zA-Z]+)?", SlowHandler))
server.main(debug=False, port=0)
"""


class ApplicationTest(StrictTest):
    def test_each_battery_is_installed_once(self) -> None:
        installed: list[Application] = []
        battery = SimpleNamespace(install=installed.append)
        with (
            mock.patch.object(server, "BATTERIES", ["the.battery"]),
            mock.patch.dict(sys.modules, {"the.battery": battery}),
        ):
            application = server.make_app()
        self.assertEqual(installed, [application])


class ServingTest(StrictTest):
    def test_python_runs_the_command_line(self) -> None:
        with self.assertRaises(SystemExit) as raised:
            run_main(server, "--version")
        self.assertEqual(raised.exception.code, 0)

    def test_it_serves_the_application_on_the_port(self) -> None:
        with mock.patch.object(server, "run_server") as run:
            server.main(debug=False, port=5001)
        make_app, debug, port = run.call_args.args
        self.assertEqual((debug, port), (False, 5001))
        self.assertIsInstance(make_app(), Application)


class BareTest(ServerTest):
    """Without batteries."""

    routes = [AuthRoute]

    def get_app(self) -> Application:
        with mock.patch.object(server, "BATTERIES", []):
            return super().get_app()

    def test_each_request_is_a_line_in_the_log(self) -> None:
        with self.assertLogs("indico", logging.INFO) as logged:
            self.post("auth/check", {})
        self.assertRegex(logged.output[0], r"^INFO:indico:401 auth\.check \d+\.\d ms$")

    def test_above_its_level_there_is_none(self) -> None:
        with self.assertLogs("indico", logging.WARNING) as logged:
            self.post("auth/check", {})
            LOGGER.warning("nothing else")
        self.assertEqual(logged.output, ["WARNING:indico:nothing else"])


class StartTest(ProcessTest):
    @slow
    def test_it_says_where_what_is_and_how_to_log_in(self) -> None:
        process = self.start(
            script="from indico import server\n"
            "def install(application):\n"
            "    application.hooks.welcome_pages.update({'a page of ours': '/ours', 'page': '/page'})\n"
            "server.BATTERIES = ['__main__']\n"
            "server.main(debug=False, port=0)\n",
        )
        self.assertEqual(
            process.output,
            f"indico listens on {process.url}\n"
            f"  database        {db.describe()}\n"
            f"  a page of ours  {process.url}/ours\n"
            f"  page            {process.url}/page\n"
            f"  open actions    auth.login\n"
            "Log in with\n"
            f"  curl {process.url}/auth/login -d"
            """ '{"access_token": "the token of tests", "oauth_id": "1", "user": {"name": "Ada"}}'\n""",
        )
        self.assertRegex(process.url, "^http://127.0.0.1:[1-9][0-9]+$")

    def test_in_production_the_start_is_a_line_of_the_log(self) -> None:
        with (
            mock.patch.object(config, "PRODUCTION", True),
            redirect_stdout(io.StringIO()) as output,
            self.assertLogs("indico", "INFO") as logged,
        ):
            print_welcome(Application(database=db), 80)
        self.assertEqual(logged.output, ["INFO:indico:indico listens on http://127.0.0.1:80"])
        self.assertEqual(output.getvalue(), "")

    def test_in_development_the_actions_that_need_no_key_are_named(self) -> None:
        class TeaHandler(IndicoHandler):
            @unpack("a")
            def open(self, a: Any) -> None: ...

            @auth
            @unpack("a")
            def closed(self, a: Any) -> None: ...

        application = Application(
            [(r"/tea/(?P<action>[a-zA-Z]+)?", TeaHandler), ("/a", RequestHandler)], database=db
        )
        application.add_handlers(".*", [AuthRoute, Rule(AnyMatches(), UserHandler)])
        with redirect_stdout(io.StringIO()) as output:
            print_welcome(application, 80)
        self.assertIn("\n  open actions  tea.open, auth.login\n", output.getvalue())

    def test_the_welcome_is_one_write(self) -> None:
        application = Application(database=db)
        application.hooks.welcome_pages["page"] = "/page"
        with mock.patch("sys.stdout") as output:
            print_welcome(application, 80)
        texts = [call.args[0] for call in output.write.call_args_list]
        self.assertEqual("".join(texts[1:]), "\n")
        self.assertIn("page          http://127.0.0.1:80/page\n  open actions  none\nLog in with\n", texts[0])

    @slow
    def test_the_login_that_it_prints_works_as_printed(self) -> None:
        process = self.start(DEV_TOKEN="""a 'token' "of" $tests \\ é""")
        command = process.output.splitlines()[-1]
        answer = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
        self.assertRegex(answer, '^{"status":200,"data":{"user":{.*"indico_key":"[0-9a-f]{56}"}}$')

    @slow
    def test_without_salt_and_token_it_makes_and_keeps_them(self) -> None:
        first = self.start(USER_SALT="", DEV_TOKEN="")
        token = (self.folder / ".indico" / "dev_token").read_text()
        self.assertIn(f'"access_token": "{token}"', first.output)
        key = first.post("auth/login", {**LOGIN_DATA, "access_token": token})["data"]["indico_key"]
        first.stop()
        second = self.start(USER_SALT="", DEV_TOKEN="")
        self.assertIn(f'"access_token": "{token}"', second.output)
        self.assertEqual(second.post("auth/check", None, {"indico_key": key})["status"], 200)

    @slow
    def test_with_salt_and_token_it_makes_no_folder(self) -> None:
        self.start()
        self.assertEqual(os.listdir(self.folder), [])

    @slow
    def test_the_address_of_ipv6_stands_in_brackets(self) -> None:
        with socket.socket(socket.AF_INET6) as probe:
            try:
                probe.bind(("::1", 0))
            except OSError:
                self.skipTest("no IPv6 here")
        process = self.start(ADDRESS="::1")
        self.assertRegex(process.url, r"^http://\[::1\]:[1-9][0-9]+$")
        self.assertEqual(process.post("auth/check")["status"], 401)

    @slow
    def test_the_command_line_goes_before_the_environment(self) -> None:
        process = self.start("--address", "localhost", "--workers", "1", ADDRESS="127.0.0.1", WORKERS="none")
        self.assertRegex(process.url, "^http://localhost:[1-9][0-9]+$")

    @slow
    def test_requests_are_logged_without_path_and_key(self) -> None:
        process = self.start()
        process.post("auth/login", LOGIN_DATA)
        process.post("auth/check")
        process.post("auth/secret")
        process.wait_for(" ms", 3)
        self.assertRegex(process.output, r"\b200 auth\.check \d+\.\d ms\b")
        self.assertRegex(process.output, r"\b404 auth \d+\.\d ms\b")
        self.assertNotIn(USER_KEY, process.output)
        self.assertNotIn("secret", process.output)

    @slow
    def test_after_a_change_that_can_not_be_imported_it_waits_for_the_next(self) -> None:
        greeting = self.folder / "greeting.py"
        greeting.write_text("TEXT = 'hello'\n")
        process = self.start(
            script="import greeting\nfrom indico import server\nprint(greeting.TEXT, flush=True)\n"
            "server.main(port=0)\n"
        )
        for number, (broken, shown) in enumerate(
            (
                ("TEXT = 'hello'\ndef (\n", "SyntaxError: "),
                ("import nowhere\n", "No module named 'nowhere'"),
                ("", "has no attribute 'TEXT'"),
                (
                    "from indico import config\nconfig.override(WORKERS='x')\nTEXT = ''\n",
                    "\nWORKERS should be",
                ),
            ),
            1,
        ):
            with self.subTest(shown):

                def save(text: str = broken) -> bool:
                    greeting.write_text(text)  # a change counts once the watching has begun
                    time.sleep(0.1)
                    return process.output.count("modified; restarting") == number  # noqa: B023

                wait_until(save, "a restart")
                process.wait_for("waits for the next change", number)
                self.assertIn(shown, process.output)
                greeting.write_text("TEXT = 'repaired'\n")
                process.wait_for("indico listens on", number + 1)
                self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(process.stop(), 0)

    @slow
    def test_a_change_of_a_source_file_starts_it_again_in_the_same_process(self) -> None:
        (self.folder / "greeting.py").write_text("TEXT = 'hello'\n")
        process = self.start(
            script="import greeting\nfrom indico import server\nprint(greeting.TEXT, flush=True)\n"
            "server.main(port=0)\n"
        )
        pid = process.pid

        (self.folder / "greeting.py").write_text("TEXT = 'hello again'\n")

        def touch() -> bool:
            os.utime(self.folder / "greeting.py")  # a change counts once the watching has begun
            return process.output.count("indico listens on") == 2

        wait_until(touch, "another start")
        self.assertIn("hello again\n", process.output)
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(process.pid, pid)
        self.assertEqual(process.stop(), 0)


class HelpTest(StrictTest):
    @slow
    def test_help_names_what_can_be_overridden_in_80_columns_and_no_value(self) -> None:
        environment = make_environment({"MONGODB": "mongodb://ada:secret@localhost", "COLUMNS": "80"})
        command = [sys.executable, "-m", "indico.server", "--help"]
        text = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        self.assertLessEqual(max(map(len, text.splitlines())), 80)
        for option in ("--port PORT", "--address ADDRESS", "--workers WORKERS"):
            self.assertIn(option, text)
        self.assertNotIn("secret", text)

    @slow
    def test_version_names_what_matters(self) -> None:
        command = [sys.executable, "-m", "indico.server", "--version"]
        text = subprocess.run(command, env=make_environment({}), capture_output=True, text=True, check=True)
        self.assertRegex(text.stdout, rf"^indico {indico.__version__}, Tornado [0-9.]+, PyMongo [0-9.]+\n$")


class PythonTest(StrictTest):
    """A Python that can't run the server."""

    def assert_refuses(self, sentence: str, *command: str) -> None:
        result = subprocess.run(
            command, env=make_environment({}), capture_output=True, text=True, check=False
        )
        self.assertEqual((result.returncode, result.stdout, result.stderr), (1, "", sentence + "\n"))

    @slow
    def test_the_oldest_can_read_the_sentence(self) -> None:
        versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
        found = [
            path for path in versions.glob("*/bin/python") if re.match("2|3[.]([6-9]|10)[.]", path.parts[-3])
        ]
        if not found:
            self.skipTest("no old Python here")
        for path in found:
            with self.subTest(path):
                version = path.parts[-3]
                sentence = f"indico needs Python 3.11 or later, but this is Python {version}."
                self.assert_refuses(sentence, str(path), "-B", "-m", "indico.server")


class MainTest(DatabaseTest):
    """`main` in this process. It ends by `sys.exit` with a sentence: Python writes it, and exits with 1."""

    def exit_main(self, port: int = 0, **settings: Any) -> Any:
        """What `main` exits with, when these settings are so."""
        with mock.patch.multiple(config, **settings), self.assertRaises(SystemExit) as raised:
            server.main(debug=False, port=port)
        return raised.exception.code

    def test_a_taken_port_is_one_sentence_with_another_port(self) -> None:
        taken = OSError(errno.EADDRINUSE, "Address already in use")
        with mock.patch.object(serving, "listen", side_effect=taken):
            self.assertEqual(
                self.exit_main(5000, ADDRESS="127.0.0.1"),
                "ADDRESS 127.0.0.1 and PORT 5000 can't be used: Address already in use.\n"
                "Stop what listens there, or use another port: --port 5001.",
            )

    def test_an_address_of_another_machine_is_one_sentence(self) -> None:
        strange = OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        with mock.patch.object(serving, "listen", side_effect=strange):
            self.assertEqual(
                self.exit_main(ADDRESS="192.0.2.1"),
                "ADDRESS 192.0.2.1 and PORT 0 can't be used: Cannot assign requested address.",
            )

    def test_a_mongodb_that_can_not_be_read_is_one_sentence_without_its_password(self) -> None:
        sentence = self.exit_main(MONGODB="mongodb://ada:secret@localhost:port")
        self.assertRegex(sentence, r"\AMONGODB can't be used: .+\Z")
        self.assertNotIn("secret", sentence)

    def test_ctrl_c_while_it_starts_ends_it_with_a_shells_status_for_it(self) -> None:
        with mock.patch.object(serving, "listen", side_effect=KeyboardInterrupt):
            self.assertEqual(self.exit_main(ADDRESS="127.0.0.1"), 130)


class LifespanTest(DatabaseTest, AsyncTestCase):
    async def live(self, **settings: Any) -> None:
        with mock.patch.multiple(config, **settings):
            async with lifecycle.lifespan(server.make_app()):
                self.token = config.DEV_TOKEN

    @gen_test
    async def test_a_variable_that_looks_like_a_setting_is_named_once(self) -> None:
        with (
            mock.patch.object(config.environment, "find_misspelt", return_value=["PORTS is no setting."]),
            self.assertLogs("indico", logging.WARNING) as logged,
        ):
            for worker in (None, 0, 1):
                application = Application(database=db)
                application.state.worker = worker
                async with lifecycle.lifespan(application):
                    LOGGER.warning("%s serves", worker)
        named = "WARNING:indico:PORTS is no setting."
        served = [f"WARNING:indico:{worker} serves" for worker in (None, 0, 1)]
        self.assertEqual(logged.output, [named, served[0], named, *served[1:]])

    @gen_test
    async def test_in_development_without_a_token_one_is_made(self) -> None:
        with mock.patch.object(lifecycle, "get_secret", return_value="one of its own") as made:
            await self.live(DEV_TOKEN="")
        self.assertEqual(self.token, "one of its own")
        made.assert_called_once_with("dev_token")

    @gen_test
    async def test_in_production_without_facebook_credentials_it_says_so(self) -> None:
        with self.assertLogs("indico", logging.WARNING) as logged:
            await self.live(PRODUCTION=True, DEV_TOKEN="", FACEBOOK_APP_ID="", FACEBOOK_APP_SECRET="")
        self.assertIn(
            "FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set: logins with Facebook answer 503",
            [record.getMessage() for record in logged.records],
        )


class RefusalTest(ProcessTest):
    """What prevents the start is a sentence and status 1."""

    @slow
    def test_a_taken_port_is_one_sentence_and_status_1(self) -> None:
        taken, port = bind_unused_port()
        self.addCleanup(taken.close)
        self.assert_refuses(
            f"ADDRESS 127.0.0.1 and PORT {port} can't be used: Address already in use.\n"
            f"Stop what listens there, or use another port: --port {port + 1}.",
            PORT=str(port),
        )

    @slow
    def test_a_variable_that_looks_like_a_setting_is_named(self) -> None:
        process = self.start(MONGODB_URL="mongodb://ada:secret@localhost", PORTS="80")
        self.assertIn("MONGODB_URL is no setting; MONGODB is.", process.output)
        self.assertIn("PORTS is no setting; PORT is.", process.output)
        self.assertEqual(process.stop(), 0)
        self.assertNotIn("secret", process.output)

    @slow
    def test_an_address_of_another_machine_is_one_sentence_and_status_1(self) -> None:
        self.assert_refuses(
            "ADDRESS 192.0.2.1 and PORT 0 can't be used: Cannot assign requested address.",
            ADDRESS="192.0.2.1",
        )

    @slow
    def test_an_address_that_is_none_is_one_sentence_and_status_1(self) -> None:
        self.assert_refuses(
            "ADDRESS a..b and PORT 0 can't be used: no host can have such a name.", ADDRESS="a..b"
        )

    @slow
    def test_a_value_that_makes_no_sense_is_one_sentence_and_status_1(self) -> None:
        self.assert_refuses(
            "WORKERS should be a whole number from 1 to 512, but is 'many'.", "--workers", "many"
        )

    @slow
    def test_bytes_that_are_no_utf_8_are_one_sentence_and_status_1(self) -> None:
        self.assert_refuses("USER_SALT should be UTF-8.", USER_SALT=os.fsdecode(b"\xff"))

    @slow
    def test_production_without_salt_and_with_dev_token_is_a_sentence_each(self) -> None:
        self.assert_refuses(
            "USER_SALT should be a secret of at least 16 characters in production.\n"
            "DEV_TOKEN can log in as any user: unset it in production.",
            INDICO_ENV="production",
            USER_SALT="",
        )

    @slow
    def test_a_mongodb_that_is_no_uri_is_one_sentence_without_its_password(self) -> None:
        self.assert_refuses(
            "MONGODB should begin with mongodb:// or mongodb+srv://.", MONGODB="ada:secret@localhost"
        )

    @slow
    def test_with_workers_it_is_the_same_sentence(self) -> None:
        process = self.launch(MONGODB="mongodb://ada:secret@localhost:port", WORKERS="2")
        self.assertEqual(process.wait(), 1)
        self.assertRegex(process.output, r"\AMONGODB can't be used: .+\n\Z")
        self.assertNotIn("secret", process.output)


class MisspeltTest(ProcessTest):
    @slow
    def test_each_variable_that_looks_like_a_setting_is_named_once_at_start(self) -> None:
        for workers in ("1", "2"):
            process = self.start(INDICO_PROT="1", INDICO_LOG_LEVL="debug", WORKERS=workers)
            self.assertEqual(process.stop(), 0)
            for name in ("INDICO_PROT", "INDICO_LOG_LEVL"):
                self.assertEqual(process.output.count(f"{name} is no setting"), 1, process.output)


class ProductionTest(ProcessTest):
    @slow
    def test_without_facebook_credentials_it_says_so_and_a_login_answers_503(self) -> None:
        process = self.start(**PRODUCTION)
        self.assertIn(
            "FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set: logins with Facebook answer 503",
            process.output,
        )
        answer = process.fetch("auth/login", {**LOGIN_DATA, "access_token": "token"})
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))
        self.assertEqual(process.stop(), 0)

    @slow
    def test_it_prints_no_login_and_makes_no_folder(self) -> None:
        secrets = {"FACEBOOK_APP_SECRET": "secret of the app", "METRICS_TOKEN": "secret of the metrics"}
        process = self.start(**PRODUCTION, FACEBOOK_APP_ID="1", **secrets)
        record = [json.loads(line) for line in process.output.splitlines()][-1]  # all are records
        self.assertEqual((record["level"], record["message"]), ("INFO", f"indico listens on {process.url}"))
        self.assertEqual(os.listdir(self.folder), [])

    @slow
    def test_it_listens_on_all_interfaces(self) -> None:
        process = self.start(**{**PRODUCTION, "ADDRESS": ""})
        self.assertEqual(process.url, f"http://127.0.0.1:{process.port}")
        if sys.platform == "linux":  # where all of 127/8 is this machine
            with socket.create_connection(("127.1.2.3", process.port), timeout=5):
                pass


class AwayTest(ProcessTest):
    """Without a MongoDB, which comes later."""

    def setUp(self) -> None:
        super().setUp()
        probe, self.mongodb_port = bind_unused_port()
        probe.close()
        self.uri = f"mongodb://ada:secret@127.0.0.1:{self.mongodb_port}"

    @slow
    def test_it_starts_and_says_so_and_what_needs_mongodb_answers_503_in_time(self) -> None:
        process = self.start(MONGODB=self.uri, MONGODB_TIMEOUT="0.2")
        process.wait_for("This is tried again until it succeeds")
        started = time.monotonic()
        answer = process.fetch("auth/check")
        self.assertLess(time.monotonic() - started, 0.2 + 1)
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))
        self.assertRegex(answer.data, "^The database .+")
        self.assertNotIn("secret", process.output)

    @slow
    def test_while_the_start_waits_for_mongodb_it_says_so(self) -> None:
        process = self.launch(MONGODB=self.uri, MONGODB_TIMEOUT="5")
        process.wait_for("Waiting for MongoDB ...")
        self.assertNotIn("listens on", process.output)
        process.wait_ready()

    @slow
    def test_it_says_so_once_however_long_it_lasts(self) -> None:
        process = self.start(
            script="from indico import db, server\n"
            "attempt = db.ensure_indexes\n"
            "async def ensure_indexes():\n"
            "    try:\n"
            "        await attempt()\n"
            "    finally:\n"
            "        print('an attempt', flush=True)\n"
            "db.ensure_indexes = ensure_indexes\n"
            "server.main(debug=False, port=0)\n",
            MONGODB=self.uri,
            MONGODB_TIMEOUT="0.05",
        )
        process.wait_for("an attempt", 2)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(process.output.count("This is tried again until it succeeds"), 1)

    @slow
    def test_it_serves_and_makes_the_indexes_when_mongodb_comes(self) -> None:
        uri = f"mongodb://127.0.0.1:{self.mongodb_port}"
        process = self.start(MONGODB=uri, MONGODB_TIMEOUT="0.5")
        process.wait_for("This is tried again until it succeeds")
        self.assertEqual(process.fetch("auth/check").status, 503)
        data = self.folder / "data"
        data.mkdir()
        mongod = Mongod(data, self.mongodb_port)
        self.addCleanup(mongod.stop)
        mongod.start()
        wait_until(lambda: process.fetch("auth/check").status == 401, "an answer", patience=2)
        client: MongoClient[dict[str, Any]] = MongoClient(uri)
        self.addCleanup(client.close)
        database = client[self.database.name]
        for collection, index in (("auth", "key_1"), ("user", "user_id_1")):
            wait_until(
                lambda: index in database[collection].index_information(),  # noqa: B023
                f"the index {index} of {collection}",
                patience=2,
            )
            self.assertTrue(database[collection].index_information()[index]["unique"])
        self.assertEqual(process.stop(), 0)


def is_refused(port: int) -> bool:
    """Whether nobody listens there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # the listening ended while this waited in its queue
        pass
    return False


class StopTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        self.pool = ThreadPoolExecutor(4)
        self.addCleanup(self.pool.shutdown)

    def request(self, process: ServerProcess, route: str, said: str) -> Future[Answer]:
        """A request that is in flight when this returns."""
        answer = self.pool.submit(process.fetch, route)
        process.wait_for(said)
        return answer

    def assert_refused(self, process: ServerProcess) -> None:
        """Nobody listens there any more."""
        wait_until(lambda: is_refused(process.port), "the end of listening")

    @slow
    def test_sigterm_ends_it_with_status_0(self) -> None:
        process = self.start()
        self.assertEqual(process.stop(signal.SIGTERM), 0)
        self.assert_refused(process)

    @slow
    def test_sigint_ends_it_with_status_0(self) -> None:
        process = self.start()
        self.assertEqual(process.stop(signal.SIGINT), 0)
        self.assertNotIn("Traceback", process.output)

    @slow
    def test_an_idle_connection_does_not_hold_it_up(self) -> None:
        process = self.start(SHUTDOWN_TIMEOUT="3600")
        idle = http.client.HTTPConnection("127.0.0.1", process.port, timeout=5)
        self.addCleanup(idle.close)
        idle.request("POST", "/auth/check")
        self.assertEqual(json.loads(idle.getresponse().read())["status"], 401)
        self.assertEqual(process.stop(), 0)

    @slow
    def test_a_request_in_flight_is_answered_and_no_other_is_taken(self) -> None:
        process = self.start(script=SLOW_SERVER)
        answer = self.request(process, "slow/wait", "waiting")
        process.send(signal.SIGTERM)
        self.assert_refused(process)
        (self.folder / "go").touch()
        self.assertEqual(answer.result().data, "done")
        self.assertEqual(process.wait(), 0)

    @slow
    def test_while_it_waits_for_a_request_in_flight_it_says_so_and_how_to_stop_at_once(self) -> None:
        process = self.start(script=SLOW_SERVER)
        answer = self.request(process, "slow/wait", "waiting")
        process.send(signal.SIGINT)
        process.wait_for("Waiting for requests and jobs in flight; a second signal ends them at once ...")
        (self.folder / "go").touch()
        self.assertEqual((answer.result().data, process.wait()), ("done", 0))

    @slow
    def test_a_connection_that_is_open_may_bring_one_more_request(self) -> None:
        process = self.start(script=PATIENT_SERVER)
        process.post("auth/login", LOGIN_DATA)
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=30)
        self.addCleanup(connection.close)
        self.assertIsNone(self.check(connection).headers["Connection"])
        process.send(signal.SIGTERM)
        self.assert_refused(process)
        self.assertEqual(self.check(connection).headers["Connection"], "close")
        self.assertEqual(process.wait(), 0)

    def check(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        connection.request("POST", "/auth/check", headers=HEADERS)
        response = connection.getresponse()
        self.assertEqual(response.read(), b'{"status":200,"data":true}')
        return response

    @slow
    def test_a_request_that_outlives_shutdown_timeout_is_answered_503(self) -> None:
        process = self.start(script=SLOW_SERVER, SHUTDOWN_TIMEOUT="0.1")
        answer = self.request(process, "slow/stay", "staying")
        self.assertEqual(process.stop(), 0)
        self.assertEqual((answer.result().status, answer.result().data), (503, "The server is stopping"))
        self.assertEqual(answer.result().headers["Retry-After"], "1")

    @slow
    def test_ctrl_c_while_it_starts_ends_it_without_a_traceback(self) -> None:
        process = self.launch(
            script="from indico import server\n"
            "from indico.core import serving\n"
            "def interrupt(*_):\n"
            "    raise KeyboardInterrupt\n"
            "serving.listen = interrupt\n"
            "server.main(debug=False, port=0)\n"
        )
        self.assertEqual((process.wait(), process.output), (130, ""))

    @slow
    def test_a_second_signal_ends_it_at_once(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(signal=number):
                process = self.start(script=SLOW_SERVER, SHUTDOWN_TIMEOUT="3600")
                answer = self.request(process, "slow/stay", "staying")
                process.send(signal.SIGTERM)
                self.assert_refused(process)
                self.assertEqual(process.stop(number), -number)
                self.assertRaises(OSError, answer.result)


class WorkersTest(ProcessTest):
    """Two workers, which are told apart by the action `pid`."""

    script = """
import os
from indico import server
from indico.routes.handler import IndicoHandler

class WorkerHandler(IndicoHandler):
    def pid(self, data):
        return os.getpid()

server.ROUTES.append((r"/worker/(?P<action>[a-zA-Z]+)?", WorkerHandler))
"""

    def start_two(self) -> ServerProcess:
        process = self.start(script=self.script + SLOW_SERVER, WORKERS="2")
        self.find_workers(process)
        return process

    def find_workers(self, process: ServerProcess) -> set[int]:
        """The two workers, by their answers."""
        found: set[int] = set()

        def ask() -> bool:
            found.add(process.post("worker/pid")["data"])
            return len(found) == 2

        wait_until(ask, "answers from two workers")
        return found

    @slow
    def test_both_serve_and_sigterm_ends_all_with_status_0(self) -> None:
        process = self.start_two()
        self.assertNotIn(process.pid, self.find_workers(process))
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(process.output.count("indico listens on"), 1)
        self.assertEqual(process.stop(), 0)
        self.assertEqual(processes_in(self.folder), [])
        self.assertNotIn("Traceback", process.output)

    @slow
    def test_told_to_stop_they_listen_no_more_though_one_goes_on_working(self) -> None:
        process = self.start_two()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(process.fetch, "slow/wait")
            process.wait_for("waiting")
            process.send(signal.SIGTERM)
            wait_until(lambda: is_refused(process.port), "the end of listening")
            (self.folder / "go").touch()
            self.assertEqual(answer.result().data, "done")
        self.assertEqual(process.wait(), 0)

    @slow
    def test_ctrl_c_which_reaches_all_lets_requests_in_flight_finish(self) -> None:
        process = self.start_two()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(process.fetch, "slow/wait")
            process.wait_for("waiting")
            os.killpg(process.pid, signal.SIGINT)
            wait_until(lambda: len(processes_in(self.folder)) == 2, "the end of the idle worker")
            (self.folder / "go").touch()
            self.assertEqual(answer.result().data, "done")
        self.assertEqual(process.wait(), 0)

    @slow
    def test_a_worker_that_is_killed_is_replaced_and_service_goes_on(self) -> None:
        process = self.start_two()
        killed = self.find_workers(process).pop()
        os.kill(killed, signal.SIGKILL)
        process.wait_for("died; another takes its place")
        self.assertEqual(process.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertNotIn(killed, self.find_workers(process))
        self.assertEqual(process.stop(), 0)

    @slow
    @linux
    def test_kill_9_of_the_parent_takes_the_workers_down(self) -> None:
        process = self.start_two()
        process.stop(signal.SIGKILL)
        wait_until(lambda: not processes_in(self.folder), "the end of the workers")

    @slow
    def test_workers_that_die_at_once_stop_the_parent_with_a_sentence_and_status_1(self) -> None:
        process = self.launch(
            script="from indico import server\n"
            "from indico.core import serving\n"
            "async def fail(*sockets, **options):\n"
            "    raise OSError('no more memory')\n"
            "serving.serve = fail\n"
            "server.main(debug=False, port=0)\n",
            WORKERS="2",
        )
        self.assertEqual(process.wait(), 1)
        self.assertTrue(
            process.output.endswith("The workers die as fast as they are started; the log says why.\n")
        )


@slow
class ServerProcessTest(ProcessTest):
    def test_what_the_server_left_running_ends_with_its_folder(self) -> None:
        with ServerProcess(WORKERS="2") as process:
            folder = process.folder
            self.assertGreaterEqual(len(processes_in(folder)), 1)
        self.assertFalse(folder.exists())
        self.assertEqual(processes_in(folder), [])

    def test_a_server_that_does_not_start_fails_the_block_with_its_output(self) -> None:
        with self.assertRaisesRegex(AssertionError, "PORT should be"), ServerProcess(PORT="http"):
            self.fail("it started")
