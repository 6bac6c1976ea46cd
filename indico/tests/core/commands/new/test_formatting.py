"""
Lines that a longer name made too long.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from indico.core.commands.new.formatting import format_files, wrap_prose
from indico.tests.testutils.strict import StrictTest


class FormattingTest(StrictTest):
    def test_files_are_wrapped_and_the_others_stay_as_they_are(self) -> None:
        with tempfile.TemporaryDirectory(prefix="indico-test-") as folder:
            long, short, empty = (Path(folder) / f"{name}.py" for name in ("long", "short", "empty"))
            long.write_text(f"# {25 * 'word '}\n")
            short.write_text("# word\n")
            empty.touch()
            with (
                mock.patch.object(importlib.util, "find_spec"),
                mock.patch.dict(sys.modules, {"ruff": mock.Mock()}),
                mock.patch.object(subprocess, "run") as run,  # ruff would change nothing
            ):
                run.return_value = mock.Mock(returncode=0)
                self.assertEqual(format_files(Path(folder), ["long.py", "short.py", "empty.py"]), "")
                run.return_value = mock.Mock(returncode=2, stderr="No space left\n")
                self.assertEqual(format_files(Path(folder), []), "\nruff failed: No space left")
            self.assertEqual(len(long.read_text().splitlines()), 2)
            self.assertEqual((short.read_text(), empty.read_text()), ("# word\n", ""))

    def test_prose_is_wrapped_and_code_is_not(self) -> None:
        words = 25 * "word "
        comment, docstring, code = f"# {words}", f'"""\n{words}\nword\n"""', f'text = "{words}"  # {words}'
        wrapped = wrap_prose(f"{comment}\n{docstring}\n{code}\n")
        lines = wrapped.splitlines()
        self.assertEqual(lines.pop(), code)
        self.assertLessEqual(max(map(len, lines)), 110)
        self.assertEqual([line[:2] for line in lines], ["# ", "# ", '""', "wo", "wo", "wo", '""'])
