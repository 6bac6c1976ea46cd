"""
What hostile clients do to handlers of other kinds: the tests of `test_hostile`, once over a plain handler of
Tornado's, once over a page, and once without batteries; and some of them on uvloop.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from tornado.web import HTTPError, RequestHandler

from indico import server
from indico.core.hooks import Application
from indico.core.http.headers import HEADERS
from indico.core.http.pages import PageHandler
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.tests.core.http import test_hostile
from indico.tests.core.http.on_uvloop import UvloopTest
from indico.tests.core.http.test_hostile import LAST, ProbeHandler

ROUTES = [AuthRoute, UserRoute]


class PlainHandler(RequestHandler):
    """Does what ProbeHandler does, by Tornado's means alone."""

    in_flight: set[PlainHandler]

    def initialize(self) -> None:
        self.in_flight.add(self)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    async def post(self, action: str | None) -> None:
        text = self.request.body.decode("latin-1")
        if action == "hangs":
            ProbeHandler.test.started.set()
            await ProbeHandler.test.cancelled.wait()
        elif action == "large":
            self.respond(200, 10_000_000 * "a")
        elif action == "last":
            self.respond(LAST, "last")
        elif action == "echo":
            self.respond(200, text)
        else:
            raise HTTPError(404)

    def respond(self, status: int, data: Any) -> None:
        self.set_status(status)
        self.finish(json.dumps({"status": status, "data": data}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 405:
            self.set_header("Allow", "POST")
        self.respond(status_code, None)

    def on_finish(self) -> None:
        self.in_flight.discard(self)

    def on_connection_close(self) -> None:
        self.in_flight.discard(self)
        ProbeHandler.test.cancelled.set()


class ProbePage(PageHandler):
    """Does what ProbeHandler does, by GET."""

    def initialize(self) -> None:
        self.text = ""

    def data_received(self, chunk: bytes) -> Any:
        self.text += chunk.decode("latin-1")
        return super().data_received(chunk)

    async def get(self, action: str | None) -> None:
        test = ProbeHandler.test
        if action == "hangs":
            test.started.set()
            await test.cancelled.wait()
        elif action == "large":
            self.respond(10_000_000 * "a")
        elif action == "last":
            self.respond("last", LAST)
        elif action == "echo":
            self.respond(self.text)
        else:
            raise HTTPError(404)

    async def post(self, action: str | None = None) -> None:
        if action != "last":  # which is how a test closes the connection, whatever else is asked
            raise HTTPError(405)
        self.respond("last", LAST)

    def on_connection_close(self) -> None:
        super().on_connection_close()
        ProbeHandler.test.cancelled.set()


class OnPlainHandler(test_hostile.HostileTest):
    routes = [*ROUTES, (r"/probe/(?P<action>[a-zA-Z]+)?", PlainHandler)]

    def setUp(self) -> None:
        PlainHandler.in_flight = set()
        super().setUp()

    def count_in_flight(self) -> int:
        return super().count_in_flight() + len(PlainHandler.in_flight)


class OnPage(test_hostile.HostileTest):
    routes = [*ROUTES, (r"/probe/(?P<action>[a-zA-Z]+)?", ProbePage)]

    def setUp(self) -> None:
        patch = mock.patch.object(test_hostile, "method", "GET")
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()


class OnUvloop(UvloopTest, test_hostile.HostileTest):
    pass


class WithoutBatteries(test_hostile.HostileTest):
    """Where a response is written without Tornado's part of a handler."""

    def get_app(self) -> Application:
        with mock.patch.object(server, "BATTERIES", []):
            return super().get_app()


CASES: list[type[test_hostile.HostileTest]] = [
    test_hostile.VersionTest,
    test_hostile.HostTest,
    test_hostile.TargetTest,
    test_hostile.HeaderTest,
    test_hostile.LengthTest,
    test_hostile.ChunkTest,
    test_hostile.ExpectTest,
    test_hostile.PipelineTest,
    test_hostile.LeavingTest,
]
GET_IS_WRONG = {  # for envelopes
    "test_an_upgrade_is_not_taken",
    "test_a_get_with_a_body_does_not_confuse_the_connection",
    "test_good_and_bad_requests_are_answered_in_order",
}


def vary(base: type, cases: list[type[test_hostile.HostileTest]], left_out: set[str]) -> None:
    """Put these test cases, over another kind of handler, into this module."""
    for case in cases:
        name = base.__name__ + case.__name__
        hidden = dict.fromkeys(left_out & set(dir(case)))
        globals()[name] = type(name, (base, case), {"__module__": __name__, **hidden})


vary(WithoutBatteries, [test_hostile.MethodTest, *CASES], set())
vary(OnPlainHandler, [test_hostile.MethodTest, *CASES], set())
vary(OnPage, CASES, GET_IS_WRONG)
vary(OnUvloop, [test_hostile.PipelineTest, test_hostile.LeavingTest, test_hostile.ExpectTest], set())
