"""
Tests on each of the drivers.
"""

from __future__ import annotations

import importlib.util

from indico import config
from indico.tests.testutils.strict import StrictTest


class OnDriver(StrictTest):
    """Runs the tests of a class on its `driver`. They are skipped if it is not installed."""

    driver = "motor"

    def setUp(self) -> None:
        if importlib.util.find_spec(self.driver) is None:
            self.skipTest(f"{self.driver} is not installed")
        self.addCleanup(setattr, config, "MONGODB_DRIVER", config.MONGODB_DRIVER)
        config.MONGODB_DRIVER = self.driver
        super().setUp()
