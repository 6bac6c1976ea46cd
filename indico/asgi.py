"""
The application for ASGI servers: `uvicorn indico.asgi:application`, or granian, or hypercorn. It is the
application that `python -m indico.server` serves.
"""

from __future__ import annotations

import asyncio

from indico import config
from indico.core.hooks import Application
from indico.core.http.asgi import Receive, Scope, Send, send_error, serve_request
from indico.core.lifecycle import lifespan
from indico.core.serving import configure_logging
from indico.core.tasks import spawn
from indico.error import Unavailable
from indico.server import make_app
from indico.utils import LOGGER


class ASGIApplication:
    """An ASGI application that serves a Tornado application: the given one, or else `make_app()`."""

    def __init__(self, served: Application | None = None) -> None:
        self._served = served
        self._started: asyncio.Future[None] | None = None  # done when the first request has started it

    @property
    def _running(self) -> Application | None:
        served = self._served
        is_running = served is not None and (served.state.running or served.state.draining)
        return served if is_running else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._running is None:
                await self._start()
            if self._running is not None:
                await serve_request(self._running, scope, receive, send)
            else:
                error = Unavailable("The server can't start: see its log")
                await send_error(error, scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._run_lifespan(receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1000})  # before the handshake: the client gets 403
        else:
            raise ValueError(f"the protocol {scope['type']} is not supported")

    async def _run_lifespan(self, receive: Receive, send: Send) -> None:
        """Start and stop. If the start fails, the ASGI server gets one sentence for its log."""
        await receive()
        configure_logging()
        try:
            self._served = self._served or make_app()
            async with lifespan(self._served):
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._served.state.draining = True
        except config.SettingError as error:
            await send({"type": "lifespan.startup.failed", "message": str(error)})
        else:
            await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        """Start without lifespan events. Some servers and frameworks send none."""
        loop = asyncio.get_running_loop()
        if self._started is None or self._started.get_loop() is not loop:
            started = self._started = loop.create_future()
            task = spawn(self._run(started))

            def end(_: object) -> None:
                if not started.done():  # the start failed
                    started.set_result(None)

            task.add_done_callback(end)
        await asyncio.shield(self._started)  # other requests wait for it too

    async def _run(self, started: asyncio.Future[None]) -> None:
        """Run until the event loop ends, which cancels its tasks."""
        configure_logging()
        try:
            self._served = self._served or make_app()
            async with lifespan(self._served):
                started.set_result(None)
                await asyncio.Event().wait()
        except config.SettingError as error:
            LOGGER.critical("%s", error)


application = ASGIApplication()
