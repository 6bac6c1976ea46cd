"""
Pages on other origins, as a browser plays them: what it is told of what they may send and read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar
from unittest import mock

from tornado.httpclient import HTTPResponse

from indico import config
from indico.core.hooks import Application
from indico.error import Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import BATTERIES, make_app
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.browser import Browser, needs_browser
from indico.tests.testutils.process import ProcessTest, ServerProcess
from indico.tests.testutils.server import ServerTest

PAGE = "https://app.example.com"
OTHER_PAGE = "http://localhost:3000"
STRANGER = "https://evil.example.com"
ALLOW_ORIGIN = "Access-Control-Allow-Origin"
CREDENTIALS = "Access-Control-Allow-Credentials"


class CorsTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")
    origins: ClassVar[list[str]] = [PAGE, OTHER_PAGE]

    def get_app(self) -> Application:
        self.set(config, "CORS_ORIGINS", self.origins)
        return make_app(routes=self.routes)

    def ask(self, path: str = "/auth/check", origin: str | None = PAGE, **options: Any) -> HTTPResponse:
        headers = {**HEADERS, **options.pop("headers", {}), **({"Origin": origin} if origin else {})}
        options = {"method": "POST", "body": "{}", "headers": headers, **options}
        return self.fetch(path, allow_nonstandard_methods=True, **options)

    def preflight(self, path: str = "/auth/check", origin: str = PAGE) -> HTTPResponse:
        headers: Mapping[str, str] = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type,indico_key",
        }
        return self.fetch(path, method="OPTIONS", headers=headers)

    def envelope(self, response: HTTPResponse) -> Any:
        answer = json.loads(response.body)
        self.assertEqual(response.code, answer["status"])
        return answer["data"]

    def assert_no_cors(self, response: HTTPResponse) -> None:
        found = [name for name in response.headers if name.startswith("Access-Control-")]
        self.assertEqual(found, [])


class BusyHandler(IndicoHandler):
    def ask(self, data: bytes) -> None:
        raise Unavailable("Busy")


class ListTest(CorsTest):
    """With origins that are named."""

    def test_a_preflight_is_answered_with_what_may_be_sent(self) -> None:
        response = self.preflight()
        self.assertIs(self.envelope(response), True)
        self.assertEqual(response.headers[ALLOW_ORIGIN], PAGE)
        self.assertEqual(response.headers["Access-Control-Allow-Methods"], "GET, POST")
        self.assertEqual(
            response.headers["Access-Control-Allow-Headers"],
            "Authorization, Content-Type, Idempotency-Key, indico_key, X-Request-Id, baggage, sentry-trace,"
            " traceparent, tracestate, Webhook-URL",
        )
        self.assertEqual(response.headers["Access-Control-Max-Age"], "7200")
        self.assertEqual(response.headers[CREDENTIALS], "true")
        self.assertEqual(response.headers["Vary"], "Origin")

    def test_cors_headers_may_be_sent_as_well(self) -> None:
        with mock.patch.object(config, "CORS_HEADERS", ["X-App-Version", "X-Device"]):
            allowed = self.preflight().headers["Access-Control-Allow-Headers"].split(", ")
        self.assertEqual(allowed[-3:], ["Webhook-URL", "X-App-Version", "X-Device"])

    def test_a_preflight_is_answered_whatever_its_path(self) -> None:
        for path in ("/", "/health", "/auth/nope", "/nowhere"):
            with self.subTest(path):
                self.assertIs(self.envelope(self.preflight(path)), True)

    def test_an_answer_carries_the_headers_for_each_origin(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        for origin in (PAGE, OTHER_PAGE):
            with self.subTest(origin):
                response = self.ask(origin=origin)
                self.assertIs(self.envelope(response), True)
                self.assertEqual(response.headers.get_list(ALLOW_ORIGIN), [origin])
                self.assertEqual(response.headers.get_list("Vary"), ["Origin"])
                self.assertEqual(response.headers[CREDENTIALS], "true")
                self.assertEqual(
                    response.headers["Access-Control-Expose-Headers"],
                    "Idempotent-Replayed, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id",
                )

    def test_errors_carry_the_headers_once(self) -> None:
        self._app.add_handlers(".*", [(r"/busy/(?P<action>[a-zA-Z]+)?", BusyHandler)])
        for status, response in (
            (400, self.ask("/auth/login")),
            (401, self.ask()),
            (404, self.ask("/nowhere")),
            (404, self.ask("/auth/nope")),
            (405, self.ask(method="GET", body=None)),
            (405, self.ask(method="PURGE")),
            (413, self.ask(body="x" * (config.MAX_BODY_SIZE + 1))),
            (503, self.ask("/busy/ask")),
        ):
            with self.subTest(status):
                self.envelope(response)
                self.assertEqual(response.code, status)
                self.assertEqual(response.headers.get_list(ALLOW_ORIGIN), [PAGE])
                self.assertEqual(response.headers.get_list("Vary"), ["Origin"])

    @slow
    def test_a_page_of_another_origin_gets_what_it_would_get_without(self) -> None:
        for origin in (STRANGER, "null", PAGE + ".evil.com", PAGE.upper(), f"{PAGE}, {PAGE}"):
            with self.subTest(origin):
                response = self.preflight(origin=origin)
                self.assertEqual(self.envelope(response), "OPTIONS is not allowed here, but POST is")
                self.assertEqual(response.headers["Allow"], "POST")
                self.assert_no_cors(response)
                self.assert_no_cors(self.ask(origin=origin))

    def test_an_answer_without_the_headers_is_no_answer_for_a_page(self) -> None:
        for response in (self.ask(origin=None), self.ask(origin=STRANGER), self.preflight(origin=STRANGER)):
            self.assertEqual(response.headers.get_list("Vary"), ["Origin"])
            self.assert_no_cors(response)

    def test_an_options_that_is_no_preflight_is_405(self) -> None:
        response = self.ask(method="OPTIONS", body=None)
        self.assertEqual((response.code, response.headers["Allow"]), (405, "POST"))
        self.assertEqual(response.headers[ALLOW_ORIGIN], PAGE)

    def test_a_post_is_no_preflight_whatever_its_headers(self) -> None:
        response = self.ask(headers={"Access-Control-Request-Method": "POST"})
        self.assertEqual((response.code, response.headers[ALLOW_ORIGIN]), (401, PAGE))

    def test_a_preflight_with_a_body_that_is_too_large_is_413(self) -> None:
        response = self.ask(
            method="OPTIONS",
            body="x" * (config.MAX_BODY_SIZE + 1),
            headers={"Access-Control-Request-Method": "POST"},
        )
        self.assertEqual(response.code, 413)
        self.assertEqual(response.headers[ALLOW_ORIGIN], PAGE)


class AllTest(CorsTest):
    """With a star."""

    origins = ["*"]

    def test_every_page_may_ask_but_never_with_credentials(self) -> None:
        for response in (self.preflight(origin=STRANGER), self.ask(origin=STRANGER), self.ask("/nowhere")):
            self.assertEqual(response.headers[ALLOW_ORIGIN], "*")
            self.assertNotIn(CREDENTIALS, response.headers)
            self.assertNotIn("Vary", response.headers)

    def test_who_is_no_page_is_told_nothing(self) -> None:
        self.assert_no_cors(self.ask(origin=None))


class OffTest(CorsTest):
    """Without any, which is the default."""

    origins = []

    def test_a_preflight_is_405_and_nothing_carries_a_header(self) -> None:
        response = self.preflight()
        self.assertEqual(self.envelope(response), "OPTIONS is not allowed here, but POST is")
        self.assertEqual(response.headers["Allow"], "POST")
        for answer in (response, self.ask()):
            self.assert_no_cors(answer)
            self.assertNotIn("Vary", answer.headers)


# What a page does: it asks, and tells what it may read of the answer, or that the browser kept it back.
ASK = """
const [url, method, headers, body] = arguments
return fetch(url, {method, headers, body}).then(
  async response => [response.status, await response.json(), response.headers.get("Retry-After")],
  error => error.name)
