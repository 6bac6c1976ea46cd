"""
Tornado's HTTP server, for `HTTP_SERVER=tornado`. ConnectionLimits does not apply to it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders, HTTPServerConnectionDelegate, RequestStartLine
from tornado.iostream import IOStream
from tornado.log import gen_log

from indico import config
from indico.core.http.filters import FilteredApplication
from indico.core.http.head import LARGEST_HEAD, take_absolute_target
from indico.core.http.limits import LAST_REQUEST_SECONDS
from indico.core.http.sockets import limit_unsent


def edit_head(line: RequestStartLine, headers: HTTPHeaders) -> RequestStartLine:
    """Return the request line, and change the headers, to those that Tornado understands."""
    if "Expect" in headers:
        headers["Expect"] = headers["Expect"].lower()
    return take_absolute_target(line, headers)


class TornadoServer(HTTPServer):
    """Tornado's server, with the methods of Server."""

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        limit_unsent(stream.socket)
        super().handle_stream(stream, address)

    async def wait_until_idle(self) -> None:
        await asyncio.sleep(LAST_REQUEST_SECONDS)


def make_tornado_server(application: HTTPServerConnectionDelegate) -> TornadoServer:
    gen_log.setLevel(logging.WARNING)  # its INFO records quote data of clients, such as keys
    return TornadoServer(
        FilteredApplication(application, edit_head),
        max_header_size=LARGEST_HEAD,
        idle_connection_timeout=config.IDLE_TIMEOUT,
        body_timeout=config.BODY_TIMEOUT,
    )
