"""
uvicorn in place of Tornado's own HTTP server, with the same limits: `HTTP_SERVER=uvicorn`.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import httptools
import uvicorn
from tornado.web import Application
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from indico import config
from indico.core.http.asgi import LINE, serve_request
from indico.core.http.tornado_server import BACKLOG, LARGEST_HEADER, Crowd, accept_rest
from indico.core.tasks import spawn


class Signal:
    """What uvicorn asks of an `asyncio.Event`, for one who waits: a tenth of the memory."""

    __slots__ = ("_set", "_waiting")

    def __init__(self) -> None:
        self._set = False
        self._waiting: asyncio.Future[None] | None = None

    def set(self) -> None:
        self._set = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    def clear(self) -> None:
        self._set = False

    async def wait(self) -> None:
        if not self._set:
            self._waiting = asyncio.get_running_loop().create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None


class Pipeline(list[Any]):
    """What uvicorn asks of a `deque`, which takes 700 bytes when it is empty."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:
        self.insert(0, item)


class Flow(FlowControl):
    """uvicorn's, with a Signal."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self.read_paused = self.write_paused = False
        self._is_writable_event: Any = Signal()
        self._is_writable_event.set()


class Transport:
    """uvicorn's way to the client, by which the head of an answer can be held back until its body comes."""

    __slots__ = ("_transport", "hold", "_held")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.hold = False  # what is written next
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self.hold:
            self.hold = False
            self._held = data
        elif self._held:
            held, self._held = self._held, b""
            self._transport.write(held + data)
        elif data:  # the last of an answer may be nothing, and come when writing has been shut down
            self._transport.write(data)


