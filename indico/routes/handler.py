"""
Indico request handler: one place that runs an action and turns what comes of it into an answer.
"""

from __future__ import annotations

import asyncio
import datetime
import enum
import functools
import inspect
import json
import math
import time
import uuid
from asyncio import Future
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId
from tornado.httputil import HTTPHeaders, format_timestamp
from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, RequestHandler, stream_request_body

from indico import config
from indico.core.http.tornado_server import Line
from indico.core.timers import call_within
from indico.db import begin_request
from indico.error import (
    BodyTooLarge,
    IndicoError,
    MethodNotAllowed,
    RequestTimeout,
    RouteNotFound,
    to_answer,
)
from indico.utils import LATER, LOGGER, orjson

RETRY_AFTER = 1  # seconds, what a 503 tells the client to wait
HEADERS = {  # of every envelope
    "Content-Type": "application/json; charset=UTF-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
LINGER = 2  # seconds in which the rest of a body that is too large is read and dropped

_EPOCH = datetime.datetime(1970, 1, 1)
_UTC_EPOCH = _EPOCH.replace(tzinfo=datetime.UTC)
_write_date = functools.lru_cache(1)(format_timestamp)


def _to_milliseconds(date: datetime.datetime) -> int:
    # Of those without a time zone, as MongoDB's are, UTC. `timestamp` takes three times as long, and to
    # divide by a millisecond twice: a list of documents has thousands of them.
    since = date - (_UTC_EPOCH if date.tzinfo else _EPOCH)
    return since.days * 86_400_000 + since.seconds * 1000 + round(since.microseconds / 1000)


# By type first, for a list of documents has thousands of them.
_ENCODERS: dict[type, Callable[[Any], Any]] = {
    ObjectId: lambda identity: identity.binary.hex(),
    datetime.datetime: _to_milliseconds,
    DatetimeMS: int,  # a date beyond Python's years
    uuid.UUID: str,
}


class JSONEncoder(json.JSONEncoder):
    """JSON for documents: an ObjectId or UUID is its text, a date its UTC milliseconds, an Enum its value."""

    def default(self, o: Any) -> Any:
        try:  # which costs less than to ask first
            return _ENCODERS[type(o)](o)
        except KeyError:
            pass
        for kind, encoder in _ENCODERS.items():
            if isinstance(o, kind):
                return encoder(o)
        if isinstance(o, enum.Enum):
            return o.value
        return super().default(o)


@stream_request_body  # so that a body that is too large gets an answer, and not just a closed connection
class IndicoHandler(RequestHandler):
    """
    Turns `POST /<route>/<action>` into a call of the method `<action>` with the body.

    An action that returns an awaitable is answered with its result. One that returns anything else is
    answered with that, except None: then it will call `respond` later, and the request stays open. An
    IndicoError that it raises is the answer, and any other exception a ServerError. An action that takes
    longer than `request_timeout` is cancelled and answered with 504; one whose client goes away is
    cancelled.
    """

    # An instance whose attributes come to be after many others were made, as when many requests come at once,
    # has a dict of its own for them, of a kilobyte. The last three are Tornado's, which sets them late. Not
    # here is what has a name that an action may have.
    __slots__ = (
        "_abandoned",
        "_answered",
        "_chunks",
        "_context",
        "_endings",
        "_later",
        "_linger",
        "_method",
        "_size",
        "_task",
        "_transforms",
        "path_args",
        "path_kwargs",
    )
    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "REFUSED")
    allowed = "POST"  # the methods that requests may have, with commas between
    user_id: str  # set by @auth, as is
    key: str

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.action: str | None = None  # the action that runs, for the log
        self._chunks: list[bytes] = []
        self._size = 0  # bytes of the body so far
        self._linger: asyncio.TimerHandle | None = None  # runs while the rest of a body is dropped
        self._answered = False
        self._abandoned = False  # timed out or left by the client: what the action says is dropped
        self._task: asyncio.Task[Any] | None = None
        self._later: asyncio.Future[None] | None = None
        self._endings: tuple[Callable[[], object], ...] = ()
        super().__init__(*args, **kwargs)
        self._method = str(self.request.method)
        if self._method not in self.SUPPORTED_METHODS:  # Tornado would not even wait for its body
            self.request.method = "REFUSED"
        settings = self.settings
        settings.setdefault("in_flight", set()).add(self)
        self._endings = tuple([watch(self) for watch in settings.get("watchers", ())])
        self._context = copy_context()  # whose request it is, for what ends it from outside

    @property
    def _line(self) -> Any:
        line: Any = self.request.server_connection
        return line if hasattr(line, "shut_down_writing") else Line(line.stream)  # of a plain HTTPServer

    @property
    def request_timeout(self) -> float | None:
        """Seconds an action may take. A handler sets its own by `request_timeout = 300`, None for ever."""
        return config.REQUEST_TIMEOUT

    def clear(self) -> None:
        # What Tornado's does, with the headers of an envelope from the start: for a short request the other
        # way, and a date that is written anew, take a tenth of its time.
        self._headers = HTTPHeaders({**HEADERS, "Date": _write_date(int(time.time()))})
        self._write_buffer = []
        self.set_status(200)
        self.set_default_headers()

    def set_default_headers(self) -> None:
        for add_headers in self.settings.get("headers", ()):
            add_headers(self)

    def compute_etag(self) -> None:
        """No answer is a 304: each is an envelope."""

    # The body

    def prepare(self) -> Awaitable[None] | None:
        # Tornado takes a length that is repeated, "7, 7", for that length.
        length = self.request.headers.get("Content-Length", "").partition(",")[0]
        if length.isdecimal() and float(length) > config.MAX_BODY_SIZE:
            return self._refuse_body()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._size += len(chunk)
        if self._size <= config.MAX_BODY_SIZE:
            self._chunks.append(chunk)
        elif not self._answered:
            return self._refuse_body()
        return None

    async def _refuse_body(self) -> None:
        # Closing while the client still sends would reset the connection before the answer is read. So the
        # answer goes out now and is the last word. The rest is read and dropped, for LINGER at most.
        self._chunks.clear()
        error = BodyTooLarge(config.MAX_BODY_SIZE)
        self.set_header("Connection", "close")
        self._write_envelope(error.message, error.code)
        self.set_header("Content-Length", sum(map(len, self._write_buffer)))
        if not self._size and "Expect" in self.request.headers:  # this client sends only when it is told to
            self.finish()
            return
        self._linger = asyncio.get_running_loop().call_later(LINGER, self._hang_up)
        with suppress(StreamClosedError):  # the client has left
            await self.flush()
            self._line.shut_down_writing()

    def _hang_up(self) -> None:
        self.finish()
        self._line.close()

    # The action

    async def post(self, action: str | None = None) -> None:
        """Run the action. This is the one place that owns its task, its timer and what it comes to."""
        if self._linger is not None or self._line.is_closed():  # who has left is not told of it
            return self._hang_up()
        self.request.body = b"".join(self._chunks)
        self._chunks.clear()
        begin_request()
        self._task = asyncio.current_task()
        timeout = self.request_timeout
        companions = set() if timeout is None else call_within(timeout, self._run_out)
        try:
            function = self.find_action(action)
            self.action = action
            for check in self.settings.get("checks", ()):
                await check(self)
            # What `settle` does, whose coroutine each request that waits would keep.
            outcome = function(self, self.request.body)
            if outcome is None:
                outcome = LATER
            elif inspect.isawaitable(outcome):
                outcome = await outcome
            if outcome is LATER:
                await self._wait_for_answer()
            elif not (outcome is None and self._answered):
                self.respond(outcome)
        except asyncio.CancelledError as error:
            if not self._abandoned:
                self.fail(error)
        except Exception as error:
            self.fail(error)
        finally:
            self._task = None
            companions.discard(self._run_out)

    def _run_out(self) -> None:
        self.give_up(RequestTimeout())

    def find_action(self, action: str | None) -> Callable[..., Any]:
        """The action of that name. Raises RouteNotFound for any other name."""
        function = self.get_action(str(action))
        if function is None:
            raise RouteNotFound(action)
        return function

    @classmethod
    def get_action(cls, name: str) -> Callable[..., Any] | None:
        """The method of that name that this handler has beyond what IndicoHandler brings as shipped."""
        # As the class has it: what getattr gives of a static method looks like a method.
        function = next((vars(kind)[name] for kind in cls.__mro__ if name in vars(kind)), None)
        if name in _SHIPPED or name.startswith("_") or not inspect.isfunction(function):
            return None
        return function

    async def _wait_for_answer(self) -> None:
        if not self._answered:
            self._later = asyncio.get_running_loop().create_future()
            await self._later

    def give_up(self, error: IndicoError) -> None:
        """Answer with `error` now, cancel the action, and drop whatever it still says."""
        self._context.copy().run(self.fail, error)
        self._abandon()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self._answered:
            self.set_status(499, "Client Closed Request")  # as nginx has it; only watchers see it
        self._leave()
        self._abandon()

    def _abandon(self) -> None:
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # The answer

    def respond(self, data: Any, code: int = 200) -> None:
        """
        Answer with `{"status": code, "data": data}`. Raises TypeError for data that JSONEncoder can't
        encode. A second answer to a request is logged and dropped.
        """
        if self._abandoned:
            return
        if self._answered:
            LOGGER.warning("%s answered twice; the second answer is dropped", describe(self))
            return
        self._write_envelope(data, code)
        self.finish()

    def fail(self, error: BaseException) -> None:
        """Answer with what `indico.error.to_answer` makes of `error`, unless there was an answer."""
        answer = to_answer(error)
        if not self._answered:
            if answer.retry_after is not None:
                self.set_header("Retry-After", answer.retry_after)
            self.respond(answer.message, answer.code)

    def _write_envelope(self, data: Any, code: int) -> None:
        body = encode({"status": code, "data": data})
        self.set_status(code)
        if code == 503:
            self.set_header("Retry-After", RETRY_AFTER)
        if self.settings.get("draining"):
            self.set_header("Connection", "close")
        self.write(body)
        self._answered = True

    def finish(self, chunk: Any = None) -> Future[None]:
        self._answered = True
        if self._later is not None and not self._later.done():
            self._later.set_result(None)
        self._leave()
        return super().finish(chunk)

    def _leave(self) -> None:
        self.settings["in_flight"].discard(self)
        if self._linger is not None:
            self._linger.cancel()
        endings, self._endings = self._endings, ()
        for end in endings:
            end()

    # What Tornado finds wrong by itself

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._linger is not None:
            self._hang_up()
        else:
            super().send_error(status_code, **kwargs)

    def refused(self, *args: Any, **kwargs: Any) -> None:
        """Any method that Tornado does not know."""
        raise HTTPError(405)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        if status_code == 405:
            error = self._find_fault()
        self.fail(error)

    def _find_fault(self) -> IndicoError:
        # A wrong method; but of what is not there, none is right.
        try:
            self.find_action(self.request.path.rpartition("/")[2] or None)
        except RouteNotFound as error:
            return error
        self.set_header("Allow", self.allowed)
        return MethodNotAllowed(self._method, self.allowed)

    def log_exception(self, *exc_info: Any) -> None:
        if self._finished:  # all others are logged where they become the answer
            LOGGER.error("%s failed after its answer", describe(self), exc_info=exc_info)


