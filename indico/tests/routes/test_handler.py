"""
What every answer has in common, how an action is found, and what its outcome means.
"""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import gzip
import json
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from typing import Any
from unittest import mock

import tornado.web
from bson.datetime_ms import DatetimeMS
from bson.int64 import Int64
from bson.objectid import ObjectId
from tornado.httpclient import HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.iostream import IOStream
from tornado.testing import gen_test

from indico import config
from indico.core.http import encoding
from indico.core.http.encoding import encode
from indico.core.http.envelope import name_request
from indico.core.tasks import LATER
from indico.error import IndicoError
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler, JSONEncoder
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import allow, auth

SCREWED_UP = "we screwed up and have some debugging to do"


class ProbeHandler(IndicoHandler):
    """Actions of every kind."""

    def echo(self, data: bytes) -> str:
        return data.decode()

    async def coroutine(self, data: bytes) -> list[str]:
        await asyncio.sleep(0)
        return ["from a coroutine"]

    async def nothing(self, data: bytes) -> None:
        await asyncio.sleep(0)

    def awaitable(self, data: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future

    async def events(self, data: bytes) -> AsyncIterator[str]:
        yield "first"
        yield "second"

    def later(self, data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self.respond, "later", 201)

    def now(self, data: bytes) -> None:
        self.respond("now")

    async def promise(self, data: bytes) -> Any:
        asyncio.get_running_loop().call_soon(self.respond, "promised")
        return LATER

    async def responds(self, data: bytes) -> None:
        self.respond("responded")

    def twice(self, data: bytes) -> str:
        self.respond("first")
        return "second"

    def finishes(self, data: bytes) -> None:
        self.finish('"by hand"')

    async def failsLate(self, data: bytes) -> None:
        self.respond("answered")
        raise ValueError("after the answer")

    def refuses(self, data: bytes) -> None:
        raise IndicoError("short and stout", 418)

    async def refusesSlowly(self, data: bytes) -> None:
        await asyncio.sleep(0)
        raise IndicoError("short and stout", 418)

    def fails(self, data: bytes) -> None:
        raise ValueError("secret detail")

    def forbids(self, data: bytes) -> None:
        raise tornado.web.HTTPError(403, "for the log alone")

    def cancels(self, data: bytes) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        return future

    def unknown(self, data: bytes) -> object:
        return object()

    def notANumber(self, data: bytes) -> Any:
        return {"a": [float("nan"), 1.5], "b": (float("-inf"),), "c": float("inf")}

    def circle(self, data: bytes) -> Any:
        circle: list[Any] = []
        circle.append(circle)
        return circle

    @unpack("number", "text")
    @type_check(int, str)
    def typed(self, number: int, text: str) -> list[Any]:
        return [number, text]


class NameTest(StrictTest):
    """The names of actions, checked when their class is defined."""

    def define(self, name: str, action: Callable[..., Any], *bases: type) -> None:
        type("TeaHandler", (*bases, IndicoHandler), {name: action})

    def test_a_decorated_function_that_no_client_can_call_complains_at_import(self) -> None:
        def action(handler: Any, data: Any) -> None: ...

        for name, better in (
            ("find_all", "findAll"),
            ("step2", "step"),
            ("_hidden", "hidden"),
            ("__", "action"),
            ("größe", "grE"),
            ("delete", "deleteTea"),
            ("write", "writeTea"),
            ("respond", "respondTea"),
            ("_finish", "finishTea"),
        ):
            for decorate in (auth, allow("admin"), unpack("data"), type_check(int)):
                with self.subTest(name), self.assertRaises(TypeError) as raised:
                    self.define(name, decorate(action))
                message = str(raised.exception)
                self.assertTrue(message.startswith(f"No client can call TeaHandler.{name}: "), message)
                self.assertTrue(message.endswith(f" Rename it, for example to {better}."), message)

    def test_an_action_named_like_a_method_of_http_needs_no_decorator_to_complain(self) -> None:
        for name in ("delete", "put", "patch"):
            with self.subTest(name), self.assertRaisesRegex(TypeError, f"for example to {name}Tea"):
                self.define(name, ProbeHandler.echo)

    def test_one_of_a_mixin_counts(self) -> None:
        mixin = type("Mixin", (), {"find_all": auth(ProbeHandler.echo)})
        with self.assertRaisesRegex(TypeError, "No client can call TeaHandler.find_all"):
            self.define("find", ProbeHandler.echo, mixin)

    def test_helpers_and_overridden_methods_may_have_any_name(self) -> None:
        for name in ("find_all", "_hidden", "step2", "prepare", "write_error", "get"):
            self.define(name, ProbeHandler.echo)
        self.define("findAll", auth(ProbeHandler.echo))


class ProbeTest(ServerTest):
    stores = False
    routes = [(r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler)]

    def call(self, path: str, method: str = "POST", body: str | None = "{}") -> HTTPResponse:
        return self.fetch(path, method=method, body=body, allow_nonstandard_methods=True)

    def assert_answer(self, response: HTTPResponse, status: int, data: Any) -> None:
        self.assertEqual(json.loads(response.body), {"status": status, "data": data})
        self.assert_envelope(response, status)

    def assert_envelope(self, response: HTTPResponse, status: int) -> None:
        self.assertEqual(response.code, status)
        self.assertEqual(response.headers["Content-Type"], "application/json; charset=UTF-8")
        self.assertEqual(response.headers["X-Content-Type-Options"], "nosniff")
        self.assertEqual(response.headers["Cache-Control"], "no-store")
        self.assertNotIn("Server", response.headers)
        self.assertNotIn("Etag", response.headers)

    def connect(self) -> IOStream:
        stream = IOStream(socket.socket())
        self.addCleanup(stream.close)
        self.io_loop.run_sync(lambda: stream.connect(("127.0.0.1", self.get_http_port())))
        return stream


class OutcomeTest(ProbeTest):
    def assert_outcome(self, action: str, data: Any, status: int = 200) -> None:
        self.assert_answer(self.call(f"/probe/{action}", body="the body"), status, data)

    def test_the_result_of_a_plain_function_is_the_answer(self) -> None:
        self.assert_outcome("echo", "the body")

    def test_the_result_of_a_coroutine_is_the_answer(self) -> None:
        self.assert_outcome("coroutine", ["from a coroutine"])

    def test_none_from_a_coroutine_is_null(self) -> None:
        self.assert_outcome("nothing", None)

    def test_none_from_another_awaitable_is_null(self) -> None:
        self.assert_outcome("awaitable", None)

    def test_the_values_of_an_async_generator_are_events(self) -> None:
        response = self.call("/probe/events")
        self.assertEqual(response.headers["Content-Type"], "text/event-stream")
        events = [line for line in response.body.decode().splitlines() if line]
        expected = [f'data: {{"status":200,"data":"{value}"}}' for value in ("first", "second")]
        self.assertEqual(events, [*expected, "event: end", "data: null"])

    def test_none_from_a_plain_function_means_later(self) -> None:
        self.assert_outcome("later", "later", 201)

    def test_a_plain_function_may_respond_before_it_returns(self) -> None:
        self.assert_outcome("now", "now")

    def test_a_coroutine_may_return_later(self) -> None:
        self.assert_outcome("promise", "promised")

    def test_none_from_a_coroutine_that_has_responded_changes_nothing(self) -> None:
        with self.assertNoLogs("indico", "WARNING"):
            self.assert_outcome("responds", "responded")

    def test_a_second_answer_changes_nothing_and_is_logged(self) -> None:
        with self.assertLogs("indico", "WARNING") as log:
            self.assert_outcome("twice", "first")
        self.assertEqual(len(log.output), 1)
        self.assertIn("probe.twice responded twice", log.output[0])

    def test_an_action_may_finish_by_hand(self) -> None:
        response = self.call("/probe/finishes")
        self.assertEqual(response.body, b'"by hand"')

    def test_an_indico_error_is_the_answer(self) -> None:
        self.assert_outcome("refuses", "short and stout", 418)

    def test_an_indico_error_from_a_coroutine_is_the_answer(self) -> None:
        self.assert_outcome("refusesSlowly", "short and stout", 418)

    def test_tornados_http_error_is_an_answer_too(self) -> None:
        self.assert_outcome("forbids", "Forbidden", 403)

    def test_an_unexpected_exception_is_a_server_error_and_its_traceback_is_logged(self) -> None:
        with self.assertLogs("indico", "ERROR") as log:
            self.assert_outcome("fails", SCREWED_UP, 500)
        self.assertIn("secret detail", log.output[0])
        self.assertIn("in fails", log.output[0])

    def test_an_unexpected_exception_after_the_answer_is_logged(self) -> None:
        with self.assertLogs("indico", "ERROR") as log:
            self.assert_outcome("failsLate", "answered")
        self.assertIn("after the answer", log.output[0])

    def test_an_awaitable_that_somebody_cancelled_is_a_server_error(self) -> None:
        with self.assertLogs("indico", "ERROR"):
            self.assert_outcome("cancels", SCREWED_UP, 500)

    def test_what_json_can_not_hold_is_a_server_error(self) -> None:
        with self.assertLogs("indico", "ERROR"):
            self.assert_outcome("unknown", SCREWED_UP, 500)

    def test_a_list_within_itself_is_a_server_error(self) -> None:
        with self.assertLogs("indico", "ERROR"):
            self.assert_outcome("circle", SCREWED_UP, 500)

    def test_numbers_that_json_lacks_are_null(self) -> None:
        self.assert_outcome("notANumber", {"a": [None, 1.5], "b": [None], "c": None})

    def test_the_values_of_a_generator_are_events(self) -> None:
        self.assertIn(b'"first"', self.call("/probe/events").body)

    def test_an_action_is_not_run_for_a_client_that_has_left(self) -> None:
        handler = mock.Mock(**{"begin_action.return_value": False})
        self.io_loop.run_sync(lambda: IndicoHandler.post(handler, "echo"))
        handler.find_action.assert_not_called()

    def test_a_body_that_is_too_large_is_an_error(self) -> None:
        with mock.patch.object(config, "MAX_BODY_SIZE", 2):
            self.assert_answer(self.call("/probe/echo", body="abc"), 413, "The body is larger than 2 bytes")

    def test_fields_are_unpacked_and_checked(self) -> None:
        self.assert_answer(self.call("/probe/typed", body='{"text": "a", "number": 7}'), 200, [7, "a"])
        for body, data in (
            ("{}", "number field was not provided"),
            ('{"number": 1}', "text field was not provided"),
            ('{"number": true, "text": "a"}', "Field number - True is type bool but should be int"),
            ("[1]", "No JSON object could be decoded."),
            ("", "No JSON object could be decoded."),
        ):
            self.assert_answer(self.call("/probe/typed", body=body), 400, data)

    def test_an_action_that_does_not_exist_is_not_found(self) -> None:
        self.assert_answer(self.call("/probe/nope"), 404, "nope route could not be found")


class WaitingHandler(ProbeHandler):
    """Actions that wait; the test under way reads what they note."""

    test: WaitingTest

    async def hangs(self, data: bytes) -> None:
        self.test.handler = self
        self.test.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.test.ended.set()

    def waits(self, data: bytes) -> None:
        self.test.handler = self
        self.test.started.set()


class PatientHandler(WaitingHandler):
    request_timeout = 0.05


class EndlessHandler(WaitingHandler):
    request_timeout = None


class WaitingTest(ProbeTest):
    routes = [
        (r"/probe/(?P<action>[a-zA-Z]+)?", WaitingHandler),
        (r"/patient/(?P<action>[a-zA-Z]+)?", PatientHandler),
        (r"/endless/(?P<action>[a-zA-Z]+)?", EndlessHandler),
    ]

    def setUp(self) -> None:
        super().setUp()
        WaitingHandler.test = self
        self.handler: IndicoHandler
        self.started = asyncio.Event()
        self.ended = asyncio.Event()


class OddHandler(WaitingHandler):
    """What is no action."""

    attribute = "not a function"

    class Nested:
        """Not a function either."""

    def _hidden(self, data: bytes) -> str:
        raise AssertionError("never called")

    @staticmethod
    def static(*whatever: Any) -> str:
        raise AssertionError("never called")

    @classmethod
    def ofClass(cls, data: bytes) -> str:
        raise AssertionError("never called")


class FindingTest(WaitingTest):
    routes = [(r"/probe/(?P<action>[a-zA-Z]+)?", OddHandler)]

    def test_no_action_is_not_found(self) -> None:
        self.assert_answer(self.call("/probe/"), 404, "None route could not be found")

    def test_a_path_that_no_route_matches_is_not_found(self) -> None:
        for path in ("/", "/probe", "/probe/echo/", "/probe/a_b", "/other/echo"):
            self.assert_answer(self.call(path), 404, f"{path} route could not be found")

    def test_a_long_path_is_cut_in_the_answer(self) -> None:
        data = json.loads(self.call("/" + 5000 * "a").body)["data"]
        self.assertLess(len(data), 200)

    def test_nothing_that_a_handler_inherits_is_an_action(self) -> None:
        for name in dir(IndicoHandler):
            if name.isalpha():
                self.assert_answer(self.call(f"/probe/{name}"), 404, f"{name} route could not be found")

    def test_what_the_server_sets_and_notes_on_a_handler_may_be_actions(self) -> None:
        for name in ("key", "action", "logged", "transaction"):
            with mock.patch.object(ProbeHandler, name, lambda handler, data: "own", create=True):
                self.assert_answer(self.call(f"/probe/{name}"), 200, "own")

    def test_what_is_no_method_is_no_action(self) -> None:
        for name in ("attribute", "Nested", "test", "settings", "static", "ofClass"):
            self.assert_answer(self.call(f"/probe/{name}"), 404, f"{name} route could not be found")

    def test_a_private_name_is_no_action(self) -> None:
        self._app.add_handlers(".*", [(r"/any/(?P<action>.*)", OddHandler)])
        self.assert_answer(self.call("/any/_hidden"), 404, "_hidden route could not be found")
        self.assert_answer(self.call("/any/__init__"), 404, "__init__ route could not be found")

    def test_a_function_attached_later_is_an_action(self) -> None:
        def attached(handler: IndicoHandler, data: bytes) -> str:
            return "attached"

        for owner in (ProbeHandler, IndicoHandler):
            self.assertEqual(self.call("/probe/attached").code, 404)
            setattr(owner, "attached", attached)  # noqa: B010 - mypy knows no such attribute
            try:
                self.assert_answer(self.call("/probe/attached"), 200, "attached")
            finally:
                delattr(owner, "attached")


class MethodTest(ProbeTest):
    def test_other_methods_are_not_allowed(self) -> None:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW", "RENDER"):
            response = self.call("/probe/echo", method=method, body=None)
            self.assert_answer(response, 405, f"{method} is not allowed here, but POST is")
            self.assertEqual(response.headers["Allow"], "POST")

    def test_head_is_not_allowed_and_has_no_body(self) -> None:
        response = self.call("/probe/echo", method="HEAD", body=None)
        self.assert_envelope(response, 405)
        self.assertEqual(response.body, b"")
        self.assertGreater(int(response.headers["Content-Length"]), 0)

    def test_not_found_comes_before_not_allowed(self) -> None:
        for method in ("GET", "DELETE", "BREW"):
            self.assert_answer(self.call("/probe/nope", method, None), 404, "nope route could not be found")
            self.assert_answer(self.call("/nope", method, None), 404, "/nope route could not be found")

    def test_a_method_named_delete_is_never_run(self) -> None:
        for name in ("delete", "put", "patch"):
            with mock.patch.object(ProbeHandler, name, ProbeHandler.refuses):
                response = self.fetch(
                    "/probe/echo", method=name.upper(), body="x", allow_nonstandard_methods=True
                )
                self.assert_answer(response, 405, f"{name.upper()} is not allowed here, but POST is")
                self.assertEqual(self.post(f"probe/{name}", {})["status"], 404)


class PreparedHandler(IndicoHandler):
    """What a user's own `prepare` and `get` may do."""

    async def prepare(self) -> None:
        if self.request.method == "POST":
            raise IndicoError("not today", 402)

    def get(self, action: str | None) -> None:
        self.finish('"got"')
        raise ValueError("after the answer")


class PreparedTest(ProbeTest):
    routes = [(r"/prepared/(?P<action>[a-zA-Z]+)?", PreparedHandler)]

    def test_an_error_in_prepare_is_an_answer(self) -> None:
        self.assert_answer(self.call("/prepared/x"), 402, "not today")

    def test_an_error_after_the_answer_is_logged(self) -> None:
        with self.assertLogs("indico", "ERROR") as log:
            response = self.call("/prepared/x", "GET", None)
        self.assertEqual(response.body, b'"got"')
        self.assert_envelope(response, 200)
        self.assertIn("prepared failed after its response", log.output[0])


class BodySizeTest(ProbeTest):
    TOO_LARGE = "The body is larger than 100 bytes"

    def setUp(self) -> None:
        super().setUp()
        self.set(config, "MAX_BODY_SIZE", 100)

    def send(self, head: str, *chunks: bytes) -> bytes:
        """What the server answers until it closes the connection."""
        stream = self.connect()

        async def talk() -> bytes:
            await stream.write(head.encode() + b"\r\nHost: localhost\r\n\r\n" + b"".join(chunks))
            return await stream.read_until_close()

        answer: bytes = self.io_loop.run_sync(talk, timeout=5)
        return answer

    def assert_too_large(self, answer: bytes) -> None:
        head, _, body = answer.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 413 "), head)
        self.assertIn(b"content-type: application/json; charset=utf-8", head.lower())
        self.assertEqual(json.loads(body), {"status": 413, "data": self.TOO_LARGE})

    def test_a_body_of_the_largest_size_is_taken(self) -> None:
        self.assert_answer(self.call("/probe/echo", body=100 * "a"), 200, 100 * "a")

    def test_a_body_that_is_declared_too_large_is_refused_and_the_connection_closed(self) -> None:
        head = "POST /probe/echo HTTP/1.1\r\nContent-Length: 101"
        self.assert_too_large(self.send(head, 101 * b"a"))

    def test_a_body_larger_than_any_limit_of_tornados_is_refused_alike(self) -> None:
        for length in ("100000000000000", 30 * "9", 400 * "9"):
            head = f"POST /probe/echo HTTP/1.1\r\nContent-Length: {length}"
            self.assert_too_large(self.send(head, 101 * b"a"))

    def test_a_chunked_body_that_grows_too_large_is_refused(self) -> None:
        head = "POST /probe/echo HTTP/1.1\r\nTransfer-Encoding: chunked"
        chunk = b"3c\r\n" + 60 * b"a" + b"\r\n"
        self.assert_too_large(self.send(head, chunk, chunk, chunk, b"0\r\n\r\n"))

    def test_a_chunked_body_that_never_ends_is_refused_and_cut_off(self) -> None:
        head = "POST /probe/echo HTTP/1.1\r\nTransfer-Encoding: chunked"
        self.assert_too_large(self.send(head, 20 * (b"3c\r\n" + 60 * b"a" + b"\r\n")))

    def test_a_refused_body_gets_one_answer_though_it_goes_on_as_no_http_does(self) -> None:
        for head, body in (
            ("Content-Length: 101, 101", 101 * b"a"),
            ("Transfer-Encoding: chunked", b"11000\r\n" + 0x11000 * b"a" + b"\r\nzz\r\n"),
            ("Transfer-Encoding: chunked", b"11000\r\n" + 0x11000 * b"a" + b"XX"),
            ("Transfer-Encoding: chunked", b"11000\r\n" + 0x11000 * b"a" + b"\r\n0\r\nX: y\r\n\r\n"),
        ):
            with self.subTest(head):
                self.assert_too_large(self.send(f"POST /probe/echo HTTP/1.1\r\n{head}", body))

    def test_a_method_that_tornado_does_not_know_keeps_its_connection(self) -> None:
        stream = self.connect()
        request = b"BREW /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\npot"

        async def talk() -> list[bytes]:
            await stream.write(request + request)
            return [await stream.read_until(b"}") for _ in range(2)]

        for answer in self.io_loop.run_sync(talk):
            self.assertIn(b'{"status":405,"data":"BREW is not allowed here, but POST is"}', answer)
            self.assertNotIn(b"Connection: close", answer)

    def test_a_client_that_asks_before_it_sends_is_refused_without_being_told_to_go_on(self) -> None:
        head = "POST /probe/echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 101"
        self.assert_too_large(self.send(head))

    def test_a_client_that_was_told_to_go_on_gets_the_answer_although_it_still_sends(self) -> None:
        head = "POST /probe/echo HTTP/1.1\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked"
        chunk = b"100000\r\n" + 0x100000 * b"a" + b"\r\n"
        answer = self.send(head, *20 * [chunk], b"0\r\n\r\n")
        self.assertTrue(answer.startswith(b"HTTP/1.1 100 "), answer)
        self.assert_too_large(answer.partition(b"\r\n\r\n")[2])

    @gen_test
    async def test_a_client_that_goes_away_after_the_refusal_is_forgotten(self) -> None:
        stream = IOStream(socket.socket())
        await stream.connect(("127.0.0.1", self.get_http_port()))
        await stream.write(b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n")
        await stream.read_until(b"}")
        stream.close()
        while self._app.state.in_flight:
            await asyncio.sleep(0)

    def test_too_large_comes_before_not_found_and_not_allowed(self) -> None:
        for line in ("POST /nope", "POST /probe/nope", "PUT /probe/echo", "BREW /probe/echo"):
            head = f"{line} HTTP/1.1\r\nContent-Length: 101"
            self.assert_too_large(self.send(head, 101 * b"a"))

    def test_the_answer_arrives_although_the_client_still_sends(self) -> None:
        size = 20 * 1024 * 1024
        head = f"POST /probe/echo HTTP/1.1\r\nContent-Length: {size}"
        self.assert_too_large(self.send(head, size * b"a"))

    def test_multipart_and_compressed_bodies_are_left_alone(self) -> None:
        response = self.fetch(
            "/probe/echo",
            method="POST",
            body="not what it says",
            headers={"Content-Type": "multipart/form-data; boundary=x", "Content-Encoding": "gzip"},
        )
        self.assert_answer(response, 200, "not what it says")

    def test_what_is_not_http_gets_a_bare_400_and_is_cut_off(self) -> None:
        stream = self.connect()

        async def talk() -> bytes:
            await stream.write(b"hello?\r\n\r\n")
            return await stream.read_until_close()

        self.assertEqual(self.io_loop.run_sync(talk), b"HTTP/1.1 400 Bad Request\r\n\r\n")


class CompressedBodyTest(ServerTest):
    routes = [AuthRoute, UserRoute, (r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler)]
    stores = ("auth", "user")

    def send(self, path: str, coding: str, headers: dict[str, str] = HEADERS, **options: Any) -> HTTPResponse:
        sent = {**headers, "Content-Encoding": coding}
        options = {"method": "POST", "body": gzip.compress(b'{"update_user": {"name": "Grace"}}'), **options}
        return self.fetch(path, headers=sent, allow_nonstandard_methods=True, **options)

    def test_it_is_a_415_that_names_what_can_be_read(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        for coding in ("gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "gzip, identity", "nonsense"):
            with self.subTest(coding):
                response = self.send("/user/update", coding)
                data = f"A body with the Content-Encoding {coding} can't be read"
                self.assertEqual(json.loads(response.body), {"status": 415, "data": data})
                self.assertEqual((response.code, response.headers["Accept-Encoding"]), (415, "identity"))
        self.assertNotEqual(self.post("user/find", {})["data"]["name"], "Grace")

    def test_a_body_that_is_not_compressed_is_read(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        for coding in ("identity", "Identity"):
            body = json.dumps({"update_user": {"name": coding}})
            self.assertEqual(self.send("/user/update", coding, body=body).code, 200)
            self.assertEqual(self.post("user/find", {})["data"]["name"], coding)

    def test_other_errors_come_first_and_a_400_comes_after(self) -> None:
        self.assertEqual(self.send("/user/update", "gzip", body=bytes(config.MAX_BODY_SIZE + 1)).code, 413)
        self.assertEqual(self.send("/user/nope", "gzip").code, 404)
        self.assertEqual(self.send("/user/update", "gzip", method="PUT").code, 405)
        self.assertEqual(self.send("/user/update", "gzip", {}).code, 401)
        self.assertEqual(self.send("/user/update", "gzip").code, 401)
        self.assertEqual(self.send("/auth/login", "gzip", body=b"{}").code, 415)
        self.assertEqual(self.send("/auth/login", "gzip", body=b"").code, 415)

    def test_an_action_that_takes_the_body_as_it_is_gets_it(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        self.assertEqual(self.send("/auth/check", "gzip").code, 200)
        self.assertEqual(
            json.loads(self.send("/probe/echo", "br", body=b"as it is").body)["data"], "as it is"
        )


class EndingTest(WaitingTest):
    async def begin(self, path: str) -> tuple[IOStream, Callable[[], Any]]:
        stream = IOStream(socket.socket())
        self.addCleanup(stream.close)
        await stream.connect(("127.0.0.1", self.get_http_port()))
        await stream.write(
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}".encode()
        )
        await self.started.wait()
        return stream, lambda: stream.read_until(b"}")

    def test_a_coroutine_that_takes_too_long_is_answered_and_cancelled(self) -> None:
        self.assert_answer(self.call("/patient/hangs"), 504, "The request took too long")
        self.assertTrue(self.ended.is_set())

    def test_a_plain_action_that_never_responds_is_answered_and_a_late_answer_dropped(self) -> None:
        self.assert_answer(self.call("/patient/waits"), 504, "The request took too long")
        with self.assertNoLogs("indico"):
            self.handler.respond("too late")

    def test_the_setting_bounds_handlers_that_say_nothing(self) -> None:
        self.set(config, "REQUEST_TIMEOUT", 0.05)
        self.assertEqual(self.call("/probe/hangs").code, 504)

    def test_the_timer_ends_with_its_action(self) -> None:
        self.set(PatientHandler, "request_timeout", 0.02)
        self.call("/patient/echo")
        self.set(config, "REQUEST_TIMEOUT", 0.1)
        with self.assertLogs("indico", "WARNING") as log:
            self.call("/probe/hangs")
        self.assertEqual(len(log.records), 1)

    @gen_test
    async def test_a_handler_without_a_timeout_waits_until_it_responds(self) -> None:
        self.set(config, "REQUEST_TIMEOUT", 0.01)
        _, answer = await self.begin("/endless/waits")
        waiting = self.handler
        timed_out = await self.http_client.fetch(
            self.get_url("/probe/hangs"), method="POST", body="", raise_error=False
        )
        self.assertEqual(timed_out.code, 504)
        waiting.respond("at last")
        self.assertIn(b"at last", await answer())

    @gen_test
    async def test_a_client_that_goes_away_cancels_its_coroutine(self) -> None:
        stream, _ = await self.begin("/probe/hangs")
        stream.close()
        await asyncio.wait_for(self.ended.wait(), 5)
        self.assertEqual(self._app.state.in_flight, set())

    @gen_test
    async def test_an_answer_after_the_client_went_away_is_dropped(self) -> None:
        stream, _ = await self.begin("/probe/waits")
        stream.close()
        while self._app.state.in_flight:
            await asyncio.sleep(0)
        self.handler.respond("nobody listens")

    @gen_test
    async def test_a_client_that_goes_away_within_its_body_is_forgotten(self) -> None:
        stream = IOStream(socket.socket())
        await stream.connect(("127.0.0.1", self.get_http_port()))
        await stream.write(b"POST /probe/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf")
        while not self._app.state.in_flight:
            await asyncio.sleep(0)
        stream.close()
        while self._app.state.in_flight:
            await asyncio.sleep(0)


class PlainServerTest(ProbeTest):
    """On Tornado's own `HTTPServer`, without our limits on connections, as `AsyncHTTPTestCase` serves."""

    def get_http_server(self) -> HTTPServer:
        return HTTPServer(self._app)

    def get_app(self) -> Any:
        return tornado.web.Application(self.routes)

    def setUp(self) -> None:
        with mock.patch("indico.tests.testutils.server.lifespan", nullcontext):
            super().setUp()

    def test_it_answers_as_ever(self) -> None:
        self.assert_answer(self.call("/probe/echo", body="a"), 200, "a")
        self.assert_answer(self.call("/probe/nope"), 404, "nope route could not be found")

    def test_a_body_that_is_too_large_is_refused(self) -> None:
        body = "x" * (config.MAX_BODY_SIZE + 1)
        message = f"The body is larger than {config.MAX_BODY_SIZE} bytes"
        self.assert_answer(self.call("/probe/echo", body=body), 413, message)


class HookTest(WaitingTest):
    """What batteries hang on to requests."""

    def setUp(self) -> None:
        super().setUp()
        self.begun: list[str] = []
        self.endings: list[tuple[str, int]] = []

        def watch(handler: IndicoHandler) -> Callable[[], None]:
            self.begun.append(handler.request.path)
            return lambda: self.endings.append((name_request(handler), handler.get_status()))

        self._app.hooks.around_request.append(watch)
        self._app.hooks.response_headers.append(lambda handler: [("X-Probe", "yes")])

    def test_a_watcher_sees_each_request_begin_and_end_once(self) -> None:
        self.post("probe/echo", 1)
        self.post("probe/nope", 1)
        self.fetch("/nowhere")
        self.assertEqual(self.begun, ["/probe/echo", "/probe/nope", "/nowhere"])
        self.assertEqual(self.endings, [("waiting.echo", 200), ("waiting", 404), ("unknown", 404)])

    @gen_test
    async def test_a_watcher_sees_a_client_leave(self) -> None:
        stream = IOStream(socket.socket())
        await stream.connect(("127.0.0.1", self.get_http_port()))
        await stream.write(b"POST /probe/hangs HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        await self.started.wait()
        stream.close()
        await self.ended.wait()
        self.assertEqual(self.endings, [("waiting.hangs", 499)])

    def test_headers_are_on_every_answer(self) -> None:
        answers = [
            self.fetch("/probe/echo", method="POST", body="1"),
            self.fetch("/probe/forbids", method="POST", body="1"),
            self.fetch("/probe/echo"),
            self.fetch("/probe/echo", method="POST", body=b"1" * (config.MAX_BODY_SIZE + 1)),
        ]
        self.assertEqual([answer.headers["X-Probe"] for answer in answers], ["yes"] * 4)


class EncoderTest(StrictTest):
    def test_an_object_id_is_its_hex_string(self) -> None:
        value = ObjectId("0123456789abcdef01234567")
        self.assertEqual(json.dumps({"_id": value}, cls=JSONEncoder), '{"_id": "0123456789abcdef01234567"}')

    def test_a_date_is_its_utc_milliseconds_wherever_the_server_stands(self) -> None:
        self.addCleanup(time.tzset)
        self.addCleanup(os.environ.update, {"TZ": os.environ.get("TZ", "UTC")})
        os.environ["TZ"] = "Asia/Tokyo"
        time.tzset()
        naive = datetime.datetime(1970, 1, 1, 0, 0, 1, 5000)
        aware = datetime.datetime(1970, 1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=1)))
        self.assertEqual(json.dumps([naive, aware], cls=JSONEncoder), "[1005, 0]")

    def test_a_date_is_to_the_millisecond_before_1970_too_and_a_day_later(self) -> None:
        for microseconds, milliseconds in ((-1, 0), (-1000, -1), (-86_400_000_001, -86_400_000)):
            date = datetime.datetime(1970, 1, 1) + datetime.timedelta(microseconds=microseconds)
            self.assertEqual(json.dumps(date, cls=JSONEncoder), str(milliseconds))
        self.assertEqual(json.dumps(datetime.datetime(2970, 1, 1), cls=JSONEncoder), "31556995200000")

    def test_a_date_beyond_pythons_years_is_its_utc_milliseconds_too(self) -> None:
        self.assertEqual(json.dumps(DatetimeMS(2**62), cls=JSONEncoder), str(2**62))

    def test_a_uuid_is_its_text_and_an_enum_its_value(self) -> None:
        value = [uuid.UUID(int=1), Colour.RED]
        self.assertEqual(
            json.dumps(value, cls=JSONEncoder), '["00000000-0000-0000-0000-000000000001", "red"]'
        )

    def test_an_unknown_object_is_a_type_error(self) -> None:
        with self.assertRaises(TypeError):
            json.dumps({"a": object()}, cls=JSONEncoder)


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int = 1


class Day(datetime.datetime):
    """A date, and yet another type."""


class Text(str):
    """A str, and yet another type."""


class EncodeTest(StrictTest):
    """With orjson and without it, an answer means the same."""

    def both(self, value: Any) -> list[bytes]:
        found = [encode(value)]
        with mock.patch.object(encoding, "orjson", None):
            found.append(encode(value))
        return found

    def test_documents_are_encoded_alike(self) -> None:
        value = {
            "_id": ObjectId(),
            "dates": [
                Day(2000, 1, 1),
                datetime.datetime(1969, 1, 2),
                datetime.datetime.now(datetime.UTC),
            ],
            "far": DatetimeMS(2**62),
            "others": [uuid.uuid4(), Colour.RED, Int64(2**60), Text("text"), (1, None, True), 2**64],
            "floats": [1.5, 1e300, -0.0, float("nan"), float("inf")],
            "texts": ["", "é \u2028 \0 \x7f \U0001f600", '"\\'],
            1: {"": {}},
        }
        fast, plain = self.both(value)
        self.assertEqual(json.loads(fast), json.loads(plain))
        self.assertEqual(json.loads(fast)["floats"][3:], [None, None])

    def test_what_one_does_not_take_the_other_does_not_either(self) -> None:
        for value in (object(), 1j, {("a", 1): 2}, datetime.timedelta(1), iter([])):
            with self.assertRaises(TypeError):
                encode([value])
            with mock.patch.object(encoding, "orjson", None), self.assertRaises(TypeError):
                encode([value])

    def test_a_deep_value_is_encoded_alike(self) -> None:
        value: Any = []
        for _ in range(300):
            value = [value]
        fast, plain = self.both(value)
        self.assertEqual(json.loads(fast), json.loads(plain))