class Protocol(HttpToolsProtocol):
    """
    A connection of uvicorn's that is a line of the crowd (see `tornado_server.Line`), and lends itself to
    the requests that come by it.
    """

    # Python shares the names of thirty attributes among instances, and uvicorn's own are almost as many; it
    # sets `url` late.
    __slots__ = (
        "_active",
        "_crowd",
        "_extensions",
        "_head",
        "_nonsense",
        "_received",
        "deadline",
        "on_lost",
        "url",
    )

    def __init__(self, crowd: Crowd, **options: Any) -> None:
        super().__init__(**options)
        self.pipeline = Pipeline()  # type: ignore[assignment]
        self._crowd = crowd
        self._extensions = {LINE: self}
        self._active: RequestResponseCycle | None = None  # the request whose turn it is
        # Bytes of headers that came after the piece of data in which they began; below 0 in that one, and
        # endlessly so when no headers are on their way.
        self._head = -math.inf
        self._nonsense = False  # has come, and waits for the answers to what came before it
        self.deadline = time.monotonic() + config.HEADER_TIMEOUT
        self.on_lost: Callable[[], object] | None = None

    # The connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Transport(transport))  # type: ignore[arg-type]
        self.flow = Flow(self.transport)
        if not self._crowd.let_in(self, self.client[0] if self.client else ""):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._active is not None and not self._active.response_complete:
            self._active.disconnected = True  # which uvicorn does for the latest that came
            self._active.message_event.set()
        super().connection_lost(exc)
        self._crowd.leave(self)
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        if self._nonsense:
            return
        self._received = len(data)
        rest: bytes | memoryview = data
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as upgrade:
                    rest = memoryview(rest)[upgrade.args[0] :]
                    self._decline_upgrade()
        except httptools.HttpParserError:
            self._refuse()
        else:
            self._head += len(data)
            if self._head > LARGEST_HEADER:
                self._refuse()

    def _decline_upgrade(self) -> None:
        """Go on as if nobody had asked. The parser ends there, and would take a body for another request."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s\r\n" % (method, self.url, version)]
        head += [b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        if method != b"CONNECT":  # which has no body, and is served already
            self.parser.feed_data(b"".join(head) + b"\r\n")

    def _refuse(self) -> None:
        """Answer what is no HTTP, when what came before it has its answers."""
        self._nonsense = True
        if self.pipeline and self.cycle.more_body:  # it is in the body of the latest
            del self.pipeline[0]
        elif self._active is None or self._active.response_complete or self._active.more_body:
            if self._active is None or not self._active.response_started or self._active.response_complete:
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            self.hang_up()

    def hang_up(self) -> None:
        """Close the connection when what is written has been sent."""
        self.pipeline.clear()
        if self._active is not None:
            self._active.disconnected = True  # uvicorn should not miss what is not sent any more
            self._active.message_event.set()
        self.transport.close()

    # A request

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = self._extensions  # type: ignore[typeddict-item]
        self._head = -self._received

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            raise ValueError("no version that is spoken here")
        if self._head >= 0 or self._received > LARGEST_HEADER:
            size = len(self.url) + sum(len(name) + len(value) + 3 for name, value in self.headers)
            if size > LARGEST_HEADER:
                raise ValueError("headers too large")
        if self.parser.should_upgrade():
            if self.parser.get_method() != b"CONNECT":
                return  # it comes again, see `_decline_upgrade`
            if any(name in (b"content-length", b"transfer-encoding") for name, _ in self.headers):
                raise ValueError("to connect takes no body")
        super().on_headers_complete()
        self.cycle.message_event = Signal()  # type: ignore[assignment]
        self._head = -math.inf
        # Of a request that has to wait for its turn nothing more is read, so nothing can be late.
        self.deadline = math.inf if self.pipeline else time.monotonic() + config.BODY_TIMEOUT

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._active = cycle
        super()._start_asgi_task(cycle, app)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            return
        super().on_message_complete()
        idle = self.cycle.response_complete and not self.pipeline
        self.deadline = time.monotonic() + config.IDLE_TIMEOUT if idle else math.inf

    def on_response_complete(self) -> None:
        # uvicorn's own makes a timer each time, and the first byte that comes ends it.
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, application = self.pipeline.pop()
            self._start_asgi_task(cycle, application)
            if cycle.more_body:
                self.deadline = time.monotonic() + config.BODY_TIMEOUT
        elif self._nonsense:
            self._refuse()
        elif self.deadline == math.inf:
            self.deadline = time.monotonic() + config.IDLE_TIMEOUT

    # The line

    def is_closed(self) -> bool:
        return self.transport.is_closing()

    def shut_down_writing(self) -> None:
        if not self.transport.is_closing():
            self.transport.write_eof()

    def close(self) -> None:
        self.hang_up()
        self.transport.abort()

    def join_next(self) -> None:
        """Send what is written next together with what is written then: a system call costs more."""
        self.transport.hold = True  # type: ignore[attr-defined]

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size()


class UvicornListener:
    """What `indico.core.http.tornado_server.Listener` is, with uvicorn's HTTP."""

    def __init__(self, application: Application) -> None:
        logging.getLogger("uvicorn.error").setLevel(
            logging.ERROR
        )  # below, it tells of each client's nonsense
        adapter: Any = functools.partial(serve_request, application)
        self._config = uvicorn.Config(
            adapter,
            http=Protocol,
            ws="none",
            interface="asgi3",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
        )
        self._state = ServerState()
        self._crowd = Crowd()
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.base_events.Server] = []
        self._starting: list[asyncio.Task[None]] = []

    def add_sockets(self, sockets: Sequence[socket.socket]) -> None:
        """Serve on these sockets, which listen already, as soon as the event loop runs."""
        self._sockets += sockets
        loop = asyncio.get_event_loop()
        self._starting += [loop.create_task(self._start(listening)) for listening in sockets]

    async def _start(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._servers.append(await loop.create_server(self._make_protocol, sock=listening, backlog=BACKLOG))

    def _make_protocol(self) -> Protocol:
        return Protocol(self._crowd, config=self._config, server_state=self._state, app_state={})

    def stop(self) -> None:
        """Listen no more. Who has connected already and waits to be accepted is served."""
        for task in self._starting:
            task.cancel()
        # Closing is what follows the last one at once: who comes in between is cut off.
        accepted = [connection for listening in self._sockets for connection, _ in accept_rest(listening)]
        for server in self._servers:
            server.close()
        for listening in self._sockets:
            listening.close()
        for connection in accepted:
            connection.setblocking(False)
            loop = asyncio.get_event_loop()
            spawn(loop.connect_accepted_socket(self._make_protocol, connection))
        self._crowd.stop()

    async def take_leave(self) -> None:
        """Once stopped, wait for connections to end: see Crowd."""
        await self._crowd.take_leave()

    async def close_all_connections(self) -> None:
        """Close all connections, when what is answered already has been sent."""
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=1)
        await asyncio.sleep(0)
        for connection in list(self._state.connections):
            connection.transport.abort()
        while self._state.connections or self._state.tasks:
            await asyncio.sleep(0)
