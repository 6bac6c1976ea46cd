"""
The page to read the API's description and try it: alone, and in a real browser.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from typing import Any

from indico import config
from indico.batteries import docs_page
from indico.core.hooks import Application
from indico.server import make_app
from indico.tests.mocks import OAUTH_ID, USER_ID
from indico.tests.testutils import slow
from indico.tests.testutils.browser import REQUIRED, Browser, needs_browser
from indico.tests.testutils.pages import DOCS
from indico.tests.testutils.process import ProcessTest, wait_until
from indico.tests.testutils.server import ServerTest

SERVER = """
import asyncio
from collections.abc import AsyncIterator
from indico import server
from indico.routes.handler import IndicoHandler
from indico.utils import LOGGER, Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

class ShelfHandler(IndicoHandler):
    @auth
    @unpack("step")
    @type_check(int)
    async def count(self, step: int) -> AsyncIterator[int]:
        try:
            for number in range(3 if step < 100 else 1000):
                yield number * step
                await asyncio.sleep(0.2)
        finally:
            LOGGER.info("the stream has ended")

    @auth
    @unpack("title", "image")
    @type_check(str, Upload)
    async def save(self, title: str, image: Upload) -> str:
        return f"{title}, {image.name}: {image.size} bytes"

server.ROUTES.append((r"/shelf/(?P<action>[a-zA-Z]+)?", ShelfHandler))
server.main(debug=False, port=0)
"""
NO_NPM = "axe-core can't be installed: npm is missing, or can't reach its registry"
LOGIN = {"access_token": config.DEV_TOKEN, "oauth_id": OAUTH_ID, "user": {"name": "Ada"}}
DESKTOP = (1200, 1600)
PHONE = (390, 844)  # pixels
TITLE, IMAGE = "[data-property-name=title] input", "[data-property-name=image] input"
WRONG, WRONG_TYPE = '{"step": "seven"}', "is type str but should be int"
# What axe finds in Swagger UI. docs/batteries/docs_page.rst lists it.
KNOWN = {
    "button-name",
    "color-contrast",
    "heading-order",
    "label",
    "landmark-unique",
    "nested-interactive",
    "scrollable-region-focusable",
}


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

    def test_what_is_known_of_swagger_ui_is_listed(self) -> None:
        page = DOCS / "batteries/docs_page.rst"
        if not page.exists():
            self.skipTest("the guide is not there: the package is installed without its checkout")
        for rule in KNOWN:
            self.assertIn(f"``{rule}``", page.read_text())

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
        self.addCleanup(setattr, docs_page, "PACKAGE", docs_page.PACKAGE)
        docs_page.PACKAGE = "nowhere_to_be_found"
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
    browser: Browser

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.browser = cls.enterClassContext(Browser())

    def setUp(self) -> None:
        super().setUp()
        if importlib.util.find_spec("indico.batteries.openapi") is None:
            self.skipTest("there is no description to show")
        self.server = self.start(script=SERVER)
        self.browser.driver.set_window_size(*DESKTOP)
        self.browser.read_requests()  # of the test before
        self.browser.open(f"{self.server.url}/docs")

    def tearDown(self) -> None:
        self.assertEqual(self.browser.read_console(), self.console)
        super().tearDown()

    console: list[str] = []

    def send(self, path: str, data: Any) -> None:
        self.browser.send(path, json.dumps(data))

    def log_in(self) -> None:
        self.send("/auth/login", LOGIN)
        self.browser.find("#note", "Logged in")
        self.browser.find(".live-responses-table", USER_ID)
        self.browser.fold("/auth/login")

    def test_a_person_logs_in_and_tries_an_action_and_nothing_leaves_the_machine(self) -> None:
        self.log_in()
        self.send("/user/update", {"update_user": {"location": "London"}})
        self.browser.find(".live-responses-table", '"location": "London"')
        self.browser.find(".live-responses-table", '"name": "Ada"')
        requests = self.browser.read_requests()
        self.assertIn(f"{self.server.url}/user/update", requests)
        self.assertEqual([url for url in requests if not url.startswith(self.server.url)], [])
        stored = self.database.user.find_one({"user_id": USER_ID}) or {}
        self.assertEqual((stored["name"], stored["location"]), ("Ada", "London"))

    def test_a_stream_is_shown_as_it_comes_and_clear_ends_it(self) -> None:
        self.log_in()
        self.send("/shelf/count", {"step": 100})
        self.browser.find(".live-responses-table", '{"status":200,"data":300}')
        self.assertNotIn("the stream has ended", self.server.output)
        self.browser.find("button.btn-clear").click()
        wait_until(lambda: "the stream has ended" in self.server.output, "the end of the stream")
        self.assertEqual(self.browser.driver.find_elements("css selector", ".live-responses-table"), [])

    def test_a_stream_is_shown_whole(self) -> None:
        self.log_in()
        self.send("/shelf/count", {"step": 7})
        response = self.browser.find(".live-responses-table", "event: end")
        for number in (0, 7, 14):
            self.assertEqual(response.text.count(f'{{"status":200,"data":{number}}}'), 1)

    def test_an_error_is_shown_with_its_sentence(self) -> None:
        self.console = [self.describe_failure("/user/find", "401 (Unauthorized)")]
        self.browser.fold("/user/find")
        self.browser.find("button.execute").click()
        self.browser.find(".live-responses-table", "User not authenticated")

    def test_all_of_it_can_be_done_on_the_width_of_a_telephone(self) -> None:
        self.console = [self.describe_failure("/shelf/count", "400 (Bad Request)")]
        self.browser.driver.set_window_size(*PHONE)
        self.log_in()
        self.send("/user/update", {"update_user": {"location": "London"}})
        self.browser.find(".live-responses-table", '"location": "London"')
        self.browser.fold("/user/update")
        (self.folder / "tea.png").write_bytes(b"12345")
        self.browser.fold("/shelf/save")
        title = self.browser.find(TITLE)
        title.clear()
        title.send_keys("Tea")
        self.browser.find(IMAGE).send_keys(str(self.folder / "tea.png"))
        self.browser.find("button.execute").click()
        self.browser.find(".live-responses-table", "Tea, tea.png: 5 bytes")
        self.browser.fold("/shelf/save")
        self.send("/shelf/count", {"step": 7})
        self.browser.find(".live-responses-table", "event: end")
        self.browser.execute(WRONG)
        self.browser.find(".live-responses-table", WRONG_TYPE)
        wider = self.browser.run(
            "const page = document.documentElement; return page.scrollWidth - page.clientWidth"
        )
        self.assertEqual(wider, 0)

    def test_the_keyboard_alone_will_do(self) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        def press(*keys: str) -> None:
            self.browser.driver.switch_to.active_element.send_keys(*keys)

        def go_to(selector: str, text: str = "", back: bool = False) -> None:
            is_there = (
                "const e = document.activeElement;"
                "return e.matches(arguments[0]) && e.textContent.includes(arguments[1])"
            )
            for _ in range(100):
                tab = ActionChains(self.browser.driver, duration=0).send_keys(Keys.TAB)
                if back:
                    tab = ActionChains(self.browser.driver, duration=0).key_down(Keys.SHIFT)
                    tab.send_keys(Keys.TAB).key_up(Keys.SHIFT)
                tab.perform()
                if self.browser.run(is_there, selector, text):
                    return
            self.fail(f"the key Tab does not lead to {selector} {text}")

        def unfold(path: str) -> None:
            go_to("button.opblock-summary-control", path)
            press(Keys.ENTER)

        def execute(body: str = "", back: bool = False) -> None:
            if body:
                go_to("textarea.body-param__text", back=back)
                press(Keys.CONTROL, "a")
                press(body)
            go_to("button.execute")
            press(Keys.ENTER)

        self.console = [self.describe_failure("/shelf/count", "400 (Bad Request)")]
        (self.folder / "tea.png").write_bytes(b"12345")
        self.browser.find(".opblock-summary", "/auth/login")
        unfold("/auth/login")
        execute(json.dumps(LOGIN))
        self.browser.find("#note", "Logged in")
        unfold("/user/find")
        execute()
        self.browser.find(".live-responses-table", '"name": "Ada"')
        unfold("/shelf/count")
        execute(WRONG)
        self.browser.find(".live-responses-table", WRONG_TYPE)
        execute('{"step": 100}', back=True)
        self.browser.find(".live-responses-table", '{"status":200,"data":300}')
        go_to("button.btn-clear")
        press(Keys.ENTER)
        wait_until(lambda: "the stream has ended" in self.server.output, "the end of the stream")
        unfold("/shelf/save")
        go_to(TITLE)
        press(Keys.CONTROL, "a")
        press("Tea")
        go_to(IMAGE)
        press(str(self.folder / "tea.png"))
        execute()
        self.browser.find(".live-responses-table", "Tea, tea.png: 5 bytes")

    def test_axe_finds_nothing_but_what_is_known_of_swagger_ui(self) -> None:
        npm = shutil.which("npm")
        command = [npm or "npm", "install", "--silent", "axe-core@4"]
        if npm is None or subprocess.run(command, cwd=self.folder, capture_output=True).returncode:
            self.assertFalse(REQUIRED, NO_NPM)
            self.skipTest(NO_NPM)
        axe = (self.folder / "node_modules/axe-core/axe.min.js").read_text()
        self.console = [self.describe_failure("/shelf/count", "400 (Bad Request)")]
        self.browser.driver.set_script_timeout(60)
        self.log_in()
        self.send("/shelf/count", {"step": 7})
        self.browser.find(".live-responses-table", "event: end")
        self.browser.fold("/shelf/save")
        self.browser.find(IMAGE)
        self.assert_accessible(axe)
        self.browser.execute(WRONG)
        self.browser.find(".live-responses-table", WRONG_TYPE)
        self.browser.driver.set_window_size(*PHONE)
        self.assert_accessible(axe)

    def assert_accessible(self, axe: str) -> None:
        script = f"{axe}; const done = arguments[0]; axe.run().then(result => done(result.violations))"
        found = self.browser.driver.execute_async_script(script)
        ours = "const e = document.querySelector(arguments[0]); return !e.closest('.swagger-ui')"
        for rule in found:
            for node in rule["nodes"]:
                self.assertFalse(self.browser.run(ours, node["target"][0]), (rule["id"], node["html"]))
        unknown = {
            rule["id"]: [node["html"] for node in rule["nodes"]] for rule in found if rule["id"] not in KNOWN
        }
        self.assertEqual(unknown, {})

    def describe_failure(self, path: str, status: str) -> str:
        """Return what the browser writes to its console when a request fails."""
        failure = "Failed to load resource: the server responded with a status of"
        return f"SEVERE: {self.server.url}{path} - {failure} {status}"
