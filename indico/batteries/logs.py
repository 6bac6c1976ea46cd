"""
Logs: a line for each request, and the request's id in every line that it causes. On a terminal they are for
people, elsewhere each is a JSON object.

The id is the client's `X-Request-Id` if that looks like one, or else made here, and answered in the same
header. Nothing that a client sends can begin a line of its own, or reach the terminal as a control character.
"""

from __future__ import annotations

import json
import logging
import os
import random
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from tornado.web import RequestHandler

from indico import config
from indico.core.hooks import Application
from indico.core.http.envelope import EnvelopeHandler, name_request, name_route
from indico.utils import LOGGER

SANE_ID = re.compile("[A-Za-z0-9._-]{1,48}")  # shorter than a key, should somebody put one there
DIM = 2
COLOURS = {"DEBUG": 36, "INFO": 32, "WARNING": 33, "ERROR": 31, "CRITICAL": 35}  # of ANSI terminals
_ENCODER = json.JSONEncoder(default=str)
_STANDARD = {
    *vars(logging.makeLogRecord({})),
    "message",
    "asctime",
    "taskName",
}  # the rest of a record is extra


def install(application: Application) -> None:
    """Give requests their ids, and the lines that `main` has logged their format."""
    application.hooks.response_headers.append(add_id)
    application.hooks.around_request.append(watch)
    application.hooks.lifespans.append(lifespan)
    application.settings["log_function"] = log_request
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # and no test's or debugger's
            handler.setFormatter(make_formatter(handler.stream))
            logging.captureWarnings(True)


def make_formatter(stream: Any) -> logging.Formatter:
    """What LOG_FORMAT says or, if that is auto, what suits the stream."""
    terminal = stream.isatty()
    if config.LOG_FORMAT == "json" or (config.LOG_FORMAT == "auto" and not terminal):
        return JSONFormatter()
    return TextFormatter(coloured=terminal and "NO_COLOR" not in os.environ)


# Requests


Identity = tuple[str, str | None, str | None]  # route, action and user_id


class Request:
    """
    What lines say of their request. Contexts keep this, so it lets go of the handler when it is called, which
    is when the request ends.
    """

    __slots__ = ("id", "_end", "_handler")

    def __init__(self, handler: RequestHandler) -> None:
        given = handler.request.headers.get("X-Request-Id", "")
        self.id = given if SANE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        self._handler: RequestHandler | None = handler
        self._end: Identity = ("", None, None)

    @property
    def fields(self) -> dict[str, Any]:
        handler = self._handler  # which another thread may be about to remove
        route, action, user_id = self._end if handler is None else _identify(handler)
        fields = {"request_id": self.id, "route": route, "action": action, "user_id": user_id}
        return {name: value for name, value in fields.items() if value}

    def __call__(self) -> None:
        assert self._handler is not None  # a request ends once
        self._end, self._handler = _identify(self._handler), None


def _identify(handler: RequestHandler) -> Identity:
    return name_route(type(handler)), getattr(handler, "action", None), getattr(handler, "user_id", None)


_request: ContextVar[Request | None] = ContextVar("request", default=None)


def begin(handler: RequestHandler) -> Request:
    """
    The request, which begins with the first call of this. Tornado then still is in the context that it copies
    for the handler's task, so that whatever the request starts knows it from here on.
    """
    request: Request | None = getattr(handler, "_logged", None)
    if request is None:
        request = Request(handler)
        handler._logged = request  # type: ignore[attr-defined] # a name that no action has
        _request.set(request)
    return request


def add_id(handler: RequestHandler) -> Iterator[tuple[str, str]]:
    """Answer with the request's id."""
    yield "X-Request-Id", begin(handler).id


def watch(handler: EnvelopeHandler) -> Callable[[], None]:
    """Let go of the handler when the request ends."""
    return begin(handler)


def log_request(handler: RequestHandler) -> None:
    """One line a request, in which nothing else comes from the client: no path, no header, no key."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    milliseconds = round(1000 * handler.request.request_time(), 1)
    status = handler.get_status()
    extra = {"status": status, "duration_ms": milliseconds}
    # Whoever ends a request may be another, or the connection's last one, if this handler is plain Tornado's.
    token = _request.set(getattr(handler, "_logged", None))
    LOGGER.info("%d %s %.1f ms", status, name_request(handler), milliseconds, extra=extra)
    _request.reset(token)


# MongoDB


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
    """A line for each command that has ended, with nothing of what it said or was answered."""

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is known yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._log(event, "took")

    def failed(self, event: CommandFailedEvent) -> None:
        self._log(event, "failed after")

    def _log(self, event: CommandSucceededEvent | CommandFailedEvent, what: str) -> None:
        milliseconds = event.duration_micros / 1000
        extra = {"command": event.command_name, "duration_ms": milliseconds}
        LOGGER.debug("MongoDB's %s %s %.1f ms", event.command_name, what, milliseconds, extra=extra)


# Lines


def escape(text: str) -> str:
    """The text with escapes, as Python has them, for all that is not printable: newlines, colours, ..."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_fields(record: logging.LogRecord) -> dict[str, Any]:
    """What the line has beside its message: its request, and what the call passed as `extra`."""
    request = _request.get()
    extra = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**(request.fields if request is not None else {}), **extra}


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **read_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return _ENCODER.encode(line)


class TextFormatter(logging.Formatter):
    """
    A line for people: the time, the level, the message, and then the request's id and its user. The lines of
    a traceback are set in, so that none of them can pass for another.
    """

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        fields = read_fields(record)
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        level = self._paint(f"{record.levelname:7}", COLOURS.get(record.levelname, 0))
        message = escape(f"{record.name}: {record.getMessage()}")
        who = escape(" ".join(str(fields[name]) for name in ("request_id", "user_id") if name in fields))
        line = f"{self._paint(time, DIM)} {level} {message} {self._paint(who, DIM)}".rstrip()
        details = [
            *(self.formatException(record.exc_info).split("\n") if record.exc_info else ()),
            *(self.formatStack(record.stack_info).split("\n") if record.stack_info else ()),
        ]
        return "\n".join([line, *(f"    {escape(detail)}" for detail in details)])

    def _paint(self, text: str, colour: int) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured and text else text
