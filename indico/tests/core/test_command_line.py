"""
The commands: what `python -m indico` has, and the file `.env` that they read in development.
"""

from __future__ import annotations

import hmac
import io
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from tornado import autoreload

from indico import __main__, config
from indico.core import command_line
from indico.core.commands.new import __main__ as new
from indico.tests.mocks import LOGIN_DATA, USER_ID
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, make_environment, wait_until
from indico.tests.testutils.strict import StrictTest

SHOW = "print(config.MAX_BODY_SIZE, config.MONGODB_TIMEOUT, config.INDICO_ENV)\n"
# The server, started again when a module of the working directory changes.
SERVER = "import greeting\nfrom indico.core import command_line\ncommand_line.main([])\n"


class ReadingTest(StrictTest):
    """What a command does with `.env`, in this process."""

    def setUp(self) -> None:
        super().setUp()
        self.file = Path(self.enterContext(TemporaryDirectory())) / ".env"
        self.enterContext(mock.patch.object(command_line, "ENV_FILE", self.file))
        self.enterContext(mock.patch.dict(os.environ))
        self.override = self.enterContext(mock.patch.object(config, "override"))
        self.add_hook = self.enterContext(mock.patch.object(autoreload, "add_reload_hook"))
        self.said = self.enterContext(redirect_stderr(io.StringIO()))

    def test_it_is_read_and_the_environment_overrides_it(self) -> None:
        os.environ["MONGODB_TIMEOUT"] = "7"
        self.file.write_text("MAX_BODY_SIZE='50'  # a comment\nMONGODB_TIMEOUT=9\nEMPTY\n")
        command_line.read_env_file()
        self.override.assert_called_once_with(MAX_BODY_SIZE="50")
        self.assertEqual((os.environ["MAX_BODY_SIZE"], os.environ["MONGODB_TIMEOUT"]), ("50", "7"))
        self.assertEqual((self.add_hook.call_count, self.said.getvalue()), (1, ""))

    def test_it_can_not_set_the_kind_of_environment(self) -> None:
        self.file.write_text("INDICO_ENV=production\n")
        command_line.read_env_file()
        self.override.assert_called_once_with()
        self.assertIn("INDICO_ENV is not taken from .env", self.said.getvalue())

    def test_it_is_not_read_in_production(self) -> None:
        self.file.write_text("MAX_BODY_SIZE=50\n")
        with mock.patch.object(config, "PRODUCTION", True):
            command_line.read_env_file()
        self.override.assert_not_called()

    def test_without_python_dotenv_it_is_named(self) -> None:
        self.file.write_text("MAX_BODY_SIZE=50\n")
        with mock.patch.dict(sys.modules, {"dotenv": None}):
            command_line.read_env_file()
        self.override.assert_not_called()
        self.assertIn("pip install python-dotenv", self.said.getvalue())

    def test_a_file_that_is_not_utf_8_is_a_sentence(self) -> None:
        self.file.write_bytes(b"A=\xff\n")
        with self.assertRaisesRegex(SystemExit, "^.env can't be read: "):
            command_line.read_env_file()


