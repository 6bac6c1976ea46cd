"""
A real browser: headless Chromium, controlled by selenium.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any

PATIENCE = 30  # seconds
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1600",
    # Other hosts can't be resolved, so that no request leaves this machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")

REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))  # tests then fail without a browser, and are not skipped

needs_browser = unittest.skipUnless(
    REQUIRED or (CHROMIUM and DRIVER and importlib.util.find_spec("selenium")),
    "selenium, chromium and chromedriver are not all installed",
)


class Browser:
    """
    A browser with a temporary profile.

        with Browser() as browser:
            browser.open(server.url + "/docs")
            browser.find("button.authorize").click()
            self.assertEqual(browser.read_console(), [])
    """

    def __enter__(self) -> Browser:
        from selenium import webdriver

        self._folder = tempfile.TemporaryDirectory(prefix="indico-browser-")
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for option in (*OPTIONS, f"--user-data-dir={self._folder.name}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        try:
            self.driver: Any = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
        except BaseException:
            self._folder.cleanup()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.driver.quit()
        self._folder.cleanup()

    def open(self, url: str) -> None:
        self.driver.get(url)

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page, and return its result. Promises are awaited."""
        return self.driver.execute_script(script, *arguments)

    def find(self, selector: str, text: str = "") -> Any:
        """Wait for a visible element that matches this CSS selector and contains this text. Returns it."""
        from selenium.common.exceptions import StaleElementReferenceException
        from selenium.webdriver.support.ui import WebDriverWait

        def look(driver: Any) -> Any:
            elements = driver.find_elements("css selector", selector)
            return next((e for e in elements if e.is_displayed() and text in e.text), None)

        wait = WebDriverWait(self.driver, PATIENCE, ignored_exceptions=[StaleElementReferenceException])
        return wait.until(look, f"nothing matches {selector} with {text!r}")

    def fold(self, path: str) -> None:
        """On the docs page: unfold the action, or fold it again. A mouse may miss it while the page moves."""
        self.run("arguments[0].click()", self.find("button.opblock-summary-control", path))

    def send(self, path: str, body: str) -> None:
        """On the docs page: unfold the action, write this body, and press the button."""
        self.fold(path)
        self.execute(body)

    def execute(self, body: str) -> None:
        """On the docs page: write this body into the unfolded action, and press the button."""
        field = self.find("textarea.body-param__text")
        field.clear()
        self.run("arguments[0].focus(); document.execCommand('insertText', false, arguments[1])", field, body)
        self.find("button.execute").click()

    def read_console(self) -> list[str]:
        """Return the console's new lines since the last call, including errors."""
        return [f"{entry['level']}: {entry['message']}" for entry in self.driver.get_log("browser")]

    def read_requests(self) -> list[str]:
        """Return the URLs that pages have requested since the last call."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        sent = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
        urls = [params["request"]["url"] for params in sent]
        return [url for url in urls if not url.startswith(("chrome:", "data:", "blob:"))]

    def save_screenshot(self, path: Path | str) -> None:
        self.driver.save_screenshot(str(path))
