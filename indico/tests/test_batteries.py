"""
Batteries come out one by one: without its file, its test, its page and its line all else works.
"""

from __future__ import annotations

from pathlib import Path

from indico.projects.parts import PARTS
from indico.server import BATTERIES
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import CheckoutTest

# What serves requests, and so meets whatever batteries hook on to them.
REST = (
    "routes.test_auth",
    "routes.test_user",
    "routes.test_handler",
    "test_docs.PagesTest",
)


class BatteriesTest(CheckoutTest):
    def run_suite(self, *names: str) -> None:
        self.run_python("-m", "unittest", *(f"indico.tests.{name}" for name in names))

    @slow
    def test_every_battery_has_its_line_and_every_line_its_battery(self) -> None:
        files = (self.copy / "indico/batteries").glob("[!_]*")
        self.assertEqual(sorted(f"indico.batteries.{path.stem}" for path in files), sorted(BATTERIES))

    @slow
    def test_without_them_the_rest_works_and_each_works_without_the_others(self) -> None:
        """The rest works with none, and each works alone, or with those that it needs."""
        server = self.copy / "indico/server.py"
        lines = server.read_text().splitlines(keepends=True)
        aside = self.copy / "aside"
        aside.mkdir()

        def move(battery: str, source: Path, target: Path) -> None:
            """What docs/batteries.rst says, and the page; the module and its test may be folders."""
            name = battery.rpartition(".")[2]
            for place in (
                f"indico/batteries/{name}",
                f"indico/tests/batteries/test_{name}",
                f"docs/batteries/{name}",
            ):
                for path in source.glob(f"{place}*"):
                    if path.stem == Path(place).name:
                        (target / place).parent.mkdir(parents=True, exist_ok=True)
                        path.rename(target / Path(place).parent / path.name)

        def write_server(*kept: str) -> None:
            left_out = [f'    "{battery}",\n' for battery in BATTERIES if battery not in kept]
            self.assertLessEqual(set(left_out), set(lines))
            server.write_text("".join(line for line in lines if line not in left_out))

        for battery in BATTERIES:
            move(battery, self.copy, aside)
        write_server()
        self.run_suite(*REST)
        for battery in BATTERIES:
            name = battery.rpartition(".")[2]
            kept = [battery, *(f"indico.batteries.{need}" for need in PARTS[name].needs)]
            with self.subTest(battery):
                for each in kept:
                    move(each, aside, self.copy)
                write_server(*kept)
                self.run_suite(f"batteries.test_{name}", "test_docs.PagesTest")
                for each in kept:
                    move(each, self.copy, aside)
