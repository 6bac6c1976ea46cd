"""
The HTTP server. It accepts connections and passes their requests to a Tornado application.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterable
from contextvars import copy_context
from typing import Any

from tornado.httputil import HTTPServerConnectionDelegate

from indico import config
from indico.core.http.connection import ServerConnection
from indico.core.http.limits import ConnectionLimits
from indico.core.http.sockets import BACKLOG, accept_waiting

CLOSE_SECONDS = 1  # at the end, for sending the unsent data


class Server:
    """HTTP/1.1 on asyncio, with the limits of ConnectionLimits. Its methods are those of TornadoServer."""

    def __init__(self, application: HTTPServerConnectionDelegate) -> None:
        self.application = application
        self.limits = ConnectionLimits()
        self.context = copy_context()  # a context outside all requests
        self.loop = asyncio.get_running_loop()
        self.done: asyncio.Future[None] = self.loop.create_future()  # shared by all writes that don't wait
        self.done.set_result(None)
        self.stopping = False
        self._sockets: list[socket.socket] = []
        self._connecting: set[asyncio.Task[Any]] = set()

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        for listening in sockets:
            listening.setblocking(False)
            self._sockets.append(listening)
            self.loop.add_reader(listening.fileno(), self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        # Workers share the socket. Each accepts one client at a time, because a worker that accepted all
        # waiting clients would leave the others idle.
        self._connect(accept_waiting(listening, 1 if config.WORKERS > 1 else BACKLOG))

    def _connect(self, accepted: list[tuple[socket.socket, Any]]) -> None:
        for client, address in accepted:
            client.setblocking(False)
            remote_ip = address[0] if address else "0.0.0.0"  # the address that Tornado uses for Unix sockets
            task = self.loop.create_task(self._start_connection(client, remote_ip))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    async def _start_connection(self, client: socket.socket, remote_ip: str) -> None:
        try:
            await self.loop.connect_accepted_socket(lambda: ServerConnection(self, remote_ip), client)
        except OSError:  # the client has disconnected
            client.close()

    def stop(self) -> None:
        self.stopping = True  # each connection then ends with its next response
        for listening in self._sockets:
            self.loop.remove_reader(listening.fileno())
            # A client that connects between `accept_waiting` and `close` is disconnected.
            self._connect(accept_waiting(listening, BACKLOG))
            listening.close()
        self._sockets.clear()
        self.limits.stop()

    async def wait_until_idle(self) -> None:
        """After `stop`, wait LAST_REQUEST_SECONDS at most for the connections to end."""
        await self.limits.wait_until_idle()

    async def close_all_connections(self) -> None:
        """Send the unsent data, then close all connections."""
        if self._connecting:
            await asyncio.wait(self._connecting)
        deadline = time.monotonic() + CLOSE_SECONDS
        while connections := list(self.limits.addresses):
            for connection in connections:
                if not connection.unsent_bytes() or time.monotonic() > deadline:
                    connection.close()
            await asyncio.sleep(0)
