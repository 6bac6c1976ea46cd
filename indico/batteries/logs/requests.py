"""
Request ids, and the fields that log lines have about their request.
"""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from indico.core.hooks import Application
from indico.core.http.envelope import EnvelopeHandler, name_request, name_route
from indico.utils import LOGGER

HEADER = "X-Request-Id"
VALID_ID = re.compile("[A-Za-z0-9._-]{1,48}")  # shorter than a key, so that no key is logged


class RequestRecord:
    """
    The fields of a request in log lines. Contexts can outlive the request, so the reference to the handler is
    dropped when the request ends.
    """

    __slots__ = ("handler", "names", "request_id")

    def __init__(self, request_id: str, handler: RequestHandler | None = None) -> None:
        self.request_id = request_id
        self.handler = handler
        self.names: dict[str, Any] = {}  # read at the end of the request

    def read_fields(self) -> dict[str, Any]:
        handler = self.handler  # read once: another thread may end the request meanwhile
        names = self.names if handler is None else read_names(handler)
        return {"request_id": self.request_id, **names}

    def end(self) -> None:
        assert self.handler is not None  # a request ends once
        self.names, self.handler = read_names(self.handler), None


def read_names(handler: RequestHandler) -> dict[str, Any]:
    """Return the route of a request, and its action and user if they are known."""
    names = {"route": name_route(type(handler))}
    for name in ("action", "user_id"):
        if value := vars(handler).get(name):
            names[name] = value
    return names


_current: ContextVar[RequestRecord | None] = ContextVar("request", default=None)


def install(application: Application) -> None:
    application.hooks.response_headers.append(find_headers)
    application.hooks.around_request.append(begin)
    application.settings["log_function"] = log_request
    application.add_handlers(".*", [Rule(PlainRequest(), RequestHandler)])


def read_fields() -> dict[str, Any]:
    """Return the fields of the current request, or none outside of a request."""
    record = _current.get()
    return {} if record is None else record.read_fields()


def read_id(request: HTTPServerRequest) -> str:
    """Return the request's id, its X-Request-Id. If that is missing or not valid, sets a new one."""
    request_id = request.headers.get(HEADER, "")
    if not VALID_ID.fullmatch(request_id):
        request_id = request.headers[HEADER] = f"{random.getrandbits(128):032x}"
    return request_id


def find_headers(handler: EnvelopeHandler) -> list[tuple[str, str]]:
    """Return the request's id as a response header."""
    return [(HEADER, handler.request_id or read_id(handler.request))]


def begin(handler: EnvelopeHandler) -> Callable[[], None]:
    """
    Make this the current request of log lines. Tornado copies the context for the handler's task after this,
    so all tasks of the request inherit the record.
    """
    handler.request_id = read_id(handler.request)
    record = RequestRecord(handler.request_id, handler)
    _current.set(record)
    return record.end


class PlainRequest(Matcher):
    """
    Matches nothing. Tornado calls it before the application's routes, so that requests have an id even if
    their handler is Tornado's own and has no hooks.
    """

    def match(self, request: HTTPServerRequest) -> None:
        _current.set(RequestRecord(read_id(request)))


def log_request(handler: RequestHandler) -> None:
    """Log a request in one line, with its id, but no other data from the client: no path, no key."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    milliseconds = round(1000 * handler.request.request_time(), 1)
    status = handler.get_status()
    extra = {"status": status, "duration_ms": milliseconds}
    # A request can end in the context of another request that completes it.
    token = _current.set(RequestRecord(read_id(handler.request), handler))
    LOGGER.info("%d %s %.1f ms", status, name_request(handler), milliseconds, extra=extra)
    _current.reset(token)
