"""
Changes to requests, and checks of them, before the application receives them.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from indico import config
from indico.core.http.errors import send_error_response
from indico.core.http.proxies import is_loopback
from indico.core.http.responses import ResponseWriter
from indico.error import IndicoError, shorten

# Returns the request line to use, and may change the headers. An IndicoError is the response.
Edit = Callable[[RequestStartLine, HTTPHeaders], RequestStartLine]


class FilteredApplication(HTTPServerConnectionDelegate):
    """Calls `edit` with the head of each request before the application receives it."""

    def __init__(self, application: HTTPServerConnectionDelegate, edit: Edit) -> None:
        self.application = application
        self.edit = edit

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        return FilteredDelegate(self, server_conn, request_conn)


class FilteredDelegate(HTTPMessageDelegate):
    def __init__(self, filtered: FilteredApplication, server: object, connection: HTTPConnection) -> None:
        self._filtered = filtered
        self._server = server
        self._connection = connection
        self._delegate = HTTPMessageDelegate()  # ignores the request, until it is accepted

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        assert isinstance(start_line, RequestStartLine)
        try:
            line = self._filtered.edit(start_line, headers)
        except IndicoError as error:
            send_error_response(self._connection, error)
            return None
        self._delegate = self._filtered.application.start_request(self._server, self._connection)
        return self._delegate.headers_received(line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()


class HostGuard(FilteredApplication):
    """
    Rejects requests for hosts that are not names or addresses of loopback. A page of another site can have
    its own host name resolved to 127.0.0.1 (DNS rebinding), and its browser then lets it read all responses.
    """

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        if isinstance(request_conn, ResponseWriter) and is_own_host(request_conn.head.host):
            return self.application.start_request(server_conn, request_conn)
        return super().start_request(server_conn, request_conn)


@functools.lru_cache(100)
def is_own_host(host: str | None) -> bool:
    return not host or is_loopback(host)


def check_host(line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    host = headers.get("Host", "")
    if not is_own_host(host):
        raise IndicoError(f"In development Host should be localhost or 127.0.0.1, not {shorten(host)}", 421)
    return line


def guard_hosts(application: HTTPServerConnectionDelegate, address: str) -> HTTPServerConnectionDelegate:
    """Return the application for a server on this address. In development, on loopback, it is guarded."""
    if config.PRODUCTION or not is_loopback(address):
        return application
    return HostGuard(application, check_host)
