"""
Resources that `python -m indico.new route` adds: that they work, and what is refused.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stdout
from unittest import mock

from indico.core.commands import new
from indico.core.commands.new import route
from indico.core.commands.new.__main__ import main
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import ROOT, CheckoutTest
from indico.tests.testutils.strict import StrictTest

MADE = (
    "indico/routes/tea_party.py",
    "indico/db/tea_party_db.py",
    "indico/tests/routes/test_tea_party.py",
    "indico/tests/db/test_tea_party_db.py",
)
FIELDS = '    "title": (str, True),\n    "note": (str, False),\n'


class RouteTest(CheckoutTest):
    """A test that adds routes to a copy of this checkout."""

    def setUp(self) -> None:
        super().setUp()
        self.server = self.copy / "indico/server.py"
        for module in (new, route):
            patch = mock.patch.object(module, "ROOT", self.copy)
            patch.start()
            self.addCleanup(patch.stop)

    def add(self, name: str) -> str:
        with redirect_stdout(io.StringIO()) as output:
            main(["route", name])
        self.assertLessEqual(max(map(len, output.getvalue().splitlines())), 80)
        return output.getvalue()

    def assert_refused(self, sentence: str, name: str) -> None:
        before = self.list_files()
        with self.assertRaises(SystemExit) as raised:
            self.add(name)
        self.assertIn(sentence, str(raised.exception))
        self.assertEqual(self.list_files(), before)

    def list_files(self) -> dict[str, tuple[int, int]]:
        """Return the size of each file, and when it was written."""
        entries = [entry for folder, *_ in os.walk(self.copy) for entry in os.scandir(folder)]
        return {entry.path: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in entries}


class AddedTest(RouteTest):
    @slow
    def test_the_tests_of_a_new_route_pass(self) -> None:
        output = self.add("tea_party")
        for path in MADE:
            self.assertIn(f"wrote {path}\n", output)
        modules = [path[:-3].replace("/", ".") for path in MADE if "/tests/" in path]
        self.assertIn("OK", self.run_python("-m", "unittest", *modules))

    @slow
    def test_its_tests_survive_another_schema(self) -> None:
        self.add("tea_party")
        path = self.copy / "indico/db/tea_party_db.py"
        text = path.read_text().replace("import Annotated", "import Annotated, Any, Literal")
        before, after = text.replace("\nfrom typing ", "\nimport datetime\nfrom typing ", 1).split(FIELDS)
        for fields in (
            '"item": (str, True), "count": (int, True), "paid": (bool, False),',
            '"tags": (list[str], True), "size": (Literal["s", "m"], True), "at": (int | None, False),',
            '"anything": (Any, True), "price": (float, False), "address": (dict[str, Any], False),',
            '"day": (datetime.date, False), "items": (list[dict[str, int]], True), "any": (list, False),',
        ):
            with self.subTest(fields):
                path.write_text(before + fields + after)
                modules = [name[:-3].replace("/", ".") for name in MADE if "/tests/" in name]
                self.assertIn("OK", self.run_python("-m", "unittest", *modules))

    @slow
    def test_its_description_has_its_schema_its_page_and_its_404(self) -> None:
        self.add("tea_party")
        script = (
            "import json\n"
            "from indico.batteries.openapi import describe_application\n"
            "from indico.server import make_app\n"
            "print(json.dumps(describe_application(make_app())))"
        )
        document = json.loads(self.run_python("-c", script))
        paths = {
            path.rpartition("/")[2]: operations["post"]
            for path, operations in document["paths"].items()
            if path.startswith("/tea_party/")
        }
        self.assertEqual(set(paths), {"create", "find", "page", "update", "remove"})
        with_404 = {action for action, operation in paths.items() if "404" in operation["responses"]}
        self.assertEqual(with_404, {"find", "update", "remove"})
        body = paths["create"]["requestBody"]["content"]["application/json"]["schema"]
        fields = body["properties"]["tea_party"]
        self.assertEqual(list(fields["properties"]), ["title", "note"])
        self.assertEqual((fields["additionalProperties"], fields["minProperties"]), (False, 1))
        page = document["components"]["schemas"]["TeaPartyPage"]
        self.assertEqual(list(page["properties"]["items"]["items"]["properties"]), ["_id", "title", "note"])

    @slow
    def test_the_server_serves_a_new_route(self) -> None:
        self.add("tea_party")
        script = "from indico.server import ROUTES; print(ROUTES[-1][0])"
        self.assertEqual(self.run_python("-c", script), "/tea_party/(?P<action>[a-zA-Z]+)?\n")

    @slow
    def test_its_import_stands_where_it_belongs(self) -> None:
        for name in ("apple", "zebra"):
            self.add(name)
        imports = [line for line in self.server.read_text().splitlines() if line.startswith("from indico")]
        self.assertEqual(imports, sorted(imports))

    def test_a_list_with_a_line_for_each_route_gets_another(self) -> None:
        self.server.write_text("from indico import db\n\nROUTES: list[Route] = [\n    db,\n]\n")
        self.add("tea_party")
        self.assertEqual(
            self.server.read_text(),
            "from indico import db\nfrom indico.routes.tea_party import TeaPartyRoute\n\n"
            "ROUTES: list[Route] = [\n    db,\n    TeaPartyRoute,\n]\n",
        )

    def test_without_ruff_it_says_how_to_get_it(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            self.assertIn("pip install -e '.[dev]'", self.add("tea_party"))

    @slow
    def test_names_of_any_usual_length_leave_the_code_as_clean(self) -> None:
        self.needs("mypy", "ruff")
        for name in ("ad", "zebra", "box", "subscription", "delivery_address"):
            self.add(name)
        with mock.patch.object(importlib.util, "find_spec", return_value=None):  # where there is no ruff
            self.assertIn("ruff is not installed here", self.add("tea_party"))
        for words in (("ruff", "check", "."), ("ruff", "format", "--check", "."), ("mypy",)):
            self.run_python("-m", *words)


class RenamingTest(StrictTest):
    def test_more_than_one_of_them_has_a_name_too(self) -> None:
        for name, several in (("story", "stories"), ("toy", "toys"), ("box", "boxes"), ("tea", "teas")):
            self.assertEqual(route.rename("Orders, orders", name), f"{several.capitalize()}, {several}")

    def test_a_name_may_hold_the_word_order(self) -> None:
        renamed = route.rename("Orders, orders, Order, order, ORDER", "tea_order")
        self.assertEqual(renamed, "Tea_orders, tea_orders, TeaOrder, tea_order, TEA_ORDER")


class RefusedTest(RouteTest):
    def test_what_is_no_name(self) -> None:
        for name in ("Order", "tea-party", "order2", "class", "_order", "order_", ""):
            with self.subTest(name):
                self.assert_refused("can't be the name of a resource", name)

    def test_what_has_a_meaning_already(self) -> None:
        for name in ("list", "page", "limit", "name", "command", "migration", "db"):
            with self.subTest(name):
                self.assert_refused(f"{name} is already used", name)

    def test_what_is_there_already(self) -> None:
        self.add("tea_party")
        for name, path in (
            ("tea_party", "routes/tea_party.py"),
            ("handler", "routes/handler.py"),
            ("user", "routes/user.py"),
        ):
            with self.subTest(name):
                self.assert_refused(f"indico/{path} already exists. It was not changed.", name)
        (self.copy / "indico/tests/db/test_tea_cup_db.py").touch()
        self.assert_refused("indico/tests/db/test_tea_cup_db.py already exists", "tea_cup")

    def test_a_server_without_a_list_of_routes(self) -> None:
        self.server.write_text("from indico import config\n")
        self.assert_refused("indico/server.py has no list ROUTES", "tea_party")

    def test_an_installed_package(self) -> None:
        (self.copy / "setup.py").unlink()
        self.assert_refused("indico is installed here without its checkout", "tea_party")

    @slow
    def test_the_command_says_it_in_a_sentence(self) -> None:
        command = [sys.executable, "-m", "indico.new", "route", "user"]
        process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        self.assertEqual(process.returncode, 1)
        self.assertEqual(process.stderr, "indico/routes/user.py already exists. It was not changed.\n")
