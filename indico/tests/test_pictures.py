"""
The pictures of the guide that are made from the code and the server. `PICTURES=1` writes them.
"""

from __future__ import annotations

import importlib.util
import json
import os
import runpy
import struct
import tempfile
import unittest
from pathlib import Path

from indico import config
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.browser import Browser, needs_browser
from indico.tests.testutils.pages import DOCS
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

WRITE = bool(os.environ.get("PICTURES"))
HOW = "PICTURES=1 SLOW_TESTS=1 python -m unittest indico.tests.test_pictures makes it again"
MAX_SIZE = 200_000  # bytes of a picture

needs_docs = unittest.skipUnless(
    DOCS.is_dir(), "docs/ is not there: the package is installed, and not a checkout"
)


@needs_docs
class RequestTest(ServerTest):
    routes = [AuthRoute, UserRoute]
    stores = ("auth", "user")

    def setUp(self) -> None:
        super().setUp()
        self.script = runpy.run_path(str(DOCS / "draw_request.py"))

    @slow
    def test_the_picture_of_a_request_is_that_of_the_code(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        calls = self.script["trace"](
            lambda: self.post("user/update", {"update_user": {"location": "London"}})
        )
        picture = self.script["draw"](calls)
        if WRITE:
            (DOCS / "request.svg").write_text(picture)
        self.assertEqual((DOCS / "request.svg").read_text(), picture, HOW)

    def test_a_step_that_is_gone_is_named(self) -> None:
        with self.assertRaisesRegex(KeyError, "parse_head"):
            self.script["draw"](
                [("indico/a.py", name) for name in self.script["STEPS"] if name != "parse_head"]
            )


@needs_docs
class DashboardTest(StrictTest):
    def test_the_picture_of_the_dashboard_has_its_panels_and_their_metrics(self) -> None:
        dashboard = json.loads((DOCS / "batteries/grafana.json").read_text())
        picture = runpy.run_path(str(DOCS / "draw_dashboard.py"))["draw"](dashboard)
        if WRITE:
            (DOCS / "batteries/grafana.svg").write_text(picture)
        self.assertEqual((DOCS / "batteries/grafana.svg").read_text(), picture, HOW)


@needs_docs
class DocsPageTest(ProcessTest):
    def test_the_picture_of_the_docs_page_is_small(self) -> None:
        header = (DOCS / "docs_page.png").read_bytes()
        self.assertLess(len(header), MAX_SIZE)
        self.assertGreaterEqual(struct.unpack(">I", header[16:20])[0], 900)

    @slow
    @needs_browser
    def test_the_picture_of_the_docs_page_can_be_made_again(self) -> None:
        if importlib.util.find_spec("indico.batteries.openapi") is None:
            self.skipTest("there is no description to show")
        server = self.start()
        with Browser() as browser, tempfile.TemporaryDirectory() as folder:
            browser.driver.set_window_size(1000, 1340)
            browser.open(f"{server.url}/docs")
            login = f'{{"access_token": "{config.DEV_TOKEN}", "oauth_id": "1", "user": {{"name": "Ada"}}}}'
            browser.send("/auth/login", login)
            browser.find("#note", "Logged in")
            browser.fold("/auth/login")
            browser.run("document.querySelector('[data-tag=pages]').click()")
            browser.run("document.activeElement.blur(); scrollTo(0, 0)")
            height = browser.run("return window.innerHeight")
            actions = browser.driver.find_elements("css selector", ".opblock-summary")
            self.assertGreater(len(actions), 5)
            for action in actions:
                self.assertLess(action.rect["y"] + action.rect["height"], height)
            picture = DOCS / "docs_page.png" if WRITE else Path(folder, "docs_page.png")
            browser.save_screenshot(picture)
            self.assertLess(picture.stat().st_size, MAX_SIZE)
