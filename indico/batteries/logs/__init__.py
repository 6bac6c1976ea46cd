"""
Logs: one line for each request, and the request's id in all lines that are logged during the request. On a
terminal, lines are text. Otherwise, each is a JSON object.

The id is the client's `X-Request-Id` if that is valid, or else a new one. The response has it in the same
header. Newlines and control characters in a client's data are escaped.
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
    """Set the ids of requests, and the format of lines on stderr."""
    requests.install(application)
    application.hooks.lifespans.append(lifespan)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # not a handler of a test or a debugger
            handler.setFormatter(make_formatter(handler.stream))
            logging.captureWarnings(True)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """With LOG_LEVEL=DEBUG, log MongoDB's commands."""
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
    """Logs one line for each command, with its name and duration, but not its content."""

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
