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
BACKLOG = 1024  # connections that wait to be accepted
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

    Workers that share one take turns: each accepts one client at a time, where Tornado would accept all who
    wait, and leave the other workers without.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._reserve = open(os.devnull)  # noqa: SIM115 - `close` closes it
        self._had_its_turn = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self._had_its_turn:
            self._had_its_turn = False
            raise BlockingIOError("another worker's turn")
        self._fill_reserve()
        try:
            accepted = super().accept()
            self._had_its_turn = config.WORKERS > 1
            return accepted
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
    return [ListeningSocket(listening) for listening in bind_sockets(port, address or None, backlog=BACKLOG)]


def accept_rest(listening: socket.socket) -> list[tuple[socket.socket, Any]]:
    """All who wait to be accepted, whoever's turn it is; which is for the end."""
    accepted = []
    with suppress(OSError):
        while True:
            accepted.append(socket.socket.accept(listening))
    return accepted


def is_trusted(address: str) -> bool:
    """Whether TRUSTED_PROXIES says so."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # the other end of a Unix socket, which has none
        return False
    return any(parsed in network for network in config.TRUSTED_PROXIES)


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


class Crowd:
    """
    All lines of a process, and the limits on what clients keep open.

    A connection beyond MAX_CONNECTIONS or, unless it comes from a trusted proxy, MAX_CONNECTIONS_PER_ADDRESS
    is not let in. One that has not sent its first headers within HEADER_TIMEOUT, sends nothing for
    IDLE_TIMEOUT, has not sent a body within BODY_TIMEOUT, or has not read an answer within WRITE_TIMEOUT is
    closed; and, while more than MAX_UNSENT bytes wait to be read, who has let them wait longest.
    """

    def __init__(self) -> None:
        self._most = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._most_of_a_peer = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._most // 2)
        self._peers: Counter[str] = Counter()  # connections of each address
        self._lines: dict[Any, str] = {}  # every one, with its address
        self._writing: dict[Any, float] = {}  # those with an answer not read yet, and since when
        self._sweeper = PeriodicCallback(self._sweep, SWEEP)
        self._sweeper.start()

    def let_in(self, line: Any, peer: str) -> bool:
        """Whether there is room for another line, from this address; then it counts until it leaves."""
        if len(self._lines) >= self._most:
            return False
        if self._peers[peer] >= self._most_of_a_peer and not is_trusted(peer):
            return False
        self._lines[line] = peer
        self._peers[peer] += 1
        return True

    def leave(self, line: Any) -> None:
        """The line has ended."""
        peer = self._lines.pop(line, None)
        if peer is not None:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def stop(self) -> None:
        self._sweeper.stop()

    async def take_leave(self) -> None:
        """Wait for the lines to end, as each does with its next answer: LAST_CALL at most."""
        deadline = time.monotonic() + LAST_CALL
        while self._lines and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _sweep(self) -> None:
        now = time.monotonic()
        unsent = {line: line.unsent() for line in self._lines}
        self._writing = {line: self._writing.get(line, now) for line, size in unsent.items() if size}
        late = [line for line in self._lines if 0 < line.deadline < now]
        late += [line for line, since in self._writing.items() if now - since > config.WRITE_TIMEOUT]
        # Of what is written and not read the server keeps all; beyond MAX_UNSENT, who is longest at it goes.
        excess = sum(unsent.values()) - config.MAX_UNSENT
        for line in sorted(self._writing, key=self._writing.__getitem__):
            if excess > 0:
                late.append(line)
                excess -= unsent[line]
        for line in late:
            line.close()


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
