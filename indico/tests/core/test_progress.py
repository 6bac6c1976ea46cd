"""
The line for whoever waits.
"""

from __future__ import annotations

import io
from unittest import mock

from indico.core import progress
from indico.tests.testutils.process import wait_until
from indico.tests.testutils.strict import StrictTest


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ProgressTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        for name in ("FIRST", "NEXT"):
            patch = mock.patch.object(progress, name, 0.01)
            patch.start()
            self.addCleanup(patch.stop)

    def show(self, output: io.StringIO) -> str:
        with mock.patch("sys.stderr", output), progress.progress("tea"):
            wait_until(lambda: output.getvalue().count("tea ... 0 s") > 1, "two lines")
        return output.getvalue()

    def test_a_terminal_has_one_line_that_changes(self) -> None:
        self.assertTrue(self.show(Terminal()).startswith("tea ... 0 s\rtea ... 0 s\r"))

    def test_a_file_gets_a_line_now_and_then(self) -> None:
        self.assertTrue(self.show(io.StringIO()).startswith("tea ... 0 s\ntea ... 0 s\n"))

    def test_what_is_quick_says_nothing(self) -> None:
        with (
            mock.patch("sys.stderr", io.StringIO()) as output,
            mock.patch.object(progress, "FIRST", 60),
            progress.progress("tea"),
        ):
            pass
        self.assertEqual(output.getvalue(), "")
