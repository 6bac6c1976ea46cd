"""
Batteries come out one by one: without its file, its test, its page and its line all else works.
"""

from __future__ import annotations

import shutil

from indico.server import BATTERIES
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import CheckoutTest, copy_checkout

# What serves requests, and so meets whatever batteries hook on to them.
REST = (
    "tests.routes.test_auth",
    "tests.routes.test_user",
    "tests.routes.test_handler",
    "tests.test_docs.PagesTest",
)


class BatteriesTest(CheckoutTest):
    def take_out(self, battery: str) -> None:
        """Do what docs/batteries.rst says, and delete the page."""
        name = battery.rpartition(".")[2]
        (self.copy / f"indico/batteries/{name}.py").unlink()
        (self.copy / f"indico/tests/batteries/test_{name}.py").unlink()
        (self.copy / f"docs/batteries/{name}.rst").unlink()
        server = self.copy / "indico/server.py"
        source = server.read_text()
        self.assertEqual(source.count(f'    "{battery}",\n'), 1)
        server.write_text(source.replace(f'    "{battery}",\n', ""))

    def test_every_battery_has_its_line_and_every_line_its_battery(self) -> None:
        files = (self.copy / "indico/batteries").glob("[!_]*.py")
        self.assertEqual(sorted(f"indico.batteries.{path.stem}" for path in files), sorted(BATTERIES))

    @slow
    def test_without_any_one_of_them_the_rest_works(self) -> None:
        for battery in BATTERIES:
            with self.subTest(battery):
                shutil.rmtree(self.copy)
                copy_checkout(self.copy)
                self.take_out(battery)
                others = [other.rpartition(".")[2] for other in BATTERIES if other != battery]
                tests = [*REST, *(f"tests.batteries.test_{other}" for other in others)]
                self.assertIn("OK", self.run_python("-m", "unittest", *(f"indico.{test}" for test in tests)))
