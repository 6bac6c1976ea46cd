"""
Health: `GET /health` tells whether the server runs, and `GET /health/ready` whether it should get requests.
"""

from __future__ import annotations

import asyncio

from indico import db
from indico.core.hooks import Application, get_state
from indico.core.http.pages import PageHandler
from indico.db import mongo
from indico.error import Unavailable

PING_TIMEOUT = 1  # seconds


def install(application: Application) -> None:
    """Serve both pages."""
    application.add_handlers(".*", [(r"/health", HealthHandler), (r"/health/ready", ReadyHandler)])


@mongo
async def ping() -> None:
    """Raise Unavailable if MongoDB does not respond."""
    await db.mongodb.command("ping")


class HealthHandler(PageHandler):
    def get(self) -> None:
        """Does the server run?"""
        self.respond(True)


class ReadyHandler(PageHandler):
    async def get(self) -> None:
        """
        Should the server get requests?

        503: MongoDB does not respond within a second, start-up work is not done, or the server is stopping.
        """
        try:
            await asyncio.wait_for(ping(), PING_TIMEOUT)
        except TimeoutError as error:
            raise Unavailable("The database did not respond in time") from error
        state = get_state(self.application)
        if state.missing:
            raise Unavailable(f"Not done yet: {', '.join(sorted(state.missing))}")
        if state.draining:
            raise Unavailable("The server is stopping")
        self.respond(True)
