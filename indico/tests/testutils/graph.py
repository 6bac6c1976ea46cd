"""
A stub of Facebook's Graph API on a free loopback port. The name of a token describes the response to it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from indico.tests.mocks import OAUTH_ID

APP_ID = "2015"
APP_SECRET = "the app's secret, with & and | and %41"
PATIENCE = 10  # seconds that a thread waits for the stub


def _say(**changes: Any) -> bytes:
    data = {"is_valid": True, "app_id": APP_ID, "user_id": OAUTH_ID, **changes}
    return json.dumps({"data": data}).encode()


VALID = "token-valid"
SLOW = "token-slow"  # valid too, but the response waits for `release`
HANG_UP = "token-hang-up"  # no response: the connection is closed
ODD = "a&b=c%26d+e|f?g#h/i;j\"k'l=="  # valid too
NUMBERS = "token-valid-with-ids-as-numbers"

ACCEPTED = {
    VALID: _say(),
    SLOW: _say(),
    ODD: _say(),
    NUMBERS: _say(app_id=int(APP_ID), user_id=int(OAUTH_ID)),
}
REFUSED = {
    "token-expired": _say(is_valid=False),
    "token-of-another-app": _say(app_id="2016"),
    "token-of-no-app": _say(app_id=None),
    "token-of-another-user": _say(user_id=OAUTH_ID + "1"),
    "token-of-no-user": _say(user_id=None),
    "token-valid-as-a-string": _say(is_valid="true"),
    "token-valid-as-a-number": _say(is_valid=1),
    "token-without-a-word": b'{"data": {}}',
}
BROKEN = {
    "token-status-302": b"",
    "token-status-400": _say(),
    "token-status-500": _say(),
    "token-empty": b"",
    "token-html": b"<html>Sorry, something went wrong.</html>",
    "token-a-list": b"[true]",
    "token-a-number": b"7",
    "token-without-data": b'{"is_valid": true}',
    "token-data-is-a-list": b'{"data": [true]}',
    "token-data-is-null": b'{"data": null}',
    "token-nested-too-deep": 60_000 * b"[",
    "token-huge": _say(more=1_000_000 * "x"),
    "token-huge-headers": _say(),
    "token-echoed-in-bad-utf-8": b'"token-echoed-in-bad-utf-8 \xff',
}
ANSWERS = {**ACCEPTED, **REFUSED, **BROKEN}


class Graph:
    """
    The stub. It runs on the event loop of `start`, until `stop`. Unknown tokens are not valid.

    `uris` are those of its requests. `settings` make the server use it: as environment variables of a server
    process, or with `mock.patch.dict(vars(config), graph.settings)`.
    """

    async def start(self) -> None:
        socket, port = bind_unused_port()
        self.settings = {
            "FACEBOOK_APP_ID": APP_ID,
            "FACEBOOK_APP_SECRET": APP_SECRET,
            "FACEBOOK_GRAPH_URL": f"http://127.0.0.1:{port}",
        }
        self.uris: list[str] = []
        self.arrival = asyncio.Condition()
        self.released = asyncio.Event()
        self.left = asyncio.Event()  # a client disconnected before the response
        self._loop = asyncio.get_running_loop()
        # Its own log would contain the tokens.
        routes = [("/debug_token", _DebugToken, {"graph": self})]
        self._server = HTTPServer(Application(routes, log_function=lambda handler: None))
        self._server.add_socket(socket)

    async def stop(self) -> None:
        self.released.set()
        self._server.stop()
        await self._server.close_all_connections()

    async def wait_for_requests(self, count: int) -> None:
        """Return when that many requests have arrived. Slow ones count before their response."""
        async with self.arrival:
            await self.arrival.wait_for(lambda: len(self.uris) >= count)

    def release(self) -> None:
        """Respond to waiting requests, and no longer delay new ones. Any thread can call this."""
        self._loop.call_soon_threadsafe(self.released.set)


class _DebugToken(RequestHandler):
    def initialize(self, graph: Graph) -> None:
        self.graph = graph

    async def get(self) -> None:
        async with self.graph.arrival:
            self.graph.uris.append(str(self.request.uri))
            self.graph.arrival.notify_all()
        token = self.get_query_argument("input_token", strip=False)
        if self.get_query_argument("access_token", strip=False) != f"{APP_ID}|{APP_SECRET}":
            self.set_status(400)
            self.finish({"error": {"message": "Invalid OAuth access token", "code": 190}})
        elif token == HANG_UP:
            self.detach().close()
        else:
            if token == SLOW:
                await self.graph.released.wait()
            if token.startswith("token-status-"):
                self.set_status(int(token.removeprefix("token-status-")))
                self.set_header("Location", str(self.request.uri).replace(token, VALID))
            if token == "token-huge-headers":
                self.set_header("X-Trace", 100_000 * "x")
            self.finish(ANSWERS.get(token, REFUSED["token-expired"]))

    def on_connection_close(self) -> None:
        self.graph.left.set()


@contextmanager
def graph_in_thread() -> Iterator[Graph]:
    """A stub in a thread of its own, for tests without a running event loop."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    graph = Graph()
    asyncio.run_coroutine_threadsafe(graph.start(), loop).result(PATIENCE)
    try:
        yield graph
    finally:
        asyncio.run_coroutine_threadsafe(graph.stop(), loop).result(PATIENCE)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
