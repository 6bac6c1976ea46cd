"""
The base of all handlers: every response is an envelope, and the size and time of a request are limited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from contextvars import copy_context
from typing import Any

from tornado.web import HTTPError, stream_request_body

from indico import config
from indico.core.hooks import get_hooks
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.core.http.responses import ResponseWriter
from indico.core.log import LOGGER
from indico.core.mongo.helper import begin_request
from indico.core.timers import Timer, call_after
from indico.error import BodyTooLarge, IndicoError, MethodNotAllowed, RequestTimeout, Unavailable


@stream_request_body  # without it Tornado closes on a body that is too large, without a response
class LimitedHandler(EnvelopeHandler):
    """
    A handler with limits. A body may have MAX_BODY_SIZE bytes. Between `begin_action` and `end_action`, the
    task is cancelled after `request_timeout` seconds or when the client disconnects.
    """

    _body_size = 0  # bytes received so far
    _task: asyncio.Task[Any] | None = None  # runs the action
    _timer: Timer | None = None

    def _begin(self) -> None:
        super()._begin()
        self._chunks: list[bytes] = []
        self._context = copy_context()  # an abort runs in it, so that its log records name the request

    @property
    def request_timeout(self) -> float | None:
        """Seconds that an action may take. A handler can override it: `request_timeout = 300`, or None."""
        return config.REQUEST_TIMEOUT

    # The body

    def prepare(self) -> Awaitable[None] | None:
        if self._declares_too_much():
            self._reject_body()
        return None

    def _get_max_body(self) -> int:
        """Return the number of bytes that the body may have."""
        return config.MAX_BODY_SIZE

    def _declares_too_much(self) -> bool:
        connection = self.request.connection
        if isinstance(connection, ResponseWriter):  # the connection is one of our own server
            return connection.head.body_size > self._get_max_body()
        # Tornado accepts a repeated length: "7, 7".
        length = self.request.headers.get("Content-Length", "").partition(",")[0]
        return length.isdecimal() and float(length) > self._get_max_body()

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._body_size += len(chunk)
        if self._body_size <= config.MAX_BODY_SIZE:
            self._chunks.append(chunk)
        else:  # no server passes on more of a body after the response
            self._reject_body()
        return None

    def _reject_body(self) -> None:
        self._chunks.clear()
        self.set_header("Connection", "close")
        self.fail(BodyTooLarge(self._get_max_body()))

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
        self.start_timer()
        return True

    def start_timer(self) -> None:
        """Abort the request after `request_timeout` seconds."""
        timeout = self.request_timeout
        self._timer = None if timeout is None else call_after(timeout, self._on_timeout)

    def stop_timer(self) -> None:
        """Cancel the timeout."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # avoids a reference cycle

    def count_action(self) -> None:
        """Count the action until `end_action`. Raises Unavailable if MAX_ACTIONS are running."""
        if 0 < config.MAX_ACTIONS <= len(self._state.actions):
            raise Unavailable("The server is busy")
        self._state.actions.add(self)

    def end_action(self) -> None:
        """Stop the timeout: the action has ended."""
        self._task = None
        self._state.actions.discard(self)
        self.stop_timer()
        if self._is_lazy and self._aborted and not self._has_response:
            self.application.log_request(self)  # Tornado does it for other handlers

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
            return BodyTooLarge(self._get_max_body())
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
