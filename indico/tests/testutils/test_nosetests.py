"""
What nosetests prints of a part of a suite, and of skipped tests.
"""

from __future__ import annotations

import subprocess
import sys

from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment, make_folder, remove_folder
from indico.tests.testutils.strict import StrictTest

NOT_COVERED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
FILES = {
    "setup.cfg": "[nosetests]\nwith-coverage = 1\ncover-package = shop\ncover-min-percentage = 100\n",
    "shop/__init__.py": "def sell():\n    return 1\n",
    "test_shop.py": "import unittest, shop\n"
    "class ShopTest(unittest.TestCase):\n"
    "    def test_open(self): pass\n"
    "    @unittest.skip('the shop is closed')\n"
    "    def test_closed(self): pass\n"
    "    def test_late(self): self.skipTest('the shop is closed')\n",
}
PROGRAM = """
import importlib.metadata
importlib.metadata.entry_points = lambda **names: {}  # the plugin may be installed or not
import nose
from indico.tests.testutils.nosetests import SuitePlugin
nose.main(addplugins=[SuitePlugin()])
"""


@slow
class SuiteTest(StrictTest):
    def run_tests(self, *names: str) -> tuple[int, str]:
        """Run nosetests. Returns its status and its output."""
        folder = make_folder()
        self.addCleanup(remove_folder, folder)
        for path, text in FILES.items():
            (folder / path).parent.mkdir(exist_ok=True)
            (folder / path).write_text(text)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *names],
            cwd=folder,
            env=make_environment(NOT_COVERED),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout

    def test_a_module_says_its_result_whatever_its_coverage(self) -> None:
        for name in ("test_shop.py", "test_shop:ShopTest", "test_shop:ShopTest.test_late"):
            status, output = self.run_tests(name)
            self.assertEqual(status, 0, output)
            self.assertIn("\nOK (SKIP=", output)

    def test_the_whole_suite_needs_its_coverage(self) -> None:
        status, output = self.run_tests()
        self.assertEqual(status, 1, output)
        self.assertIn("TOTAL Coverage did not reach minimum required: 100%", output)

    def test_skipped_tests_say_why(self) -> None:
        _, output = self.run_tests("test_shop.py")
        self.assertTrue(output.endswith("\nskipped 2: the shop is closed\n"), output)
