"""
The shell at a terminal, with IPython and without, and as what runs a script.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import chdir, redirect_stdout
from io import StringIO
from unittest import mock

from tornado.testing import bind_unused_port

from indico import config
from indico.core.commands import shell
from indico.tests.test_docs import needs_docs
from indico.tests.testutils import slow
from indico.tests.testutils.pages import read_blocks
from indico.tests.testutils.process import (
    PATIENCE,
    ProcessTest,
    make_environment,
    processes_in,
    wait_until,
)

COMMAND = [sys.executable, "-m", "indico.shell"]
PLAIN = [
    sys.executable,
    "-c",
    "import sys; sys.modules['IPython'] = None; import indico.shell as s; s.main()",
]
FAKE_IPYTHON = """
def start_ipython(argv, user_ns, config):
    options = config["TerminalInteractiveShell"]
    user = options["loop_runner"](user_ns["UserDB"].find_user("nobody"))
    print(options["banner1"] + ", ".join(user_ns) + f": {user}")
"""


class ScriptTest(ProcessTest):
    """What is piped into it."""

    def run_script(self, source: str, **settings: str) -> tuple[int, str, str]:
        return self.run_python("-m", "indico.shell", source=source, **settings)

    @slow
    def test_it_awaits_at_the_top_level_and_shows_values(self) -> None:
        self.database.user.insert_one({"user_id": "facebook1", "name": "Ada"})
        source = (
            "user = await UserDB.find_user('facebook1')\n"
            "user['name']\n"
            "for number in range(2):\n"
            "    await asyncio.sleep(0)\n"
            "    print(number)\n"
            "async for user in db.mongodb.user.find():\n"
            "    print(user['user_id'])\n"
            "answered = asyncio.get_running_loop().create_future()\n"
            "UserDB.find_user('nobody', lambda *answer: answered.set_result(answer))\n"
            "await answered\n"
            "config.MONGODB_DATABASE\n"
            "left = asyncio.create_task(asyncio.sleep(1000))\n"
        )
        output = f"'Ada'\n0\n1\nfacebook1\n(None, None)\n'{self.database.name}'\n"
        status, written, complaints = self.run_script(source)
        self.assertEqual((status, complaints), (0, ""))
        self.assertEqual(written, output)

    @slow
    def test_the_session_of_the_guide_runs_as_printed(self) -> None:
        needs_docs(self)
        self.database.user.insert_one({"user_id": "facebook1", "name": "Ada", "location": "London"})
        lines = read_blocks("scripts.rst", "pycon")[0].code.splitlines()
        source = "\n".join(line[4:] for line in lines if line.startswith(">>> "))
        output = "".join(line + "\n" for line in lines if not line.startswith(">>> "))
        self.assertEqual(self.run_script(source), (0, output, ""))

    @slow
    def test_it_ends_at_the_first_error_with_its_traceback_and_status_1(self) -> None:
        source = (
            "def fail():\n    raise ValueError('oops')\n\n"
            "print(1)\nawait asyncio.sleep(0); fail()\nprint(2)\n"
        )
        status, written, complaints = self.run_script(source)
        self.assertEqual((status, written), (1, "1\n"))
        self.assertEqual(
            re.sub(r"\n    .*", "", complaints),  # newer Pythons show the lines themselves
            "Traceback (most recent call last):\n"
            '  File "<console>", line 5, in <module>\n'
            '  File "<console>", line 2, in fail\n'
            "ValueError: oops\n",
        )

    def run_here(self, source: str) -> tuple[str, str]:
        """Run a script in this process. Return what it prints, and the message at its end."""
        with (
            chdir(self.folder),
            mock.patch.object(sys, "stdin", StringIO(source)),
            redirect_stdout(StringIO()) as output,
        ):
            try:
                shell.main([])
            except SystemExit as end:
                return output.getvalue(), str(end.code)
        return output.getvalue(), ""

    def test_it_runs_to_its_end(self) -> None:
        source = "for number in range(2):\n    await asyncio.sleep(0)\n    print(number)\n'Ada'\n"
        self.assertEqual(self.run_here(source), ("0\n1\n'Ada'\n", ""))

    def test_what_is_no_python_is_named_and_nothing_runs(self) -> None:
        written, complaint = self.run_here("print(1)\nprint(\n")
        self.assertEqual(written, "")
        self.assertIn("SyntaxError", complaint)

    @slow
    def test_it_exits_with_the_status_that_it_is_told(self) -> None:
        self.assertEqual(self.run_script("exit(3)\n"), (3, "", ""))

    def test_settings_that_make_no_sense_are_a_sentence(self) -> None:
        sentence = "PORT should be a whole number from 0 to 65535, but is 'x'."
        with mock.patch.object(config, "check", side_effect=config.SettingError(sentence)):
            self.assertEqual(self.run_here("print(1)"), ("", sentence))

    @slow
    def test_ctrl_c_ends_it_without_a_traceback(self) -> None:
        for source in (
            "print('here', flush=True)\nawait asyncio.sleep(1000)\n",
            "import time\nprint('here', flush=True)\n" + 3000 * "time.sleep(0.01)\n",  # none of them awaits
        ):
            with self.subTest(source[:11]):
                self.interrupt(source)

    def test_a_script_is_one_task_so_that_no_ctrl_c_between_statements_is_lost(self) -> None:
        """Python drops a KeyboardInterrupt that is raised while a task is deleted."""
        source = "task = asyncio.current_task()\nprint(task is asyncio.current_task())\n"
        self.assertEqual(self.run_here(source), ("True\n", ""))

    def interrupt(self, source: str) -> None:
        """Ctrl-C after the script has written `here`."""
        process = subprocess.Popen(
            COMMAND,
            cwd=self.folder,
            env=make_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(source.encode())
        process.stdin.close()
        self.assertEqual(process.stdout.readline(), b"here\n")
        process.send_signal(signal.SIGINT)
        self.assertEqual((process.wait(PATIENCE), process.stdout.read()), (130, b""))
        process.stdout.close()

    @slow
    def test_in_development_it_brings_a_mongod_of_its_own(self) -> None:
        socket, port = bind_unused_port()
        socket.close()
        script = (
            "from indico import config\n"
            "from indico.core import serving\n"
            "from indico.core.commands import shell\n"
            f"serving.DEFAULT_MONGODB_PORT = {port}\n"
            f"config.MONGODB = config.DEFAULT_MONGODB = 'mongodb://127.0.0.1:{port}'\n"
            "shell.main()\n"
        )
        source = "await db.mongodb.user.count_documents({})\n"
        self.assertEqual(self.run_python("-c", script, source=source), (0, "0\n", ""))
        self.assertTrue((self.folder / ".indico" / "mongodb" / "mongod.log").exists())
        self.assertEqual(processes_in(self.folder), [])


class Terminal:
    """The shell at a terminal."""

    def __init__(self, command: list[str], environment: dict[str, str], folder: str) -> None:
        self.main, self._other = pty.openpty()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            env={**environment, "TERM": "dumb"},
            stdin=self._other,
            stdout=self._other,
            stderr=self._other,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # so that Ctrl-C is a signal
        )
        os.close(self._other)
        os.set_blocking(self.main, False)
        self.output = ""

    def read(self) -> str:
        try:
            self.output += os.read(self.main, 100_000).decode().replace("\r", "")
        except OSError:  # nothing more, for now or for ever
            pass
        return self.output

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.read(), f"{text!r} in {self.output!r}")
        self.output = self.output.partition(text)[2]

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self.main)


class TerminalTest(ProcessTest):
    def open(self, command: list[str], **settings: str) -> Terminal:
        environment = {**make_environment(settings), "IPYTHONDIR": str(self.folder / "ipython")}
        terminal = Terminal(command, environment, str(self.folder))
        self.addCleanup(terminal.close)
        return terminal

    def test_a_session_at_pythons_own_prompt(self) -> None:
        self.database.user.insert_one({"user_id": "facebook1", "name": "Ada"})
        terminal = self.open(PLAIN)
        terminal.wait_for(f": {self.database.name} at ")
        terminal.wait_for("Names: asyncio, config, db, AuthDB, UserDB. Ctrl-D ends.\n")
        terminal.wait_for(">>> ")
        terminal.type("(await UserDB.find_user('facebook1'))['name'] + '!'\n")
        terminal.wait_for("'Ada!'\n>>> ")
        terminal.type("for _ in range(2):\n    await asyncio.sleep(0)\n    print('t' + 'ea')\n\n")
        terminal.wait_for("tea\ntea\n>>> ")
        terminal.type("1 / 0\n")
        terminal.wait_for("Traceback (most recent call last):\n")
        terminal.wait_for("ZeroDivisionError: division by zero\n>>> ")
        self.assertNotIn("asyncio", terminal.output)
        terminal.type("print(\n'a' 'b')\n")
        terminal.wait_for("ab\n>>> ")
        terminal.type("\x04")
        self.assertEqual(terminal.process.wait(PATIENCE), 0)
        self.assertEqual(terminal.read().strip(), "")
        self.assertEqual(os.listdir(self.folder), [])

    @slow
    def test_ctrl_c_ends_the_line_and_nothing_else(self) -> None:
        terminal = self.open(PLAIN)
        terminal.wait_for(">>> ")
        for text in ("print('never', ", "print('be' 'gun'); await asyncio.sleep(1000)\n"):
            with self.subTest(text):
                terminal.type(text)
                terminal.wait_for("begun\n" if "gun" in text else text)
                terminal.type("\x03")
                terminal.wait_for("KeyboardInterrupt\n>>> ")
        terminal.type("print('al' 'ive')\n")
        terminal.wait_for("alive\n>>> ")
        terminal.type("\x04")
        self.assertEqual(terminal.process.wait(PATIENCE), 0)

    @slow
    def test_a_session_with_ipython(self) -> None:
        if importlib.util.find_spec("IPython") is None:
            self.skipTest("IPython is not installed")
        self.database.user.insert_one({"user_id": "facebook1", "name": "Ada"})
        terminal = self.open(COMMAND)
        terminal.wait_for("Names: asyncio, config, db, AuthDB, UserDB. Ctrl-D ends.\n")
        terminal.wait_for("In [1]: ")
        terminal.type("(await UserDB.find_user('facebook1'))['name'] + '!'\n")
        terminal.wait_for("'Ada!'")
        terminal.wait_for("In [2]: ")
        terminal.type("print('be' 'gun'); await asyncio.sleep(1000)\n")
        terminal.wait_for("begun")
        terminal.type("\x03")
        terminal.wait_for("CancelledError")
        terminal.wait_for("In [3]: ")
        terminal.type("exit\n")
        self.assertEqual(terminal.process.wait(PATIENCE), 0)

    def test_ipython_is_given_the_names_and_our_loop(self) -> None:
        (self.folder / "IPython.py").write_text(FAKE_IPYTHON)
        (self.folder / "traitlets").mkdir()
        (self.folder / "traitlets" / "config.py").write_text("Config = dict\n")
        (self.folder / "traitlets" / "__init__.py").touch()
        with (
            mock.patch.object(sys, "path", [str(self.folder), *sys.path]),
            mock.patch.dict(sys.modules),
            mock.patch.object(sys, "stdin", mock.Mock(isatty=lambda: True)),
            redirect_stdout(StringIO()) as output,
        ):
            for name in [name for name in sys.modules if name.partition(".")[0] in ("IPython", "traitlets")]:
                del sys.modules[name]
            shell.main([])
        self.assertRegex(output.getvalue(), "Ctrl-D ends.\n.*, asyncio, config, db, AuthDB, UserDB: None\n$")