"""


@slow
@needs_browser
class BrowserTest(ProcessTest):
    """A page in a real browser, which comes from another origin than the server that it asks."""

    def test_a_page_of_ours_is_let_in_and_all_others_are_kept_out(self) -> None:
        with ServerProcess() as page, ServerProcess() as stranger, Browser() as browser:
            server = self.start(
                CORS_ORIGINS=f"{page.url}, https://app.example.com",
                LOGIN_RATE="1/day",
                CORS_HEADERS="X-App-Version",
            )
            browser.open(page.url)
            data = json.dumps(LOGIN_DATA)
            guess = json.dumps({**LOGIN_DATA, "access_token": "guess"})
            status, answer, _ = browser.run(ASK, f"{server.url}/auth/login", "POST", {}, data)
            self.assertEqual(status, 200)
            key = {"indico_key": answer["data"]["indico_key"], "Content-Type": "application/json"}
            check = f"{server.url}/auth/check"
            self.assertEqual(
                browser.run(ASK, check, "POST", key, "{}"), [200, {"status": 200, "data": True}, None]
            )
            bearer = {"Authorization": f"Bearer {key['indico_key']}", "X-Request-Id": "1"}
            self.assertEqual(browser.run(ASK, check, "POST", bearer, "")[0], 200)
            traced = {**key, "traceparent": "1", "sentry-trace": "1", "baggage": "a=1", "X-App-Version": "7"}
            self.assertEqual(browser.run(ASK, check, "POST", traced, "")[0], 200)
            self.assertEqual(browser.run(ASK, check, "POST", {**key, "X-Other": "1"}, ""), "TypeError")
            for path, expected in (("auth/check", 401), ("auth/nope", 404), ("nowhere", 404)):
                wrong = {"indico_key": "0" * 56}
                self.assertEqual(browser.run(ASK, f"{server.url}/{path}", "POST", wrong, "")[0], expected)
            self.assertEqual(browser.run(ASK, check, "GET", {}, None)[0], 405)
            too_large = "x" * (config.MAX_BODY_SIZE + 1)
            self.assertEqual(browser.run(ASK, check, "POST", key, too_large)[0], 413)
            if "indico.batteries.limit" in BATTERIES:
                browser.run(ASK, f"{server.url}/auth/login", "POST", {}, guess)
                status, _, wait = browser.run(ASK, f"{server.url}/auth/login", "POST", {}, guess)
                self.assertEqual(status, 429)
                self.assertGreater(int(wait), 0)
            self.assertEqual(browser.run(ASK, check, "DELETE", key, None), "TypeError")

            browser.open(stranger.url)
            for headers in (key, {}):
                self.assertEqual(browser.run(ASK, check, "POST", headers, "{}"), "TypeError")

    def test_with_a_star_every_page_is_let_in_but_not_with_credentials(self) -> None:
        with ServerProcess() as page, Browser() as browser:
            server = self.start(CORS_ORIGINS="*")
            browser.open(page.url)
            headers = {"indico_key": "0" * 56}
            self.assertEqual(browser.run(ASK, f"{server.url}/auth/check", "POST", headers, "")[0], 401)
            with_credentials = ASK.replace("body}", 'body, credentials: "include"}')
            answer = browser.run(with_credentials, f"{server.url}/auth/check", "POST", headers, "")
            self.assertEqual(answer, "TypeError")
