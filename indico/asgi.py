"""
The application for ASGI servers: `uvicorn indico.asgi:application`, or granian, or hypercorn. It is the
application that `python -m indico.server` serves.
"""

from __future__ import annotations

from indico import config
from indico.core.hooks import Application
from indico.core.http.asgi import Receive, Scope, Send, serve_request
from indico.core.lifecycle import lifespan
from indico.core.serving import configure_logging
from indico.server import make_app


class ASGIApplication:
    """An ASGI application that serves a Tornado application: the given one, or else `make_app()`."""

    def __init__(self, served: Application | None = None) -> None:
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if self._served is None:
                self._served = make_app()
            await serve_request(self._served, scope, receive, send)
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


application = ASGIApplication()
