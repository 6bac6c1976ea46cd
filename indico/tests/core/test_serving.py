"""
How the process serves.
"""

from __future__ import annotations

import asyncio
import importlib.util
import unittest
from unittest import mock

from indico.core import serving
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
