"""
The way from a parsed request to its handler.

For each request Tornado makes a router's delegate, a handler's delegate, and a request and a handler of two
dozen attributes each. An action of a handler that overrides nothing of that needs little of it. So its path
is looked up here, and Tornado's part of the request and the handler is made when something first uses it. All
other handlers get what Tornado gives them. docs/performance has the figures.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

import tornado.web
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)

MAX_PATHS = 10_000  # that are remembered


@functools.lru_cache(1000)
def check_host(version: str, host: str | None) -> None:
    """Raise HTTPInputError unless Tornado takes this header Host."""
    headers = HTTPHeaders({} if host is None else {"Host": host})
    HTTPServerRequest(start_line=RequestStartLine("POST", "/", version), headers=headers)


class LazyRequest(HTTPServerRequest):
    """A request that parses its query, its host and so on when something first uses them."""

    def __init__(self, connection: Any, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        check_host(start_line.version, headers.get("Host"))
        self.method, self.uri, self.version = start_line
        self.path, _, self.query = start_line.path.partition("?")
        self.headers = headers
        self.body = b""
        self.connection = connection
        self.remote_ip = connection.context.remote_ip
        self.protocol = connection.context.protocol
        self._start_line = start_line
        self._began_at = time.time()
        self._is_parsed = False

    def parse(self) -> None:
        """Parse all of it. Raises HTTPInputError for a query that Tornado rejects."""
        self._is_parsed = True
        super().__init__(
            connection=self.connection,
            start_line=self._start_line,
            headers=self.headers,
            body=self.body,
            server_connection=self.connection,
        )

    def request_time(self) -> float:
        return time.time() - self._began_at

    if not TYPE_CHECKING:  # pragma: no branch - mypy would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            if vars(self).get("_is_parsed", True):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.parse()
            return getattr(self, name)


class RequestDelegate(HTTPMessageDelegate):
    """Finds the handler of a request once its headers are there."""

    __slots__ = ("_application", "_connection", "_delegate")

    def __init__(self, application: Dispatcher, connection: HTTPConnection) -> None:
        self._application = application
        self._connection = connection
        self._delegate: Any = None

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        request = LazyRequest(self._connection, start_line, headers)
        self._delegate = self._application.find_handler(request)
        prepared: Awaitable[None] | None = self._delegate.headers_received(start_line, headers)
        return prepared

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        received: Awaitable[None] | None = self._delegate.data_received(chunk)
        return received

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        if self._delegate is not None:  # otherwise Tornado has rejected the headers
            self._delegate.on_connection_close()


class ActionDelegate(HTTPMessageDelegate):
    """Hands a request to the handler of its action. The handler reads the body and runs the action."""

    __slots__ = ("_handler",)

    def __init__(self, handler: Any) -> None:
        self._handler = handler

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        prepared: Awaitable[None] | None = self._handler.prepare()
        return prepared

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        received: Awaitable[None] | None = self._handler.data_received(chunk)
        return received

    def finish(self) -> None:
        self._handler.start()

    def on_connection_close(self) -> None:
        self._handler.on_connection_close()


class Dispatcher(tornado.web.Application):
    """Tornado's application, which finds actions by their paths."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._actions: dict[str, tuple[Any, str]] = {}  # by path: the handler class, and the action's name
        self._hosts_matter = False
        super().__init__(*args, **settings)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        if hasattr(request_conn, "write_response"):
            return RequestDelegate(self, request_conn)
        return super().start_request(server_conn, request_conn)

    def add_handlers(self, host_pattern: str, host_handlers: Any) -> None:
        self._actions.clear()
        self._hosts_matter = self._hosts_matter or not host_pattern.startswith(".*")
        super().add_handlers(host_pattern, host_handlers)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        found = self._actions.get(request.path) if request.method == "POST" else None
        if found is not None:
            return ActionDelegate(found[0].make_lazily(self, request, found[1]))
        return super().find_handler(request, **kwargs)

    def get_handler_delegate(
        self,
        request: HTTPServerRequest,
        target_class: Any,
        target_kwargs: dict[str, Any] | None = None,
        path_args: list[bytes] | None = None,
        path_kwargs: dict[str, bytes] | None = None,
    ) -> Any:
        """Called by Tornado with the handler that a request's path leads to."""
        name = (path_kwargs or {}).get("action")
        if (
            request.method == "POST"
            and name
            and len(path_kwargs or {}) == 1
            and not (target_kwargs or path_args or self.transforms or self.settings.get("xsrf_cookies"))
            and isinstance(request, LazyRequest)
            and getattr(target_class, "overrides_nothing", bool)()
        ):
            action = name.decode()
            exists = target_class.get_action(action) is not None
            if exists and not self._hosts_matter and len(self._actions) < MAX_PATHS:
                self._actions[request.path] = target_class, action
            return ActionDelegate(target_class.make_lazily(self, request, action))
        if isinstance(request, LazyRequest):
            request.parse()  # now, so that Tornado rejects it before it comes to the handler
        return super().get_handler_delegate(request, target_class, target_kwargs, path_args, path_kwargs)
