"""
Whether tests in a browser are skipped.
"""

from __future__ import annotations

import os
import runpy
import shutil
from unittest import mock

from indico.tests.testutils import browser
from indico.tests.testutils.strict import StrictTest


class RequiredTest(StrictTest):
    def test_without_a_browser_they_are_skipped_unless_it_is_required(self) -> None:
        for required, skipped in (("", True), ("1", False)):
            with (
                self.subTest(required),
                mock.patch.dict(os.environ, REQUIRE_BROWSER=required),
                mock.patch.object(shutil, "which", return_value=None),
            ):
                module = runpy.run_path(str(browser.__file__))
                test = module["needs_browser"](type("Test", (), {}))
                self.assertEqual(getattr(test, "__unittest_skip__", False), skipped)
                self.assertEqual(module["REQUIRED"], not skipped)
