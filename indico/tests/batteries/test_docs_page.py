"""
The page to read the API's description and try it: alone, and in a real browser.
"""

from __future__ import annotations

import importlib.util
import json
from typing import Any

from indico import config
from indico.batteries import docs_page
from indico.core.hooks import Application
from indico.server import make_app
from indico.tests.mocks import OAUTH_ID, USER_ID
from indico.tests.testutils import slow
from indico.tests.testutils.browser import Browser, needs_browser
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest


class PageTest(ServerTest):
    stores = False

    def test_the_page_allows_nothing_from_elsewhere(self) -> None:
        response = self.fetch("/docs")
        self.assertEqual((response.code, response.headers["Content-Type"]), (200, "text/html; charset=UTF-8"))
        policy = response.headers["Content-Security-Policy"]
        self.assertTrue(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; "))
        self.assertNotIn("unsafe", policy)
        self.assertNotIn(b"://", response.body)

    def test_files_have_their_types_and_may_be_kept_for_a_while(self) -> None:
        for name, content_type in (
            ("swagger-ui.js", "text/javascript"),
            ("swagger-ui.css", "text/css"),
            ("page.js", "text/javascript"),
            ("page.css", "text/css"),
        ):
            response = self.fetch(f"/docs/{name}")
            self.assertEqual((response.code, response.headers["Content-Type"]), (200, content_type))
            self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")
            self.assertEqual(response.headers["Cache-Control"], "max-age=3600")
            self.assertGreater(len(response.body), 100)

    def test_other_files_are_not_found(self) -> None:
        for name in ("plugin.py", "..", "../docs", "%2e%2e/plugin.py", "page.js/"):
            response = self.fetch(f"/docs/{name}")
            self.assertEqual((response.code, json.loads(response.body)["status"]), (404, 404))
            self.assertEqual(response.headers["Cache-Control"], "no-store")

    def test_only_get_is_allowed(self) -> None:
        for path in ("/docs", "/docs/page.js"):
            response = self.fetch(path, method="POST", body="")
            self.assertEqual((response.code, response.headers["Allow"]), (405, "GET, HEAD"))
            self.assertEqual(json.loads(response.body)["status"], 405)

    def test_development_names_it_at_start(self) -> None:
        self.assertEqual(self._app.hooks.welcome_pages["docs page"], "/docs")


class OffTest(ServerTest):
    stores = False

    def get_app(self) -> Application:
        self.addCleanup(setattr, config, "DOCS", config.DOCS)
        config.DOCS = False
        return make_app(routes=self.routes)

    def test_without_docs_it_is_not_found(self) -> None:
        for path in ("/docs", "/docs/page.js"):
            self.assertEqual(self.fetch(path).code, 404)
        self.assertNotIn("docs page", self._app.hooks.welcome_pages)


class MissingTest(ServerTest):
    stores = False

    def get_app(self) -> Application:
        self.addCleanup(setattr, docs_page, "ASSETS", docs_page.ASSETS)
        docs_page.ASSETS = "nowhere_to_be_found"
        with self.assertLogs("indico", "WARNING") as log:
            application = make_app(routes=self.routes)
        self.warnings = [record.getMessage() for record in log.records]
        return application

    def test_without_its_package_the_server_says_so_once_and_serves_all_else(self) -> None:
        self.assertEqual(self.warnings, ["There is no docs page: install the extra docs-page, or set DOCS=0"])
        self.assertEqual(self.fetch("/docs").code, 404)


@slow
@needs_browser
class BrowserTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        if importlib.util.find_spec("indico.batteries.openapi") is None:
            self.skipTest("there is no description to show")

    def call(self, browser: Browser, path: str, data: Any) -> None:
        """What a person does: unfold the action, write a body, and press the button."""
        browser.find(".opblock-summary", path).click()
        body = browser.find("textarea.body-param__text")
        body.clear()
        body.send_keys(json.dumps(data))
        browser.find("button.execute").click()

    def test_a_person_logs_in_and_tries_an_action_and_nothing_leaves_the_machine(self) -> None:
        server = self.start()
        with Browser() as browser:
            browser.open(f"{server.url}/docs")
            login = {"access_token": config.DEV_TOKEN, "oauth_id": OAUTH_ID, "user": {"name": "Ada"}}
            self.call(browser, "/auth/login", login)
            browser.find("#note", "Logged in")
            browser.find(".live-responses-table", USER_ID)
            browser.find(".opblock-summary", "/auth/login").click()
            self.call(browser, "/user/update", {"update_user": {"location": "London"}})
            browser.find(".live-responses-table", '"location": "London"')
            browser.find(".live-responses-table", '"name": "Ada"')
            self.assertEqual(browser.read_console(), [])
            requests = browser.read_requests()
        self.assertIn(f"{server.url}/user/update", requests)
        self.assertEqual([url for url in requests if not url.startswith(server.url)], [])
        stored = self.database.user.find_one({"user_id": USER_ID}) or {}
        self.assertEqual((stored["name"], stored["location"]), ("Ada", "London"))
