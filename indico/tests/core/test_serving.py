"""
How the process serves.
"""

from __future__ import annotations

import asyncio
import importlib.util
import threading
import time
import unittest
from unittest import mock

from indico.core import serving
from indico.core.log import LOGGER
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
            serving.report_blocking_calls(ended)
            await asyncio.sleep(0.05)
            for seconds in naps:
                self.nap(seconds)
                await asyncio.sleep(0.05)
            ended.set()

        ended = threading.Event()
        with (
            mock.patch.object(serving, "MAX_BLOCKING_SECONDS", 0.1),
            mock.patch.object(serving, "TICK_MS", 10),
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

    def test_each_such_call_is_reported_once(self) -> None:
        self.assertEqual(len(self.find_reports(0.3, 0.3)), 2)