def encode(envelope: Any) -> bytes:
    """
    The JSON of what JSONEncoder encodes, in UTF-8, with null for a number that JSON lacks. Raises TypeError
    for anything else.
    """
    if orjson is not None:
        with suppress(orjson.JSONEncodeError):  # of what the encoder below may still take
            return bytes(orjson.dumps(envelope, _ENCODER.default, _OPTIONS))
    try:
        return _ENCODER.encode(envelope).encode()
    except ValueError:
        return _ENCODER.encode(_without_nan(envelope)).encode()


def _without_nan(value: Any) -> Any:
    """The value with None, as JavaScript does it, for each number that JSON lacks: old data may hold some."""
    if isinstance(value, dict):
        return {key: _without_nan(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_ENCODER = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
# Dates and dataclasses are not to become what orjson makes of them.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS if orjson is not None else None
_SHIPPED = frozenset(dir(IndicoHandler))


class UnknownHandler(IndicoHandler):
    """Whatever no route matches."""

    def find_action(self, action: str | None) -> Callable[..., Any]:
        raise RouteNotFound(self.request.path)


class PageHandler(IndicoHandler):
    """
    What is read by GET, which is for batteries: a subclass has `get`, which calls `respond` or raises. One
    whose answers are no envelopes sets `content_type`, and calls `send` instead; its errors are envelopes.
    """

    allowed = "GET, HEAD"
    content_type = ""

    def send(self, body: str | bytes) -> None:
        """Answer with this body as it is."""
        self.set_header("Content-Type", self.content_type)
        self.finish(body)

    def head(self, *args: Any, **kwargs: Any) -> Any:
        # The same, of which Tornado leaves out the body: many an uptime monitor asks like this.
        return self.get(*args, **kwargs)

    async def post(self, action: str | None = None) -> None:
        raise HTTPError(405)

    def find_action(self, action: str | None) -> Callable[..., Any]:
        return type(self).get


def describe(handler: RequestHandler) -> str:
    """`user.update`, for the log and for metrics: nothing in it comes from the client."""
    route = name_route(type(handler))
    action = getattr(handler, "action", None)
    return f"{route}.{action}" if action else route


def name_route(handler: type[RequestHandler]) -> str:
    """`user` for UserHandler."""
    return handler.__name__.removesuffix("Handler").lower()
