"""
What nosetests prints of a part of a suite, and of skipped tests. A suite that two processes share.
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
SHARED = {
    "setup.cfg": FILES["setup.cfg"] + "cover-erase = 1\nnumprocesses = 2\n[coverage:run]\nparallel = true\n",
    "shop/__init__.py": "def sell():\n    return 1\ndef buy():\n    return 2\n",
    # Each test waits until both run, so that neither process can run both.
    "test_shop.py": "import os, pathlib, time, unittest, shop\n"
    "class MeetingTest(unittest.TestCase):\n"
    "    def setUp(self):\n"
    "        pathlib.Path(f'{os.getpid()}.pid').touch()\n"
    "        end = time.monotonic() + 20\n"
    "        while len(list(pathlib.Path().glob('*.pid'))) < 2 and time.monotonic() < end:\n"
    "            time.sleep(0.01)\n"
    "        self.assertLess(time.monotonic(), end)\n"
    "    @unittest.skip('closed')\n"
    "    def test_closed(self): pass\n"
    "class SellTest(MeetingTest):\n"
    "    def test(self): self.assertEqual(shop.sell(), 1)\n"
    "class BuyTest(MeetingTest):\n"
    "    def test(self): self.assertEqual(shop.buy(), 2)\n",
}
PROGRAM = """
import importlib.metadata
importlib.metadata.entry_points = lambda **names: {}  # the plugins may be installed or not
import nose
from indico.tests.testutils.nosetests import SuitePlugin
from indico.tests.testutils.parallel import ParallelPlugin
nose.main(addplugins=[SuitePlugin(), ParallelPlugin()])
"""


class NoseTest(StrictTest):
    files: dict[str, str]

    def run_suite(self, *names: str) -> tuple[int, str]:
        """Run nosetests. Returns its status and its output."""
        folder = make_folder()
        self.addCleanup(remove_folder, folder)
        for path, text in self.files.items():
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


@slow
class SuiteTest(NoseTest):
    files = FILES

    def test_a_module_says_its_result_whatever_its_coverage(self) -> None:
        for name in ("test_shop.py", "test_shop:ShopTest", "test_shop:ShopTest.test_late"):
            status, output = self.run_suite(name)
            self.assertEqual(status, 0, output)
            self.assertIn("\nOK (SKIP=", output)

    def test_the_whole_suite_needs_its_coverage(self) -> None:
        status, output = self.run_suite()
        self.assertEqual(status, 1, output)
        self.assertIn("TOTAL Coverage did not reach minimum required: 100%", output)

    def test_skipped_tests_say_why(self) -> None:
        _, output = self.run_suite("test_shop.py")
        self.assertTrue(output.endswith("\nskipped 2: the shop is closed\n"), output)


@slow
class ParallelTest(NoseTest):
    files = SHARED

    def assert_fails(self, old: str, new: str, *sentences: str) -> None:
        """Assert that the suite fails with these sentences after a change of its tests."""
        changed = SHARED["test_shop.py"].replace(old, new)
        self.assertNotEqual(changed, SHARED["test_shop.py"])
        self.files = SHARED | {"test_shop.py": changed}
        status, output = self.run_suite()
        self.assertEqual(status, 1, output)
        for sentence in sentences:
            self.assertIn(sentence, output)

    def test_two_processes_share_the_classes_and_their_results_are_one(self) -> None:
        status, output = self.run_suite()
        self.assertEqual(status, 0, output)
        self.assertIn("\nRan 5 tests in ", output)
        self.assertIn("\nOK (SKIP=3)\n", output)
        self.assertIn("\nskipped 3: closed\n", output)
        self.assertRegex(output, r"\nTOTAL +4 +0 +100%")

    def test_what_fails_in_either_process_is_printed_and_fails(self) -> None:
        for name, call in (("SellTest", "sell(), 1"), ("BuyTest", "buy(), 2")):
            self.assert_fails(call, f"{call}0", f"FAIL: test (test_shop.{name}.test)", "failures=1")
        self.assert_fails("shop.buy()", "shop.give()", "ERROR: test (test_shop.BuyTest.test)")
        self.assert_fails("import os", "import nothing, os", "No module named 'nothing'")

    def test_a_process_that_dies_fails(self) -> None:
        for call in ("shop.sell()", "shop.buy()"):
            killed = "os.kill(max(map(int, (path.stem for path in pathlib.Path().glob('*.pid')))), 9)"
            self.assert_fails(call, killed, "a process of the tests ended with status 9")
