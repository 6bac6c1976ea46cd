"""
Tests that fail on what nobody expected.
"""

from __future__ import annotations

import gc
import logging
import sys
import unittest
import warnings
from typing import Any


class StrictTest(unittest.TestCase):
    """
    Fails when something is logged at ERROR, warns, or is left for the garbage collector to complain of: a
    coroutine never awaited, a socket never closed. A test that expects a log line says so by `assertLogs`.
    """

    def setUp(self) -> None:
        self._complaints: list[str] = []
        gc.freeze()  # so that collecting, at the end, need not go through all that was there before
        handler = _Recorder(self._complaints)
        logging.getLogger().addHandler(handler)
        caught = warnings.catch_warnings()
        caught.__enter__()
        warnings.simplefilter("error")
        hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable

        def check() -> None:
            gc.collect()
            sys.unraisablehook = hook
            caught.__exit__(None, None, None)
            logging.getLogger().removeHandler(handler)
            self.assertEqual(self._complaints, [])

        self.addCleanup(check)
        super().setUp()

    def _on_unraisable(self, unraisable: Any) -> None:
        self._complaints.append(f"{unraisable.exc_value!r} in {unraisable.object!r}")


class _Recorder(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.complaints = complaints
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(self.format(record))
