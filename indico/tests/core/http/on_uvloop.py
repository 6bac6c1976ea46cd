"""
Tests on uvloop, which the server runs on where it is installed.
"""

from __future__ import annotations

import asyncio
import importlib
import unittest
from unittest import mock


class UvloopTest(unittest.TestCase):
    """A mixin for tests of Tornado's: their event loop is uvloop's."""

    def setUp(self) -> None:
        try:
            uvloop = importlib.import_module("uvloop")
        except ImportError:
            self.skipTest("uvloop is not installed")
        patch = mock.patch.object(asyncio, "new_event_loop", uvloop.new_event_loop)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()
