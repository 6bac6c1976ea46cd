"""
Logs: a line for each request, and the request's id in every line that the request causes. On a terminal the
lines are text, elsewhere each is a JSON object.

The id is the client's `X-Request-Id` if that looks like one. Otherwise it is made here. The response has it
in the same header. Nothing that a client sends can begin a line or reach the terminal as a control character.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from indico.batteries.logs import requests
from indico.batteries.logs.formatters import make_formatter
from indico.core.hooks import Application
from indico.utils import LOGGER


def install(application: Application) -> None:
    """Give requests their ids, and give the lines on stderr their format."""
    requests.install(application)
    application.hooks.lifespans.append(lifespan)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # not a test's or a debugger's
            handler.setFormatter(make_formatter(handler.stream))
            logging.captureWarnings(True)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """At LOG_LEVEL=DEBUG, log MongoDB's commands."""
    listener = CommandLog()
    listening = LOGGER.isEnabledFor(logging.DEBUG)
    if listening:
        application.hooks.mongo_listeners.append(listener)
    try:
        yield
    finally:
        if listening:
            application.hooks.mongo_listeners.remove(listener)


class CommandLog(CommandListener):
    """A line for each command that has ended. It has the command's name, and nothing of its content."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing to log yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._log(event, "took")

    def failed(self, event: CommandFailedEvent) -> None:
        self._log(event, "failed after")

    def _log(self, event: CommandSucceededEvent | CommandFailedEvent, what: str) -> None:
        milliseconds = event.duration_micros / 1000
        extra = {"command": event.command_name, "duration_ms": milliseconds}
        LOGGER.debug("MongoDB's %s %s %.1f ms", event.command_name, what, milliseconds, extra=extra)
