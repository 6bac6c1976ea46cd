"""
`python -m indico.openapi` prints what the server would serve.
"""

from __future__ import annotations

import json
import subprocess
import sys
from unittest import mock

from indico import openapi
from indico.batteries.openapi import describe_application
from indico.core.commands.openapi import main
from indico.server import make_app
from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment, run_main
from indico.tests.testutils.strict import StrictTest


class PrintTest(StrictTest):
    def test_it_prints_the_document_that_the_server_serves(self) -> None:
        self.assertEqual(json.loads(run_main(openapi)), describe_application(make_app()))

    def test_without_the_battery_it_is_a_sentence(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"indico.batteries.openapi": None}),
            self.assertRaisesRegex(SystemExit, "^The description is made by the battery openapi"),
        ):
            main([])

    @slow
    def test_it_needs_no_mongodb_and_no_settings(self) -> None:
        environment = make_environment({"MONGODB": "mongodb://127.0.0.1:1", "INDICO_ENV": "production"})
        del environment["USER_SALT"]
        printed = subprocess.check_output([sys.executable, "-m", "indico.openapi"], env=environment)
        self.assertIn("/auth/login", json.loads(printed)["paths"])
