"""
Actions that are found by their paths, and handlers that use or override what Tornado documents.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any
from unittest import mock

from tornado.httpclient import HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, RequestStartLine
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.testing import bind_unused_port, gen_test
from tornado.web import RequestHandler

from indico import server
from indico.core.hooks import Application
from indico.core.http.dispatch import LazyRequest
from indico.core.http.head import LazyHeaders
from indico.core.http.headers import HEADERS
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.core.http.test_hostile import make_post
from indico.tests.testutils import slow
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack

PATTERN = "(?P<action>[a-zA-Z]+)?"
OVERRIDDEN = (
    *("__init__", "initialize", "prepare", "data_received", "post", "on_finish", "on_connection_close"),
    *("clear", "set_default_headers", "set_header", "set_status", "write", "flush", "finish"),
    *("compute_etag", "decode_argument", "check_xsrf_cookie", "get_current_user"),
    *("send_error", "write_error", "log_exception"),
)


class TeaHandler(IndicoHandler):
    """Overrides nothing. Its actions use what a RequestHandler has."""

    @unpack("leaf")
    @type_check(str)
    async def brew(self, leaf: str) -> str:
        return leaf

    async def woken(self, data: bytes) -> bool:
        return self._has_tornado

    async def header(self, data: bytes) -> str:
        self.set_header("X-Tea", "green")
        self.add_header("X-Cup", "one")
        return "poured"

    async def status(self, data: bytes) -> None:
        self.set_status(202)
        self.finish({"status": 202, "data": "soon"})

    async def cookie(self, data: bytes) -> Any:
        self.set_cookie("cup", "two")
        return self.get_cookie("spoon")

    async def argument(self, data: bytes) -> Any:
        return [
            self.get_argument("sugar"),
            self.request.host_name,
            self.request.full_url(),
            len(self.request.body),
        ]

    async def pieces(self, data: bytes) -> None:
        self.write("one ")
        await self.flush()
        self.write("two")
        self.finish()

    async def away(self, data: bytes) -> None:
        self.redirect("/elsewhere")

    async def raw(self, data: bytes) -> None:
        stream = self.detach()
        await stream.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nraw")
        stream.close()

    async def user(self, data: bytes) -> Any:
        return self.current_user

    async def missing(self, data: bytes) -> Any:
        return self.nonsense  # type: ignore[attr-defined]

    async def empty(self, data: bytes) -> None:
        self.respond(None, 204)

    async def busy(self, data: bytes) -> None:
        self.respond("too busy", 503)


class PreparedHandler(TeaHandler):
    def prepare(self) -> Any:
        self.set_header("X-Prepared", "yes")
        return super().prepare()


class FinishedHandler(TeaHandler):
    ended: list[int] = []

    def on_finish(self) -> None:
        self.ended.append(self.get_status())


class DefaultsHandler(TeaHandler):
    def set_default_headers(self) -> None:
        super().set_default_headers()
        self.set_header("X-Default", "yes")


class InitializedHandler(TeaHandler):
    def initialize(self, sort: str = "") -> None:
        self.sort = sort

    async def kind(self, data: bytes) -> str:
        return self.sort


class ErrorHandler(TeaHandler):
    def write_error(self, status_code: int, **kwargs: Any) -> None:
        self.finish(f"error {status_code}")


class PostHandler(TeaHandler):
    async def post(self, action: str | None = None) -> None:
        self.respond(f"posted {action}")


class PlainHandler(RequestHandler):
    def post(self) -> None:
        self.write(self.request.body)


class DispatchTest(ServerTest):
    stores = False
    routes = [
        (rf"/tea/{PATTERN}", TeaHandler),
        (rf"/prepared/{PATTERN}", PreparedHandler),
        (rf"/finished/{PATTERN}", FinishedHandler),
        (rf"/defaults/{PATTERN}", DefaultsHandler),
        (rf"/error/{PATTERN}", ErrorHandler),
        (rf"/posts/{PATTERN}", PostHandler),
        (r"/plain", PlainHandler),
    ]

    def get_app(self) -> Application:
        with mock.patch.object(server, "BATTERIES", []):  # some of which use headers
            return make_app(routes=self.routes)

    def call(self, path: str, body: str = "{}", **headers: str) -> HTTPResponse:
        return self.fetch(path, method="POST", body=body, headers=headers, follow_redirects=False)

    def data(self, path: str, body: str = "{}", **headers: str) -> Any:
        return json.loads(self.call(path, body, **headers).body)["data"]

    def test_an_action_needs_nothing_of_tornados(self) -> None:
        self.assertEqual([self.data("/tea/woken") for _ in range(3)], [False, False, False])
        self.assertEqual(self.data("/prepared/woken"), True)

    def test_its_response_has_the_headers_of_an_envelope(self) -> None:
        headers = self.call("/tea/brew", '{"leaf": "oolong"}').headers
        for name, value in HEADERS.items():
            self.assertEqual(headers.get_list(name), [value])
        self.assertEqual(headers["Content-Length"], str(len('{"status":200,"data":"oolong"}')))
        self.assertNotIn("Server", headers)
        self.assertIn("Date", headers)

    def test_an_action_may_use_headers_cookies_status_and_redirect(self) -> None:
        answer = self.call("/tea/header")
        self.assertEqual((answer.headers["X-Tea"], answer.headers["X-Cup"]), ("green", "one"))
        self.assertEqual(json.loads(answer.body), {"status": 200, "data": "poured"})
        self.assertEqual(self.call("/tea/status").code, 202)
        answer = self.call("/tea/cookie", Cookie="spoon=silver")
        self.assertEqual(json.loads(answer.body)["data"], "silver")
        self.assertIn("cup=two", answer.headers["Set-Cookie"])
        answer = self.call("/tea/away")
        self.assertEqual((answer.code, answer.headers["Location"]), (302, "/elsewhere"))
        self.assertIsNone(self.data("/tea/user"))

    def test_an_action_may_use_the_query_the_host_and_the_body(self) -> None:
        port = self.get_http_port()
        url = f"http://127.0.0.1:{port}/tea/argument?sugar=2"
        self.assertEqual(self.data("/tea/argument?sugar=2", "abc"), ["2", "127.0.0.1", url, 3])

    def test_an_action_may_write_in_pieces(self) -> None:
        answer = self.call("/tea/pieces")
        self.assertEqual((answer.body, answer.headers["Transfer-Encoding"]), (b"one two", "chunked"))

    def test_an_action_may_take_the_connection(self) -> None:
        self.assertEqual(self.call("/tea/raw").body, b"raw")

    def test_a_response_without_a_body_has_none(self) -> None:
        answer = self.call("/tea/empty")
        self.assertEqual((answer.code, answer.body), (204, b""))

    def test_an_attribute_that_is_missing_is_an_error_as_ever(self) -> None:
        with self.assertLogs("indico", "ERROR") as logs:
            self.assertEqual(self.call("/tea/missing").code, 500)
        self.assertIn("'TeaHandler' object has no attribute 'nonsense'", logs.output[0])

    def test_a_503_says_when_to_try_again(self) -> None:
        answer = self.call("/tea/busy")
        self.assertEqual((answer.code, answer.headers["Retry-After"]), (503, "1"))

    def test_what_a_handler_overrides_is_called(self) -> None:
        self.assertEqual(self.call("/prepared/brew", '{"leaf": "a"}').headers["X-Prepared"], "yes")
        self.assertEqual(self.call("/defaults/brew", '{"leaf": "a"}').headers["X-Default"], "yes")
        FinishedHandler.ended.clear()
        self.call("/finished/brew", '{"leaf": "a"}')
        self.call("/finished/nope")
        self.assertEqual(FinishedHandler.ended, [200, 404])
        self.assertEqual(self.data("/posts/anything"), "posted anything")
        self.assertEqual(self.fetch("/error/brew").body, b"error 405")

    def test_a_plain_handler_is_served(self) -> None:
        self.assertEqual(self.call("/plain", "abc").body, b"abc")

    def test_handlers_that_are_added_later_are_found(self) -> None:
        self.assertEqual(self.data("/tea/brew", '{"leaf": "a"}'), "a")
        self._app.add_handlers(".*", [(rf"/late/{PATTERN}", TeaHandler)])
        self.assertEqual(self.data("/late/brew", '{"leaf": "b"}'), "b")
        self._app.add_handlers(".*", [(rf"/sorted/{PATTERN}", InitializedHandler, {"sort": "black"})])
        self.assertEqual(self.data("/sorted/kind"), "black")

    def test_handlers_of_a_host_are_for_that_host(self) -> None:
        self._app.add_handlers(r"tea\.example", [(rf"/tea/{PATTERN}", PostHandler)])
        for _ in range(2):
            self.assertEqual(self.data("/tea/brew", Host="tea.example"), "posted brew")
            self.assertEqual(self.data("/tea/brew", '{"leaf": "a"}', Host="127.0.0.1"), "a")

    def test_an_action_that_is_attached_later_is_found_and_one_that_is_removed_is_not(self) -> None:
        self.assertEqual(self.call("/tea/pour").code, 404)

        async def pour(handler: IndicoHandler, data: bytes) -> str:
            return "poured"

        with mock.patch.object(TeaHandler, "pour", pour, create=True):
            self.assertEqual(self.data("/tea/pour"), "poured")
        self.assertEqual(self.call("/tea/pour").code, 404)

    def test_no_more_paths_are_remembered_than_there_are_actions(self) -> None:
        for path in ("/tea/brew", "/tea/brew?a=1", "/tea/nope", "/nowhere", "/tea/brew"):
            self.call(path)
        self.assertEqual(list(self._app._actions), ["/tea/brew"])

    def test_a_header_that_would_be_two_lines_is_not_sent(self) -> None:
        self._app.hooks.response_headers.append(lambda handler: [("X-Bad", "a\r\nX-Worse: b")])
        with self.assertLogs("indico", "ERROR") as logs, self.assertRaises(HTTPStreamClosedError):
            self.call("/tea/woken")
        self.assertIn("The response to tea.woken can't be sent", logs.output[-1])


class OverrideTest(ServerTest):
    """What Tornado calls and a handler overrides is called as often as on Tornado's server."""

    stores = False
    routes = [("/plain", PlainHandler)]

    def setUp(self) -> None:
        super().setUp()
        listening, self.tornados_port = bind_unused_port()
        self.tornados_server = HTTPServer(self._app)
        self.tornados_server.add_socket(listening)
        self.calls: list[str] = []
        self.hanging = asyncio.Event()

    def tearDown(self) -> None:
        self.tornados_server.stop()
        super().tearDown()

    def override(self, name: str) -> type[TeaHandler]:
        """A handler that overrides this method, and counts its calls."""
        original: Any = getattr(TeaHandler, name)
        test = self

        def method(handler: TeaHandler, *args: Any, **kwargs: Any) -> Any:
            test.calls.append(name)
            return original(handler, *args, **kwargs)

        async def hang(handler: TeaHandler, data: bytes) -> None:
            test.hanging.set()
            await asyncio.Event().wait()

        def get(handler: TeaHandler, action: str) -> None:
            handler.respond("got")

        return type("OverrideHandler", (TeaHandler,), {"hang": hang, "get": get, name: method})

    async def count_calls(self, port: int, method: str, path: str) -> int:
        """Send a request twice, because the second one may go another way, and return the number of calls."""
        self.calls.clear()
        for _ in range(2):
            self.hanging.clear()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            body = b"" if method == "GET" else b'{"leaf": "a"}'
            writer.write(make_post(body, f"{method} {path} HTTP/1.1", "Connection: close"))
            if path.endswith("hang"):
                await self.hanging.wait()
                writer.close()
                while self._app.state.in_flight:
                    await asyncio.sleep(0)
            self.assertIn(b"HTTP/1.1 ", await reader.read() or b"HTTP/1.1 ")
            writer.close()
            await writer.wait_closed()
        return len(self.calls)

    @slow
    @gen_test(timeout=30)
    async def test_each_is_called_as_often_as_on_tornados_server(self) -> None:
        requests = {
            "compute_etag": ("GET", "brew"),
            "get_current_user": ("POST", "user"),
            "on_connection_close": ("POST", "hang"),
            **dict.fromkeys(("send_error", "write_error", "log_exception"), ("PUT", "brew")),
        }
        for name in OVERRIDDEN:
            method, action = requests.get(name, ("POST", "brew"))
            self._app.settings["xsrf_cookies"] = name == "check_xsrf_cookie"
            self._app.add_handlers(".*", [(rf"/{name}/{PATTERN}", self.override(name))])
            with self.subTest(name):
                ours = await self.count_calls(self.get_http_port(), method, f"/{name}/{action}")
                tornados = await self.count_calls(self.tornados_port, method, f"/{name}/{action}")
                self.assertEqual(ours, tornados)
                self.assertGreater(ours, 1)


