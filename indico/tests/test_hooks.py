"""
What batteries hook on to, shown with one that is only here: no battery needs to be installed for it.
"""

from __future__ import annotations

import json

from tornado.web import Application

from indico.error import TooManyRequests
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler, PageHandler
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils.server import ServerTest


class HornHandler(PageHandler):
    def get(self) -> None:
        self.respond("honk")


async def check(handler: IndicoHandler) -> None:
    if handler.action == "logout":
        raise TooManyRequests(7)


def install(application: Application) -> None:
    application.add_handlers(".*", [("/horn", HornHandler)])
    application.settings.setdefault("checks", []).append(check)


class HooksTest(ServerTest):
    routes = [AuthRoute]

    def get_app(self) -> Application:
        application = super().get_app()
        install(application)
        return application

    def test_a_page_is_read_by_get(self) -> None:
        answer = self.fetch("/horn")
        self.assertEqual((answer.code, json.loads(answer.body)), (200, {"status": 200, "data": "honk"}))

    def test_a_page_is_read_by_nothing_else(self) -> None:
        answer = self.fetch("/horn", method="POST", body="{}")
        self.assertEqual((answer.code, answer.headers["Allow"]), (405, "GET"))
        self.assertEqual(json.loads(answer.body)["data"], "POST is not allowed here, but GET is")

    def test_a_check_lets_an_action_pass_or_answers_it(self) -> None:
        self.assertEqual(self.post("auth/login", LOGIN_DATA)["status"], 200)
        answer = self.fetch("/auth/logout", method="POST", body="{}")
        self.assertEqual((answer.code, answer.headers["Retry-After"]), (429, "7"))
        self.assertEqual(json.loads(answer.body)["data"], "Too many requests, try again in 7 seconds")
