"""
Finds the handler of a parsed request.

For each request Tornado creates two delegates, a request and a handler. The request and the handler have two
dozen attributes each, but most actions need few of them. If a handler overrides no method that Tornado calls,
this module finds its actions by their paths, and creates Tornado's part of the request and the handler on
first use. Tornado dispatches to all other handlers as usual. docs/performance has the figures.
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

from indico.core.http.responses import ResponseWriter

if TYPE_CHECKING:
    from indico.core.http.actions import ActionHandler

MAX_PATHS = 10_000  # paths in the cache


@functools.lru_cache(1000)
def check_host(version: str, host: str | None) -> None:
    """Raise HTTPInputError if Tornado rejects this header Host."""
    headers = HTTPHeaders({} if host is None else {"Host": host})
    HTTPServerRequest(start_line=RequestStartLine("POST", "/", version), headers=headers)


class LazyRequest(HTTPServerRequest):
    """A request that parses its arguments, host, cookies and so on when one of them is first used."""

    def __init__(self, connection: Any, start_line: RequestStartLine, headers: HTTPHeaders) -> None:
        self.method = start_line.method
        self.path, _, self.query = start_line.path.partition("?")
        self.headers = headers
        self.body = b""
        self.connection = connection
        self._start_line = start_line
        self._began_at = time.time()
        self._is_parsed = False

    def parse(self) -> None:
        """Parse the rest of the request. Raises HTTPInputError for a query that Tornado rejects."""
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

    if not TYPE_CHECKING:  # pragma: no branch - with it mypy would accept every attribute

        def __getattr__(self, name: str) -> Any:
            if vars(self).get("_is_parsed", True):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self.parse()
            return getattr(self, name)


class ActionDelegate(HTTPMessageDelegate):
    """Passes a request to the handler of its action. The handler collects the body and runs the action."""

    __slots__ = ("_handler",)

    def __init__(self, handler: ActionHandler) -> None:
        self._handler = handler

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        return self._handler.prepare()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._handler.data_received(chunk)

    def finish(self) -> None:
        self._handler.start()

    def on_connection_close(self) -> None:
        self._handler.on_connection_close()


class Dispatcher(tornado.web.Application):
    """Tornado's application with a cache of the paths of actions."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self._actions: dict[str, tuple[Any, str]] = {}  # by path: the handler class, and the action's name
        self._hosts_matter = False
        super().__init__(*args, **settings)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        if not isinstance(request_conn, ResponseWriter):  # the connection is one of another server
            return super().start_request(server_conn, request_conn)
        head = request_conn.head
        check_host(head.line.version, head.host)
        delegate: HTTPMessageDelegate = self.find_handler(LazyRequest(request_conn, head.line, head.headers))
        return delegate

    def add_handlers(self, host_pattern: str, host_handlers: Any) -> None:
        self._actions.clear()
        self._hosts_matter = self._hosts_matter or not host_pattern.startswith(".*")
        super().add_handlers(host_pattern, host_handlers)

    def find_handler(self, request: HTTPServerRequest, **kwargs: Any) -> Any:
        found = self._actions.get(request.path) if request.method == "POST" else None
        if found is not None and isinstance(request, LazyRequest):  # not a request of another server
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
        """Tornado calls this with the handler class that the path of a request matches."""
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
            is_known = target_class.get_action(action) is not None
            if is_known and not self._hosts_matter and len(self._actions) < MAX_PATHS:
                self._actions[request.path] = target_class, action
            return ActionDelegate(target_class.make_lazily(self, request, action))
        if isinstance(request, LazyRequest):
            request.parse()  # an invalid query is rejected before the handler exists
        return super().get_handler_delegate(request, target_class, target_kwargs, path_args, path_kwargs)
