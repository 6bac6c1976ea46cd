"""
The commands by their names: `python -m indico serve`, `python -m indico.migrate` and so on.
"""

from __future__ import annotations

import io
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from unittest import mock

from indico.tests.testutils.strict import StrictTest


class CommandsTest(StrictTest):
    def run_module(self, module: str, *words: str) -> str:
        with (
            mock.patch.object(sys, "argv", [module, *words]),
            mock.patch.dict(sys.modules),
            redirect_stdout(io.StringIO()) as output,
        ):
            for name in (module, f"{module}.__main__"):
                sys.modules.pop(name, None)
            runpy.run_module(module, run_name="__main__")
        return output.getvalue()

    def test_alone_it_says_what_there_is(self) -> None:
        for words in ((), ("--help",)):
            text = self.run_module("indico", *words)
            for name in ("serve", "migrate", "shell", "worker", "openapi", "new"):
                self.assertRegex(text, rf"(?m)^  {name} +\w")

    def test_a_command_that_there_is_not_is_a_sentence(self) -> None:
        with self.assertRaisesRegex(SystemExit, "^bake is not a command.\n\nusage: "):
            self.run_module("indico", "bake", "--hot")

    def test_a_command_gets_the_words_after_it(self) -> None:
        for words in (
            ("indico", "serve"),
            ("indico", "migrate"),
            ("indico", "shell"),
            ("indico", "worker"),
            ("indico", "openapi"),
            ("indico", "new"),
            ("indico.server",),
            ("indico.migrate",),
            ("indico.shell",),
            ("indico.worker",),
            ("indico.openapi",),
            ("indico.new",),
        ):
            with (
                self.subTest(words),
                mock.patch("argparse.ArgumentParser.parse_args", side_effect=SystemExit) as parse,
            ):
                self.assertRaises(SystemExit, self.run_module, *words, "--a", "b")
                parse.assert_called_once()

    def test_a_python_that_can_not_run_it_is_told_so(self) -> None:
        for lack, sentence in (
            ("version_info = (3, 9, 2)", "indico needs Python 3.11 or later, but this is Python 3.9.2."),
            (
                "modules['tornado'] = None",
                f"indico is not installed for this Python, {sys.executable}. Activate the virtual environment"
                " that it is installed in, or install it: pip install -e '.[dev]'",
            ),
        ):
            command = [sys.executable, "-c", f"import sys; sys.{lack}; import indico"]
            result = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual((result.returncode, result.stdout, result.stderr), (1, "", f"{sentence}\n"))
