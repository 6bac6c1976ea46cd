"""
Connections: how many there may be, and how long each may take its time.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import math
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Awaitable
from contextlib import suppress
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import PeriodicCallback
from tornado.iostream import IOStream
from tornado.log import gen_log
from tornado.netutil import bind_sockets
from tornado.web import Application

from indico import config

RESERVED_FILES = 100  # for MongoDB, the log, and whatever else is no client
LARGEST_HEADER = 64 * 1024  # bytes, all headers of a request together
SWEEP = 1000  # milliseconds between looks at what takes too long
LAST_CALL = 1  # seconds that connections have for a request that was on its way when the server stopped


def raise_file_limit() -> int:
    """Raise the limit of open files to what the machine allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS says that there is none, and then there is
        return soft
    return hard


def count_connections(files: int) -> int:
    """How many connections that many files allow."""
    return max(files - RESERVED_FILES, files // 2)


class ListeningSocket(socket.socket):
    """
    A socket that turns clients away when the process has run out of files, where Tornado would try to accept
    them again and again. It keeps a file in reserve for that.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._reserve = open(os.devnull)  # noqa: SIM115 - `close` closes it

    def accept(self) -> tuple[socket.socket, Any]:
        self._fill_reserve()
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._reserve.close()
        try:
            super().accept()[0].close()
        except OSError as error:  # nobody waits, or another thread has taken the file
            raise BlockingIOError("nobody to turn away") from error
        finally:
            self._fill_reserve()
        raise ConnectionAbortedError("out of files")  # which Tornado takes for a client that went away

    def _fill_reserve(self) -> None:
        if self._reserve.closed:
            with suppress(OSError):
                self._reserve = open(os.devnull)  # noqa: SIM115

    def close(self) -> None:
        self._reserve.close()
        super().close()


def listen(port: int, address: str) -> list[socket.socket]:
    """Sockets on this address, all if it is empty. Raises OSError."""
    return [ListeningSocket(listening) for listening in bind_sockets(port, address or None)]


def is_trusted(address: str) -> bool:
    """Whether TRUSTED_PROXIES says so."""
    return any(ipaddress.ip_address(address) in network for network in config.TRUSTED_PROXIES)


def client_address(request: HTTPServerRequest) -> str:
    """
    The address of the client: the other end of the connection or, behind trusted proxies, the last one in
    X-Forwarded-For that is not theirs. What stands before it anybody may have written.
    """
    address = str(request.remote_ip)
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and is_trusted(address):
        try:
            address = str(ipaddress.ip_address(hops.pop().strip()))
        except ValueError:
            break
    return address


class Listener(HTTPServer):
    """
    Tornado's server, with limits on what clients keep open.

    A connection beyond MAX_CONNECTIONS or, unless it comes from a trusted proxy, MAX_CONNECTIONS_PER_ADDRESS
    is closed as soon as it is made. So is one that has not sent its first headers within HEADER_TIMEOUT,
    sends nothing for IDLE_TIMEOUT, has not sent a body within BODY_TIMEOUT, or has not read an answer within
    WRITE_TIMEOUT; and, while more than MAX_UNSENT bytes wait to be read, who has let them wait longest.
    """

    def initialize(self, application: Application) -> None:  # type: ignore[override]
        super().initialize(application, max_header_size=LARGEST_HEADER)
        # Beyond a limit of Tornado's own the answer would be no envelope; the handler has one.
        self.conn_params.max_body_size = math.inf  # type: ignore[assignment]
        # Tornado would make a timer for each request's headers, a twelfth of the time that it takes.
        self.conn_params.header_timeout = None
        gen_log.setLevel(logging.WARNING)  # below, it quotes whatever clients send, a key or 60 kB
        gen_log.addFilter(_is_no_assertion)
        self._most = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._most_of_a_peer = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._most // 2)
        self._peers: Counter[str] = Counter()  # connections of each address
        self._open: dict[IOStream, str] = {}  # every connection, with its address
        self._deadlines: dict[IOStream, float] = {}  # of those that something is to come from, and until when
        self._writing: dict[IOStream, float] = {}  # those with an answer not read yet, and since when
        self._sweeper = PeriodicCallback(self._sweep, SWEEP)
        self._sweeper.start()

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        peer = address[0]
        busy = self._peers[peer] >= self._most_of_a_peer and not is_trusted(peer)
        if busy or len(self._open) >= self._most:
            return stream.close()
        self._open[stream] = peer
        self._peers[peer] += 1
        return super().handle_stream(stream, address)

    def start_request(self, server_conn: Any, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        stream = server_conn.stream
        timeout = config.IDLE_TIMEOUT if stream in self._deadlines else config.HEADER_TIMEOUT
        self._deadlines[stream] = time.monotonic() + timeout
        return _Request(super().start_request(server_conn, request_conn), stream, self._deadlines)

    def on_close(self, server_conn: Any) -> None:
        super().on_close(server_conn)
        self._deadlines.pop(server_conn.stream, None)
        peer = self._open.pop(server_conn.stream)
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def stop(self) -> None:
        """Listen no more. Who has connected already and waits to be accepted is served."""
        for number in list(self._sockets):
            self._handlers.pop(number)()
            accepted = []
            # Closing is what follows the last one at once: who comes in between is cut off.
            with self._sockets.pop(number) as listening, suppress(OSError):
                while True:
                    accepted.append(listening.accept())
            for connection, address in accepted:
                self._handle_connection(connection, address)
        super().stop()
        self._sweeper.stop()

    async def take_leave(self) -> None:
        """Once stopped, wait for connections to end, as each does with its next answer: LAST_CALL at most."""
        deadline = time.monotonic() + LAST_CALL
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _sweep(self) -> None:
        now = time.monotonic()
        self._writing = {stream: self._writing.get(stream, now) for stream in self._open if stream.writing()}
        late = [stream for stream, deadline in self._deadlines.items() if now > deadline]
        late += [stream for stream, since in self._writing.items() if now - since > config.WRITE_TIMEOUT]
        # Of what is written and not read Tornado keeps all; beyond MAX_UNSENT, who is longest at it goes.
        unsent = {stream: len(stream._write_buffer) for stream in self._writing}
        excess = sum(unsent.values()) - config.MAX_UNSENT
        for stream in sorted(self._writing, key=self._writing.__getitem__):
            if excess > 0:
                late.append(stream)
                excess -= unsent[stream]
        for stream in late:
            stream.close()


def _is_no_assertion(record: logging.LogRecord) -> bool:
    """Tornado 6.5 logs a traceback, because it asserts how a chunk ends, when a client ends it otherwise."""
    return not (record.exc_info and isinstance(record.exc_info[1], AssertionError))


class _Request(HTTPMessageDelegate):
    """A request on its way in: keeps its stream's deadline, which is endless once all of it is there."""

    def __init__(
        self, delegate: HTTPMessageDelegate, stream: IOStream, deadlines: dict[IOStream, float]
    ) -> None:
        self._delegate = delegate
        self._stream = stream
        self._deadlines = deadlines
        self.data_received = delegate.data_received  # type: ignore[method-assign]
        self.on_connection_close = delegate.on_connection_close  # type: ignore[method-assign]

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self._deadlines[self._stream] = time.monotonic() + config.BODY_TIMEOUT
        return self._delegate.headers_received(start_line, headers)

    def finish(self) -> None:
        self._deadlines[self._stream] = math.inf
        self._delegate.finish()
