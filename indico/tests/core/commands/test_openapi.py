"""
`python -m indico.openapi`. The tests of the battery openapi compare what it prints.
"""

from __future__ import annotations

import sys
from unittest import mock

from indico import openapi
from indico.tests.testutils.process import run_main
from indico.tests.testutils.strict import StrictTest


class MissingTest(StrictTest):
    def test_without_the_battery_it_is_a_sentence(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"indico.batteries.openapi": None}),
            self.assertRaisesRegex(SystemExit, "^The description is made by the battery openapi"),
        ):
            run_main(openapi)
