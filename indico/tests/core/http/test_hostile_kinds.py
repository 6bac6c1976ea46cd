"""
What hostile clients do to handlers of other kinds: the tests of `test_hostile`, once over a plain handler of
Tornado's, a page, a WebSocket, and without batteries; and some of them on uvloop.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, ClassVar
from unittest import mock

from tornado.web import HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from indico import server
from indico.core.hooks import Application
from indico.core.http.headers import HEADERS
from indico.core.http.pages import PageHandler
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.tests.core.http import test_hostile
from indico.tests.core.http.on_uvloop import UvloopTest
from indico.tests.core.http.test_hostile import LAST, ProbeHandler
from indico.tests.testutils import slow

ROUTES = [AuthRoute, UserRoute]
CLOSE_FRAME = b"\x88\x80\0\0\0\0"
HANDSHAKE = [
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZQ==",
]


class TornadosHandler(RequestHandler):
    """Responds in envelopes by Tornado's means alone."""

    allowed = "POST"
    in_flight: ClassVar[set[TornadosHandler]]

    def initialize(self) -> None:
        self.in_flight.add(self)

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)

    def respond(self, status: int, data: Any) -> None:
        self.set_status(status)
        self.finish(json.dumps({"status": status, "data": data}))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if status_code == 405:
            self.set_header("Allow", self.allowed)
        self.respond(status_code, None)


class PlainHandler(TornadosHandler):
    """Does what ProbeHandler does."""

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


class ProbeSocket(TornadosHandler, WebSocketHandler):
    """A WebSocket whose first message is the body of the handshake."""

    allowed = "GET"

    async def get(self, action: str | None = None) -> None:
        if action not in ("echo", "hangs", "large"):
            raise HTTPError(404)
        await super().get(action)

    async def open(self, action: str) -> None:
        if action == "hangs":
            ProbeHandler.test.started.set()
            return
        with suppress(WebSocketClosedError):
            message = 10_000_000 * b"a" if action == "large" else self.request.body
            await self.write_message(message, binary=True)

    async def post(self, action: str | None = None) -> None:
        if action != "last":
            raise HTTPError(405)
        self.respond(LAST, "last")

    def on_message(self, message: str | bytes) -> None:
        pass

    def on_finish(self) -> None:
        if self.get_status() != 101:
            self.in_flight.discard(self)

    def on_close(self) -> None:
        self.in_flight.discard(self)
        ProbeHandler.test.cancelled.set()


@slow
class OnTornadosHandler(test_hostile.HostileTest):
    parses_queries = True

    def setUp(self) -> None:
        TornadosHandler.in_flight = set()
        super().setUp()

    def count_in_flight(self) -> int:
        return super().count_in_flight() + len(TornadosHandler.in_flight)


class OnPlainHandler(OnTornadosHandler):
    routes = [*ROUTES, (r"/probe/(?P<action>[a-zA-Z]+)?", PlainHandler)]


class OnWebSocket(OnTornadosHandler):
    routes = [*ROUTES, (r"/probe/(?P<action>[a-zA-Z]+)?", ProbeSocket)]
    allowed = "GET"
    begin = b"HTTP/1.1 101 Switching Protocols\r\n"

    def setUp(self) -> None:
        self.set(test_hostile, "method", "GET")
        self.set(test_hostile, "handshake", HANDSHAKE)
        super().setUp()

    def make_last(self, *statuses: int) -> bytes:
        """What follows a handshake are frames."""
        return CLOSE_FRAME if 200 in statuses else super().make_last()


class OnPage(test_hostile.HostileTest):
    routes = [*ROUTES, (r"/probe/(?P<action>[a-zA-Z]+)?", ProbePage)]
    allowed = "GET, HEAD"
    parses_queries = True

    def setUp(self) -> None:
        self.set(test_hostile, "method", "GET")
        super().setUp()


class OnUvloop(UvloopTest, test_hostile.HostileTest):
    pass


@slow
class WithoutBatteries(test_hostile.HostileTest):
    """Where a response is written without Tornado's part of a handler."""

    def get_app(self) -> Application:
        with mock.patch.object(server, "BATTERIES", []):
            return super().get_app()


CASES: list[type[test_hostile.HostileTest]] = [
    test_hostile.MethodTest,
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
NO_REQUEST_FOLLOWS = {  # a handshake: `test_websockets` has what precedes and what follows it
    "test_a_body_longer_than_declared_is_the_next_request",
    "test_a_body_without_a_length_is_the_next_request",
    "test_a_client_that_half_closes_while_it_waits_has_left",
    "test_a_connection_that_is_half_closed_after_an_answer_is_closed",
    "test_an_empty_line_before_a_request_is_skipped",
    "test_clients_may_leave_between_pipelined_requests",
    "test_good_and_bad_requests_are_answered_in_order",
    "test_good_requests_in_one_piece_are_answered_in_order",
    "test_what_follows_a_body_too_large_is_not_answered",
    "test_what_follows_a_close_is_not_answered",
    "test_what_follows_nonsense_is_not_answered",
}
NO_HANDSHAKE = {  # without HTTP/1.1, a host and the same site, or for another upgrade or another handler
    "test_a_client_may_leave_after_each_byte_of_a_chunked_request",
    "test_a_client_may_leave_after_each_byte_of_a_request",
    "test_a_host_may_be_empty",
    "test_a_thousand_requests_are_answered_one_by_one",
    "test_an_upgrade_is_not_taken",
    "test_another_minor_version_is_answered",
    "test_headers_of_another_site_make_no_difference",
    "test_http_1_0_is_answered_and_closed",
    "test_http_1_0_needs_no_host",
    "test_http_1_0_with_keep_alive_is_kept_alive",
    "test_the_body_of_a_request_for_an_upgrade_is_no_other_request",
    "test_thousands_of_requests_for_an_upgrade_at_once",
}


def vary(base: type, cases: list[type[test_hostile.HostileTest]], left_out: set[str]) -> None:
    """Put these test cases, over another kind of handler, into this module."""
    for case in cases:
        name = base.__name__ + case.__name__
        hidden = dict.fromkeys(left_out & set(dir(case)))
        globals()[name] = type(name, (base, case), {"__module__": __name__, **hidden})


vary(WithoutBatteries, CASES, set())
vary(OnPlainHandler, CASES, set())
vary(OnPage, CASES, set())
vary(OnWebSocket, CASES, NO_REQUEST_FOLLOWS | NO_HANDSHAKE)
vary(OnUvloop, [test_hostile.PipelineTest, test_hostile.LeavingTest, test_hostile.ExpectTest], set())
