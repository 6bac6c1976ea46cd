"""
Tests that fail on unexpected errors and warnings.
"""

from __future__ import annotations

import gc
import logging
import sys
import unittest
import warnings
from typing import Any
from unittest import mock


class StrictTest(unittest.TestCase):
    """
    Fails if an error is logged, if there is a warning, or if the garbage collector finds a coroutine that was
    never awaited or a socket that was never closed. Tests that expect a log line use `assertLogs`.
    """

    def setUp(self) -> None:
        self._complaints: list[str] = []
        gc.freeze()  # so that the collection at the end checks only new objects
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

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute, such as a setting of `config`, for this test."""
        self.enterContext(mock.patch.object(owner, name, value))

    def _on_unraisable(self, unraisable: Any) -> None:
        self._complaints.append(f"{unraisable.exc_value!r} in {unraisable.object!r}")


class _Recorder(logging.Handler):
    def __init__(self, complaints: list[str]) -> None:
        super().__init__(logging.ERROR)
        self.complaints = complaints
        self.setFormatter(logging.Formatter("%(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.complaints.append(self.format(record))