class SettingsTest(ServerTest):
    stores = False
    routes = [(rf"/tea/{PATTERN}", TeaHandler)]

    def get_app(self) -> Application:
        application = make_app(routes=self.routes)
        application.settings["xsrf_cookies"] = True
        return application

    def test_tornados_settings_hold(self) -> None:
        answer = self.fetch("/tea/brew", method="POST", body='{"leaf": "a"}')
        self.assertEqual(answer.code, 403)


class LazyRequestTest(StrictTest):
    def test_it_is_parsed_when_something_asks_for_what_is_not_there(self) -> None:
        connection = SimpleNamespace(context=SimpleNamespace(remote_ip="192.0.2.1", protocol="https"))
        line = RequestStartLine("POST", "/tea?cup=1&cup=2", "HTTP/1.1")
        request = LazyRequest(connection, line, HTTPHeaders({"Host": "tea.example:8080"}))
        request.body = b"leaf"
        self.assertEqual(
            (request.path, request.query, request.remote_ip), ("/tea", "cup=1&cup=2", "192.0.2.1")
        )
        self.assertEqual(request.arguments, {"cup": [b"1", b"2"]})
        self.assertEqual((request.host_name, request.body), ("tea.example", b"leaf"))
        self.assertEqual((request.remote_ip, request.protocol), ("192.0.2.1", "https"))
        self.assertLess(request.request_time(), 60)
        with self.assertRaisesRegex(AttributeError, "'LazyRequest' object has no attribute 'nonsense'"):
            request.nonsense  # type: ignore[attr-defined] # noqa: B018


class LazyHeadersTest(StrictTest):
    def test_they_are_tornados_when_something_reads_one(self) -> None:
        headers = LazyHeaders({b"host": [b"tea.example"], b"x-cup": [b"one", b"two"]})
        self.assertEqual((headers["Host"], headers.get_list("X-Cup")), ("tea.example", ["one", "two"]))
        with self.assertRaisesRegex(AttributeError, "'LazyHeaders' object has no attribute 'nonsense'"):
            headers.nonsense  # type: ignore[attr-defined] # noqa: B018
