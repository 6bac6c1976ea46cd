"""
Restarts of the development server, and calls that block it. test_server has the whole.
"""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from unittest import mock

from indico.core import reloading
from indico.tests.testutils.process import make_folder, remove_folder, run_main
from indico.tests.testutils.strict import StrictTest


class Replaced(BaseException):
    """What `os.execv` raises here: it never returns."""


class ReloadingTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)
        self.script = self.folder / "run.py"
        self.execv = self.enterContext(mock.patch.object(os, "execv", side_effect=Replaced))
        self.enterContext(mock.patch.object(sys, "argv", ["run.py"]))
        self.enterContext(mock.patch.object(sys, "path", [str(self.folder), *sys.path]))

    def run_command(self, *command: str) -> str:
        """Run it, and return what it prints."""
        with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
            reloading.run(list(command))
        return output.getvalue()

    def assert_waits(self, shown: Sequence[str], *command: str) -> None:
        """It fails, shows why, and runs again after a change."""

        def sleep(seconds: float) -> None:
            self.assertFalse(self.execv.called)
            (self.folder / "new.py").touch()

        with (
            # Not time.sleep itself: the threads of MongoDB's clients call it, too.
            mock.patch.object(reloading, "time", mock.Mock(wraps=time, sleep=sleep)),
            mock.patch.object(reloading, "PACKAGE", self.folder / "none"),  # it takes long to read
            redirect_stderr(io.StringIO()) as output,
            self.assertRaises(Replaced),
        ):
            reloading.run(list(command))
        (self.folder / "new.py").unlink()
        for text in (*shown, "The server waits for the next change of the source.\n"):
            self.assertIn(text, output.getvalue())
        words = [sys.executable, "-m", "indico.core.reloading", *command]
        self.execv.assert_called_once_with(sys.executable, words)
        self.execv.reset_mock()

    def test_a_script_runs_with_its_arguments_and_the_modules_beside_it(self) -> None:
        (self.folder / "beside.py").write_text("TEXT = 'found'")
        self.script.write_text("import sys, beside; print(__name__, sys.argv, beside.TEXT)")
        self.addCleanup(sys.modules.pop, "beside")
        sys.path[0] = ""
        command = (str(self.script), "--port", "1")
        self.assertEqual(self.run_command(*command), f"__main__ {list(command)} found\n")

    def test_it_is_a_command(self) -> None:
        self.script.write_text("import sys; print(sys.argv)")
        self.assertEqual(run_main(reloading, str(self.script), "-x"), f"['{self.script}', '-x']\n")

    def test_a_module_runs_with_its_arguments(self) -> None:
        self.script.write_text("import sys; print(__name__, sys.argv)")
        self.assertEqual(self.run_command("-m", "run", "-x"), f"__main__ ['{self.script}', '-x']\n")

    def test_a_failure_is_shown_and_the_next_change_runs_it_again(self) -> None:
        for source, shown in (
            ("def (", f'File "{self.script}", line 1'),
            ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
            ("1 / 0", "ZeroDivisionError"),
            ("raise SystemExit('PORT should be a number.')", "PORT should be a number.\n"),
        ):
            with self.subTest(source):
                self.script.write_text(source)
                self.assert_waits([shown], str(self.script), "-x")
                self.assert_waits([shown], "-m", "run", "-x")

    def test_a_change_while_it_started_counts(self) -> None:
        self.script.write_text("import pathlib\npathlib.Path(__file__).with_name('new.py').touch()\n1 / 0\n")
        with redirect_stderr(io.StringIO()), self.assertRaises(Replaced):
            reloading.run([str(self.script)])

    def test_a_status_ends_it(self) -> None:
        self.script.write_text("raise SystemExit(3)")
        with self.assertRaises(SystemExit) as raised:
            self.run_command(str(self.script))
        self.assertEqual(raised.exception.code, 3)

    def test_a_restart_runs_the_same_command(self) -> None:
        main = ModuleType("__main__")
        for spec, argv, command in (
            (None, ["run.py", "-x"], ["run.py", "-x"]),
            (
                ModuleSpec("indico.server", None),
                ["/a/server.py", "--port", "1"],
                ["-m", "indico.server", "--port", "1"],
            ),
        ):
            main.__spec__ = spec
            with (
                mock.patch.dict(sys.modules, {"__main__": main}),
                mock.patch.object(sys, "argv", argv),
                self.assertRaises(Replaced),
            ):
                reloading.restart()
            words = [sys.executable, "-m", "indico.core.reloading", *command]
            self.execv.assert_called_with(sys.executable, words)

    def test_a_file_that_has_just_been_removed_is_no_failure(self) -> None:
        (self.folder / "gone.py").symlink_to(self.folder / "nowhere.py")
        self.assertNotIn(Path(self.folder / "gone.py"), reloading.read_times())
