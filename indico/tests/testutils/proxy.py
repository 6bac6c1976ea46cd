"""
A TCP proxy on loopback, to simulate slow and broken networks.
"""

from __future__ import annotations

import asyncio
import functools
import socket
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any

PATIENCE = 10  # seconds that a thread waits for the proxy
HOST = "127.0.0.1"

Peers = Callable[[int], bool]  # whether to include the client at this port


def reserve_port() -> tuple[socket.socket, int]:
    """
    Reserve a free port of this machine, while the returned socket is open. That socket does not listen, so a
    program that reuses addresses, such as mongod, can listen on the port.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind((HOST, 0))
    return reserved, int(reserved.getsockname()[1])


class Proxy:
    """
    Forwards connections to an address. It listens on `port`.

        with Proxy(("127.0.0.1", 27017)) as proxy:
            proxy.delay(0.5)
            ...
            proxy.pass_on()

    Each of its modes applies to existing and new connections, until another is set. It runs in a thread of
    its own, and any thread can call its methods.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._reserved, self.port = reserve_port()
        self._listener: socket.socket | None = None
        self._links: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._delay = 0.0
        self._swallows = False
        self._holds: Peers = _nobody
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.pass_on()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Modes

    def pass_on(self) -> None:
        """Forward all data at once."""
        self._set_mode()

    def delay(self, seconds: float) -> None:
        """Delay each chunk from the target. `pass_on` forwards the waiting chunks."""
        self._set_mode(delay=seconds)

    def hold(self, peers: Peers | None = None) -> None:
        """
        Keep the data of these clients, or of all, until `pass_on`. This simulates a network cable that is
        unplugged and plugged in again.
        """
        self._set_mode(holds=functools.cache(peers) if peers else _everybody)

    def swallow(self) -> None:
        """
        Discard all data. A connection that has lost data stays silent permanently, as behind a firewall that
        has dropped it.
        """
        self._set_mode(swallows=True)

    def refuse(self) -> None:
        """Close all connections, and accept no new ones."""
        self._set_mode(listens=False)
        self.cut()

    def cut(self) -> None:
        """Close all connections. The mode stays the same for new ones."""
        self._run(self._end_links())

    def close(self) -> None:
        """Stop the proxy, and close all connections."""
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._reserved.close()

    # The proxy's thread

    def _set_mode(
        self, listens: bool = True, delay: float = 0, swallows: bool = False, holds: Peers | None = None
    ) -> None:
        self._run(self._change(listens, delay, swallows, holds or _nobody))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(PATIENCE)

    async def _change(self, listens: bool, delay: float, swallows: bool, holds: Peers) -> None:
        self._delay, self._swallows, self._holds = delay, swallows, holds
        self._changed.set()
        self._changed = asyncio.Event()
        if listens and self._listener is None:
            self._listener = socket.create_server((HOST, self.port), backlog=1000)
            self._listener.setblocking(False)
            self._loop.add_reader(self._listener, self._accept, self._listener)
        elif not listens and self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _end_links(self) -> None:
        links = list(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):  # the client has disconnected
            client, (_, peer) = listener.accept()
            link = self._loop.create_task(self._link(client, peer))
            self._links.add(link)
            link.add_done_callback(self._links.discard)
            link.add_done_callback(lambda _: client.close())  # even if the task is cancelled before it starts

    async def _link(self, client: socket.socket, peer: int) -> None:
        # If one end fails, or the target can't be reached, both ends are closed.
        with client, socket.socket() as server, suppress(OSError):
            for end in (client, server):
                end.setblocking(False)
            await self._loop.sock_connect(server, self._target)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            lost = asyncio.Event()
            pumps = [
                self._loop.create_task(self._pump(client, server, peer, lost, is_answer=False)),
                self._loop.create_task(self._pump(server, client, peer, lost, is_answer=True)),
            ]
            try:
                await asyncio.gather(*pumps)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, source: socket.socket, sink: socket.socket, peer: int, lost: asyncio.Event, is_answer: bool
    ) -> None:
        while True:
            chunk = await self._loop.sock_recv(source, 65536)
            if is_answer and self._delay:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), self._delay)
            while self._holds(peer):
                await self._changed.wait()
            if self._swallows:
                lost.set()
            if lost.is_set():
                if not chunk:
                    await asyncio.Event().wait()  # the other end is not closed
            elif chunk:
                await self._loop.sock_sendall(sink, chunk)
            else:
                return sink.shutdown(socket.SHUT_WR)


def _nobody(peer: int) -> bool:
    return False


def _everybody(peer: int) -> bool:
    return True
