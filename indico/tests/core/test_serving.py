"""
How the process serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import shlex
import sys
import threading
import time
import unittest
from io import StringIO
from unittest import mock

from indico.core import blocking, serving
from indico.core.log import LOGGER
from indico.core.welcome import print_welcome
from indico.server import make_app
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.strict import StrictTest


class LoopTest(StrictTest):
    def run_loop(self) -> str:
        """The package of the event loop that serves."""
        loops: list[asyncio.AbstractEventLoop] = []

        async def main() -> None:
            loops.append(asyncio.get_running_loop())

        serving.run(main())
        return type(loops[0]).__module__.partition(".")[0]

    def test_without_uvloop_it_runs_on_asyncio(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            self.assertEqual(self.run_loop(), "asyncio")

    @unittest.skipUnless(importlib.util.find_spec("uvloop"), "uvloop is not installed")
    def test_with_uvloop_it_runs_on_that(self) -> None:
        self.assertEqual(self.run_loop(), "uvloop")


class BlockedTest(StrictTest):
    def nap(self, seconds: float) -> None:
        time.sleep(seconds)

    def find_reports(self, *naps: float) -> list[str]:
        """Block the loop for so many seconds each. Returns what is logged."""

        async def main() -> None:
            blocking.report_blocking_calls(ended)
            await asyncio.sleep(0.05)
            for seconds in naps:
                self.nap(seconds)
                await asyncio.sleep(0.05)
            ended.set()

        ended = threading.Event()
        with (
            mock.patch.object(blocking, "MAX_BLOCKING_SECONDS", 0.1),
            mock.patch.object(blocking, "TICK_MS", 10),
            self.assertLogs("indico", "WARNING") as logged,
        ):
            LOGGER.warning("nothing else")
            asyncio.run(main())
        # A busy machine may hold up the loop elsewhere, too.
        return [report for report in logged.output if "in nap" in report]

    def test_a_call_that_blocks_the_loop_is_a_sentence_and_the_stack_of_that_thread(self) -> None:
        [report] = self.find_reports(0.3)
        sentence, *stack = report.splitlines()
        self.assertEqual(
            sentence,
            "WARNING:indico:A call has blocked the event loop for more than 0.1 s, and no request is served"
            " until it returns:",
        )
        self.assertEqual(stack[-2:], [stack[-2], "    time.sleep(seconds)"])
        self.assertRegex(stack[-2], r'File ".*test_serving.py", line \d+, in nap$')
        self.assertNotIn("in watch", report)

    @slow
    def test_each_such_call_is_reported_once(self) -> None:
        self.assertEqual(len(self.find_reports(0.3, 0.3)), 2)


class StreamsTest(StrictTest):
    def test_closed_streams_become_the_null_device(self) -> None:
        with mock.patch.multiple(sys, stdin=None, stderr=None):
            serving.open_standard_streams()
            assert sys.stdin is not None and sys.stderr is not None
            self.addCleanup(sys.stdin.close)
            self.addCleanup(sys.stderr.close)
            self.assertEqual(sys.stdin.read(), "")
            print("nothing", file=sys.stderr, flush=True)
            self.assertTrue(os.path.samestat(os.fstat(sys.stderr.fileno()), os.stat(os.devnull)))

    def test_open_streams_stay(self) -> None:
        before = sys.stdin, sys.stdout, sys.stderr
        serving.open_standard_streams()
        self.assertEqual((sys.stdin, sys.stdout, sys.stderr), before)

    def test_a_welcome_that_can_not_be_printed_is_left_out(self) -> None:
        full = mock.Mock(spec=StringIO, write=mock.Mock(side_effect=OSError(28, "No space left on device")))
        with contextlib.redirect_stdout(full):
            print_welcome(make_app(), 5000)
        full.write.assert_called()


@slow
class OddPlacesTest(ProcessTest):
    """Servers that are started where things are missing."""

    def run_shell(self, redirections: str, folder: str = "", **settings: str) -> None:
        """It serves, with these redirections of the shell, in this working folder."""
        where = f"cd {folder}; " if folder else ""
        server = self.launch(
            prefix=("sh", "-c", f'{where}exec "$@" {redirections}', "sh"), **settings
        ).wait_ready()
        self.assertEqual(server.fetch("nope").status, 404)
        self.assertIn(server.stop(), (0, 120))  # 120: Python itself could not write to a stream

    def test_it_serves_with_closed_and_broken_streams(self) -> None:
        for redirections in ("2>&-", "2>&- <&-", "2>/dev/full", "<&-"):
            with self.subTest(redirections):
                self.run_shell(redirections)

    def test_it_serves_where_no_folder_can_be_written(self) -> None:
        for settings in ({}, {"WORKERS": "2", "TMPDIR": "/proc"}):
            with self.subTest(settings):
                self.run_shell("", "/proc", DEV_TOKEN="", USER_SALT="", **settings)

    def test_workers_have_the_same_secrets_where_none_can_be_stored(self) -> None:
        server = self.launch(
            prefix=("sh", "-c", 'cd /proc; exec "$@"', "sh"), WORKERS="2", DEV_TOKEN="", USER_SALT=""
        ).wait_ready()
        keys = [
            server.fetch("auth/login", self.read_login(server.output), {}).data["indico_key"] for _ in "1234"
        ]
        for key in keys:
            self.assertEqual(server.fetch("auth/check", None, {"indico_key": key}).status, 200)
        self.assertEqual(len(set(keys)), 1)
        self.assertEqual(server.stop(), 0)

    def read_login(self, output: str) -> dict[str, object]:
        command = shlex.split(output[output.index("curl ") :].splitlines()[0])
        login: dict[str, object] = json.loads(command[-1])
        return login
