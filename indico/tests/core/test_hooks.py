"""
What batteries hook on to, shown with one that is only here: no battery needs to be installed for it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from indico import config
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.error import IndicoError
from indico.routes.auth import AuthHandler, AuthRoute
from indico.routes.handler import IndicoHandler
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils.server import ServerTest


class TooLoud(IndicoError):
    retry_after = 7

    def __init__(self) -> None:
        super().__init__("Too loud", 429)


class HornHandler(PageHandler):
    def get(self) -> None:
        self.respond("honk")


class TuneHandler(PageHandler):
    content_type = "audio/mpeg"

    def get(self) -> None:
        self.send(b"toot")


async def check(handler: IndicoHandler) -> None:
    if handler.action == "logout":
        raise TooLoud()


@asynccontextmanager
async def live(application: Application) -> AsyncIterator[None]:
    application.settings["alive"] = True
    yield
    application.settings["alive"] = False


def install(application: Application) -> None:
    application.add_handlers(".*", [("/horn", HornHandler), ("/tune", TuneHandler)])
    application.hooks.before_action.append(check)
    application.hooks.lifespans.append(live)


class HooksTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")

    def get_app(self) -> Application:
        application = super().get_app()
        install(application)
        return application

    def test_a_page_is_read_by_get(self) -> None:
        answer = self.fetch("/horn")
        self.assertEqual((answer.code, json.loads(answer.body)), (200, {"status": 200, "data": "honk"}))

    def test_a_page_may_be_no_envelope(self) -> None:
        answer = self.fetch("/tune")
        self.assertEqual((answer.body, answer.headers["Content-Type"]), (b"toot", "audio/mpeg"))

    def test_of_a_page_that_is_asked_for_by_head_the_body_is_left_out(self) -> None:
        answer = self.fetch("/tune", method="HEAD")
        self.assertEqual((answer.code, answer.body, answer.headers["Content-Length"]), (200, b"", "4"))

    def test_a_lifespan_surrounds_serving(self) -> None:
        settings = self._app.settings
        self.assertIs(settings["alive"], True)
        self.addCleanup(lambda: self.assertIs(settings["alive"], False))

    def test_a_login_says_whom_it_is_for(self) -> None:
        subjects: list[str | None] = []

        async def note(handler: AuthHandler) -> None:
            subjects.append(handler.subject)

        self._app.hooks.before_action.append(note)
        for token in ("guess", config.DEV_TOKEN):
            self.post("auth/login", {**LOGIN_DATA, "access_token": token})
        self.assertEqual(subjects, [f"oauth_id {LOGIN_DATA['oauth_id']}", None])

    def test_a_page_is_read_by_nothing_else(self) -> None:
        answer = self.fetch("/horn", method="POST", body="{}")
        self.assertEqual((answer.code, answer.headers["Allow"]), (405, "GET, HEAD"))
        self.assertEqual(json.loads(answer.body)["data"], "POST is not allowed here, but GET or HEAD is")

    def test_a_check_lets_an_action_pass_or_answers_it(self) -> None:
        self.assertEqual(self.post("auth/login", LOGIN_DATA)["status"], 200)
        answer = self.fetch("/auth/logout", method="POST", body="{}")
        self.assertEqual((answer.code, answer.headers["Retry-After"]), (429, "7"))
        self.assertEqual(json.loads(answer.body)["data"], "Too loud")
