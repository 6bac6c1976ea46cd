"""
What the log says about a request: a line at its end, and its id in every line that it causes.
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
VALID_ID = re.compile("[A-Za-z0-9._-]{1,48}")  # shorter than a key, in case a client puts one there


class RequestRecord:
    """
    What lines say about their request. Contexts keep this for longer than the request takes, so it lets go of
    the handler when the request ends.
    """

    __slots__ = ("handler", "names", "request_id")

    def __init__(self, request_id: str, handler: RequestHandler | None = None) -> None:
        self.request_id = request_id
        self.handler = handler
        self.names: dict[str, Any] = {}  # as they were at the end

    def read_fields(self) -> dict[str, Any]:
        handler = self.handler  # another thread may end the request meanwhile
        names = self.names if handler is None else read_names(handler)
        return {"request_id": self.request_id, **names}

    def end(self) -> None:
        assert self.handler is not None  # a request ends once
        self.names, self.handler = read_names(self.handler), None


def read_names(handler: RequestHandler) -> dict[str, Any]:
    """The route, action and user of a request, as far as they are known."""
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
    """What the lines of the current request say about it. Nothing outside of a request."""
    record = _current.get()
    return {} if record is None else record.read_fields()


def read_id(request: HTTPServerRequest) -> str:
    """The request's id: its X-Request-Id, which is replaced unless it looks like one."""
    request_id = request.headers.get(HEADER, "")
    if not VALID_ID.fullmatch(request_id):
        request_id = request.headers[HEADER] = f"{random.getrandbits(128):032x}"
    return request_id


def find_headers(handler: RequestHandler) -> list[tuple[str, str]]:
    """The response has the request's id."""
    return [(HEADER, read_id(handler.request))]


def begin(handler: EnvelopeHandler) -> Callable[[], None]:
    """
    Let lines know their request. Tornado copies the context for the handler's task after this, so everything
    that the request starts inherits the record.
    """
    handler.request_id = read_id(handler.request)
    record = RequestRecord(handler.request_id, handler)
    _current.set(record)
    return record.end


class PlainRequest(Matcher):
    """
    Matches nothing. Tornado asks it before the application's own routes, so that requests of its plain
    handlers, which have no hooks, have an id as well.
    """

    def match(self, request: HTTPServerRequest) -> None:
        _current.set(RequestRecord(read_id(request)))


def log_request(handler: RequestHandler) -> None:
    """Log a request in one line. Nothing else in it comes from the client: no path, no header, no key."""
    if not LOGGER.isEnabledFor(logging.INFO):
        return
    milliseconds = round(1000 * handler.request.request_time(), 1)
    status = handler.get_status()
    extra = {"status": status, "duration_ms": milliseconds}
    # A request may end in the context of another one, which answers it.
    token = _current.set(RequestRecord(read_id(handler.request), handler))
    LOGGER.info("%d %s %.1f ms", status, name_request(handler), milliseconds, extra=extra)
    _current.reset(token)