class EnvFileTest(ProcessTest):
    def write(self, text: str) -> None:
        (self.folder / ".env").write_text(text)

    def show(self, source: str = SHOW, **settings: str) -> tuple[int, str, str]:
        return self.run_python("-m", "indico.shell", source=source, **settings)

    @slow
    def test_commands_read_it_and_the_environment_overrides_it(self) -> None:
        self.write("MAX_BODY_SIZE='50'  # a comment\nMONGODB_TIMEOUT=9\nOF_MY_OWN=1\nEMPTY\n")
        source = SHOW + "import os; print(os.environ['OF_MY_OWN'])\n"
        self.assertEqual(
            self.show(source, MONGODB_TIMEOUT="7", MAX_BODY_SIZE=""),
            (0, "50 7.0 development\n1\n", ""),
        )

    @slow
    def test_it_can_not_set_the_kind_of_environment(self) -> None:
        self.write("INDICO_ENV=production\n")
        said = "INDICO_ENV is not taken from .env: set it in the environment.\n"
        self.assertEqual(self.show(), (0, "1048576 5.0 development\n", said))

    @slow
    def test_the_server_takes_its_salt_from_it(self) -> None:
        self.write("USER_SALT=pepper\n")
        key = hmac.new(b"pepper", b"facebook1", "sha224").hexdigest()
        source = "from indico.utils.auth.auth_utils import user_hash\nuser_hash('facebook1')\n"
        self.assertEqual(self.show(source, USER_SALT=""), (0, f"{key!r}\n", ""))

    @slow
    def test_the_server_and_its_workers_read_it_and_name_what_is_no_setting(self) -> None:
        self.write("MAX_BODY_SIZE=50\nINDICO_SALT=x\nWORKERS=2\nPORT=http\n")
        server = self.start("--port", "0", PORT="")
        server.wait_for("INDICO_SALT is no setting.")
        self.assertEqual(server.fetch("auth/login", 50 * "a").status, 413)
        self.assertEqual(server.stop(), 0)

    @slow
    def test_a_value_that_makes_no_sense_is_a_sentence(self) -> None:
        self.write("WORKERS=many\n")
        self.assert_refuses("WORKERS should be a whole number from 1 to 512, but is 'many'.")

    @slow
    def test_what_is_not_utf_8_is_a_sentence(self) -> None:
        (self.folder / ".env").write_bytes(b"A=\xff\n")
        status, _, said = self.show()
        self.assertEqual(status, 1)
        self.assertRegex(said, r"\A\.env can't be read: .+\.\n\Z")

    @slow
    def test_without_python_dotenv_it_is_named(self) -> None:
        self.write("MAX_BODY_SIZE=50\n")
        script = "import sys; sys.modules['dotenv'] = None; import indico.shell as s; s.main()"
        said = ".env is not read. To read it, pip install python-dotenv.\n"
        self.assertEqual(self.run_python("-c", script, source=SHOW), (0, "1048576 5.0 development\n", said))

    @slow
    def test_production_does_not_read_it(self) -> None:
        self.write("MAX_BODY_SIZE=50\n")
        settings = {"INDICO_ENV": "production", "USER_SALT": "a salt of production", "DEV_TOKEN": ""}
        self.assertEqual(self.show(**settings), (0, "1048576 5.0 production\n", ""))

    @slow
    def test_an_import_does_not_read_it_and_neither_do_the_tests(self) -> None:
        self.write("MAX_BODY_SIZE=50\n")
        script = "from indico import config, server; print(config.MAX_BODY_SIZE)"
        self.assertEqual(self.run_python("-c", script), (0, "1048576\n", ""))
        (self.folder / "test_it.py").write_text(
            "import unittest\nimport indico.tests\nfrom indico import config, server\n"
            "class Test(unittest.TestCase):\n    def test(self):\n"
            "        self.assertEqual(config.MAX_BODY_SIZE, 1048576)\n"
        )
        self.assertEqual(self.run_python("-m", "unittest", "test_it")[0], 0)

    @slow
    def test_it_is_read_again_when_the_server_starts_again(self) -> None:
        (self.folder / "greeting.py").touch()
        self.write("MAX_BODY_SIZE=50\n")
        server = self.start(script=SERVER)
        self.write("MAX_BODY_SIZE=5\n")

        def touch() -> bool:
            os.utime(self.folder / "greeting.py")  # a change counts once the watching has begun
            return server.output.count("indico listens on") == 2

        wait_until(touch, "another start")
        self.assertEqual(server.fetch("auth/login", "four").status, 413)  # with its quotes, six bytes
        self.assertEqual(server.stop(), 0)


class SecretFileTest(ProcessTest):
    @slow
    def test_the_salt_in_a_file_makes_the_keys(self) -> None:
        (self.folder / "salt").write_text("pepper\n")
        server = self.start(USER_SALT="", USER_SALT_FILE="salt")
        key = server.post("auth/login", LOGIN_DATA)["data"]["indico_key"]
        self.assertEqual(key, hmac.new(b"pepper", USER_ID.encode(), "sha224").hexdigest())
        self.assertEqual(server.stop(), 0)

    @slow
    def test_a_file_that_can_not_be_read_is_one_sentence_and_status_1(self) -> None:
        self.assert_refuses(
            "MONGODB_FILE is 'nowhere', which can't be read: No such file or directory.",
            MONGODB="",
            MONGODB_FILE="nowhere",
        )


class HelpTest(StrictTest):
    def test_every_help_fits_80_columns_and_says_what_the_command_does(self) -> None:
        for words in (
            *((name,) for name in __main__.COMMANDS),
            *(("new", word) for word in ("project", "route", "add", "remove", "update")),
        ):
            with (
                self.subTest(words),
                mock.patch.dict(os.environ, COLUMNS="80"),
                mock.patch.object(sys, "argv", ["indico", *words, "--help"]),
                redirect_stdout(io.StringIO()) as output,
            ):
                self.assertRaises(SystemExit, __main__.main)
                lines = output.getvalue().splitlines()
                self.assertLessEqual(max(map(len, lines)), 80)
                self.assertNotRegex(output.getvalue(), r"(?m)^ .*:$")  # the end of an option's text
                self.assertRegex("\n".join(lines), r"\n\n[A-Z][a-z]+ [^\n]+")  # a sentence below the usage

    def test_every_help_names_the_command_as_it_is_called(self) -> None:
        for name in __main__.COMMANDS:
            with (
                mock.patch.object(sys, "argv", ["indico", name, "--help"]),
                redirect_stdout(io.StringIO()) as output,
            ):
                self.assertRaises(SystemExit, __main__.main)
                self.assertTrue(output.getvalue().startswith(f"usage: python -m indico {name} "))

    def test_new_alone_lists_its_commands(self) -> None:
        with redirect_stdout(io.StringIO()) as output:
            self.assertRaises(SystemExit, new.main, [])
        for word in ("project", "route", "add", "remove", "update"):
            self.assertRegex(output.getvalue(), rf"(?m)^    {word} +\w")

    @slow
    def test_python_runs_it(self) -> None:
        command = [sys.executable, "-m", "indico", "serve", "--version"]
        text = subprocess.check_output(command, env=make_environment({}), text=True)
        self.assertRegex(text, "^indico [0-9.]+, Tornado ")
