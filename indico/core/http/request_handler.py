"""
The base of all handlers: every response is an envelope, and the size and time of a request are limited.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable
from contextvars import copy_context
from typing import Any

from tornado.web import HTTPError, stream_request_body

from indico import config
from indico.core.hooks import get_hooks
from indico.core.http.bodies import smart_parse
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.core.http.uploads import Form, make_form
from indico.core.log import LOGGER
from indico.core.mongo.helper import begin_request
from indico.core.timers import Timer, call_after
from indico.error import BodyTooLarge, IndicoError, MethodNotAllowed, RequestTimeout

CALLED_BY_TORNADO = (
    "__init__",
    "check_xsrf_cookie",
    "clear",
    "compute_etag",
    "data_received",
    "decode_argument",
    "finish",
    "flush",
    "initialize",
    "log_exception",
    "on_connection_close",
    "on_finish",
    "prepare",
    "send_error",
    "set_default_headers",
    "write",
    "write_error",
)


@stream_request_body  # without it Tornado closes on a body that is too large, without a response
class LimitedHandler(EnvelopeHandler):
    """
    A handler with limits. A body may have MAX_BODY_SIZE bytes. Between `begin_action` and `end_action`, the
    task is cancelled after `request_timeout` seconds or when the client disconnects.
    """

    __slots__ = ("_body_size", "_chunks", "_context", "_form", "_task", "_timer")
    max_body_size: int | None = None  # bytes of a body with files; None: MAX_BODY_SIZE
    body_timeout: float | None = None  # seconds for receiving such a body; None: BODY_TIMEOUT

    def _set_up(self, application: Any) -> None:
        super()._set_up(application)
        self._chunks: list[bytes] = []
        self._body_size = 0  # bytes received so far
        self._form: Form | None = None  # the body, if it may have files
        self._task: asyncio.Task[Any] | None = None  # runs the action
        self._timer: Timer | None = None

    def _begin(self) -> None:
        super()._begin()
        self._context = copy_context()  # an abort runs in it, so that its log records name the request

    @classmethod
    @functools.cache
    def overrides_nothing(cls) -> bool:
        """Whether the class overrides no method that Tornado calls. Only then can a handler be lazy."""
        base = next((kind for kind in cls.__mro__ if "get_action" in vars(kind)), LimitedHandler)
        expected = [*((name, LimitedHandler) for name in CALLED_BY_TORNADO), ("post", base)]
        return base is not LimitedHandler and all(
            getattr(cls, name) is getattr(kind, name) for name, kind in expected
        )

    def start(self) -> None:
        """Run the action of a lazy handler. For other handlers, Tornado calls `post`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        post: Any = self.post
        try:
            await post(**self.path_kwargs)
        except Exception:  # `post` could not send an error response
            LOGGER.exception("%s can't be answered", name_request(self))
            self._end()
            self.request.connection.close()  # type: ignore[union-attr] # of our own server

    @property
    def request_timeout(self) -> float | None:
        """Seconds that an action may take. A handler can override it: `request_timeout = 300`, or None."""
        return config.REQUEST_TIMEOUT

    # The body

    def prepare(self) -> Awaitable[None] | None:
        self._form = make_form(self)
        if self._declares_too_much():
            self._reject_body()
        elif self._form is not None:
            return self._start_upload(self._form)
        return None

    @property
    def _max_body(self) -> int:
        return config.MAX_BODY_SIZE if self._form is None else self._form.limit

    def _declares_too_much(self) -> bool:
        head = getattr(self.request.connection, "head", None)
        if head is not None:  # the connection is one of our own server
            return bool(head.body_size > self._max_body)
        # Tornado accepts a repeated length: "7, 7".
        length = self.request.headers.get("Content-Length", "").partition(",")[0]
        return length.isdecimal() and float(length) > self._max_body

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if self._form is not None:
            return self._form.feed(chunk)
        self._body_size += len(chunk)
        if self._body_size <= config.MAX_BODY_SIZE:
            self._chunks.append(chunk)
        elif not self._has_response:
            self._reject_body()
        return None

    def _reject_body(self) -> None:
        self._chunks.clear()
        self.set_header("Connection", "close")
        self.fail(BodyTooLarge(self._max_body))

    async def _start_upload(self, form: Form) -> None:
        """Run the action before the body is received. Return when it wants the body or has ended."""
        connection: Any = self.request.connection
        connection.set_body_timeout(self.body_timeout or config.BODY_TIMEOUT)
        post: Any = self.post
        action = asyncio.ensure_future(post(**self.path_kwargs))

        async def end_upload(**kwargs: Any) -> None:
            form.end()
            await action

        setattr(self, "post", end_upload)  # noqa: B010 - Tornado calls it after the body
        await asyncio.wait((action, form.wanted), return_when=asyncio.FIRST_COMPLETED)

    async def read_fields(self, data: bytes) -> dict[str, Any]:
        """Return the fields of a body that may have files. No timeout of the action runs meanwhile."""
        if self._form is None:
            return smart_parse(data)
        self._stop_timer()
        try:
            return await self._form.read()
        finally:
            self._start_timer()

    # The action

    def begin_action(self) -> bool:
        """
        Set `self.request.body` and start the timeout. Return False if the client has disconnected: the
        request then needs no response.
        """
        if self._aborted:
            return False
        self.request.body = b"".join(self._chunks)
        self._chunks.clear()
        begin_request()
        self._task = self._task or asyncio.current_task()
        self._start_timer()
        return True

    def _start_timer(self) -> None:
        timeout = self.request_timeout
        self._timer = None if timeout is None else call_after(timeout, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # avoids a reference cycle

    def end_action(self) -> None:
        """Stop the timeout: the action has ended."""
        self._task = None
        self._stop_timer()
        if self._form is not None:
            self._form.close()
        if self._is_lazy and self._aborted and not self._has_response:
            self.application.log_request(self)  # Tornado does it for other handlers

    def fail(self, error: BaseException) -> None:
        if self._form is not None and not self._form.received:
            self.set_header("Connection", "close")  # the rest of the body is not read
        super().fail(error)

    async def run_hooks(self) -> None:
        """Run the hooks in `before_action`. Their exceptions are not caught."""
        for check in get_hooks(self.application).before_action:
            await check(self)

    async def wait_for_response(self) -> None:
        """Wait until `respond` has been called."""
        if not self._has_response:
            self._response_sent = asyncio.get_running_loop().create_future()
            await self._response_sent

    def _on_timeout(self) -> None:
        self.abort_with(RequestTimeout())

    def abort_with(self, error: IndicoError) -> None:
        """Respond with `error` now, cancel the action and drop its later responses."""
        self._context.copy().run(super().abort_with, error)
        self._cancel_action()

    def on_connection_close(self) -> None:
        if not self._is_lazy:
            super().on_connection_close()
        if not self._has_response and self._has_tornado:
            self.set_status(499, "Client Closed Request")
        elif not self._has_response:
            self._status = 499  # the status that nginx logs; only hooks see it
        self._chunks.clear()  # frees memory now: Tornado leaves the handler in a reference cycle
        self._call_end_callbacks()
        self._cancel_action()

    def _cancel_action(self) -> None:
        self._aborted = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    # Errors that Tornado reports

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        self.fail(self._find_method_error() if status_code == 405 else error)

    def _find_method_error(self) -> IndicoError:
        if self._declares_too_much():  # Tornado finds some wrong methods before it calls `prepare`
            self.set_header("Connection", "close")
            return BodyTooLarge(self._max_body)
        try:
            self.check_path()
        except IndicoError as error:
            return error
        self.set_header("Allow", self.allowed_methods)
        return MethodNotAllowed(str(self.request.method), self.allowed_methods)

    def check_path(self) -> None:
        """Raise RouteNotFound if no method exists at this path."""

    def log_exception(self, *exc_info: Any) -> None:
        if self._has_response:  # `to_error` logs all other exceptions
            LOGGER.error("%s failed after its response", name_request(self), exc_info=exc_info)
