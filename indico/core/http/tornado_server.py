"""
Tornado's own HTTP server, with limits on connections.
"""

from __future__ import annotations

import logging
import math
import socket
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.log import gen_log
from tornado.web import Application

from indico import config
from indico.core.http.limits import Crowd
from indico.core.http.sockets import accept_rest

LARGEST_HEADER = 64 * 1024  # bytes, all headers of a request together


class Line:
    """
    A connection as the limits and the handlers see it, whichever server accepted it. Handlers find theirs in
    `request.server_connection`.
    """

    __slots__ = ("_stream", "deadline")  # there are as many as connections

    def __init__(self, stream: IOStream) -> None:
        self._stream = stream
        # By `time.monotonic`, until when something is to come from the client; 0 at first.
        self.deadline = 0.0

    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return self._stream.closed()

    def shut_down_writing(self) -> None:
        """Say that no more answers will come, and go on reading."""
        with suppress(OSError, AttributeError):  # the client has left, and the socket with it
            self._stream.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the connection, now."""
        self._stream.close()

    def unsent(self) -> int:
        """How many bytes wait to be read by the client."""
        return len(self._stream._write_buffer or b"")  # None once it is closed


class Listener(HTTPServer):
    """Tornado's server, with the limits of a Crowd."""

    def initialize(self, application: Application) -> None:  # type: ignore[override]
        super().initialize(application, max_header_size=LARGEST_HEADER)
        # Beyond a limit of Tornado's own the answer would be no envelope; the handler has one.
        self.conn_params.max_body_size = math.inf  # type: ignore[assignment]
        # Tornado would make a timer for each request's headers, a twelfth of the time that it takes.
        self.conn_params.header_timeout = None
        gen_log.setLevel(logging.WARNING)  # below, it quotes whatever clients send, a key or 60 kB
        gen_log.addFilter(_is_no_assertion)
        self._crowd = Crowd()
        self._lines: dict[IOStream, Line] = {}

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        line = Line(stream)
        if not self._crowd.let_in(line, address[0]):
            return stream.close()
        self._lines[stream] = line
        return super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        line = self._lines[server_conn.stream]
        line.deadline = time.monotonic() + (config.IDLE_TIMEOUT if line.deadline else config.HEADER_TIMEOUT)
        return _Request(super().start_request(line, request_conn), line)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._crowd.leave(self._lines.pop(server_conn.stream))

    def stop(self) -> None:
        """Listen no more. Who has connected already and waits to be accepted is served."""
        for number in list(self._sockets):
            self._handlers.pop(number)()
            # Closing is what follows the last one at once: who comes in between is cut off.
            with self._sockets.pop(number) as listening:
                accepted = accept_rest(listening)
            for connection, address in accepted:
                self._handle_connection(connection, address)
        super().stop()
        self._crowd.stop()

    async def take_leave(self) -> None:
        """Once stopped, wait for connections to end: see Crowd."""
        await self._crowd.take_leave()


def _is_no_assertion(record: logging.LogRecord) -> bool:
    """Tornado 6.5 logs a traceback, because it asserts how a chunk ends, when a client ends it otherwise."""
    return not (record.exc_info and isinstance(record.exc_info[1], AssertionError))


class _Request(HTTPMessageDelegate):
    """A request on its way in: keeps its line's deadline, which is endless once all of it is there."""

    __slots__ = ("_delegate", "_line")

    def __init__(self, delegate: HTTPMessageDelegate, line: Line) -> None:
        self._delegate = delegate
        self._line = line

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._line.deadline = time.monotonic() + config.BODY_TIMEOUT
        return self._delegate.headers_received(start_line, headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return self._delegate.data_received(chunk)

    def finish(self) -> None:
        self._line.deadline = math.inf
        self._delegate.finish()

    def on_connection_close(self) -> None:
        self._delegate.on_connection_close()
