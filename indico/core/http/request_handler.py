"""
The base of all handlers: every response is an envelope, and the size and time of a request are limited.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable
from contextlib import suppress
from contextvars import copy_context
from typing import Any

from tornado.iostream import StreamClosedError
from tornado.web import HTTPError, stream_request_body

from indico import config
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.core.http.limits import Connection, get_connection
from indico.core.log import LOGGER
from indico.core.mongo.helper import begin_request
from indico.core.timers import Timer, call_after
from indico.error import BodyTooLarge, IndicoError, RequestTimeout, Unavailable

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
DISCARD_SECONDS = 2  # for reading and dropping the rest of a body that is too large


@stream_request_body  # without it Tornado closes on a body that is too large, without a response
class LimitedHandler(EnvelopeHandler):
    """
    A handler with limits. A body may have MAX_BODY_SIZE bytes. Between `begin_action` and `end_action`, the
    task is cancelled after `request_timeout` seconds or when the client disconnects.
    """

    __slots__ = ("_body_size", "_chunks", "_context", "_discard_timer", "_is_lazy", "_task", "_timer")
    SUPPORTED_METHODS = (*EnvelopeHandler.SUPPORTED_METHODS, "REFUSED")

    def _set_up(self, application: Any) -> None:
        super()._set_up(application)
        self._is_lazy = not self._has_tornado
        self._chunks: list[bytes] = []
        self._body_size = 0  # bytes received so far
        self._discard_timer: asyncio.TimerHandle | None = None  # set while the rest of a body is dropped
        self._task: asyncio.Task[Any] | None = None  # runs the action
        self._timer: Timer | None = None
        self._context = copy_context()

    def _begin(self) -> None:
        super()._begin()
        self._method = str(self.request.method)
        if self._method not in self.SUPPORTED_METHODS:  # otherwise Tornado responds before the body
            self.request.method = "REFUSED"
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
        post: Any = self.post
        task = asyncio.get_running_loop().create_task(post(**self.path_kwargs))
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:  # `post` could not send an error response
            LOGGER.error("%s can't be answered", name_request(self), exc_info=task.exception())
            self._finish()
            self._connection.close()

    @property
    def request_timeout(self) -> float | None:
        """Seconds that an action may take. A handler can override it: `request_timeout = 300`, or None."""
        return config.REQUEST_TIMEOUT

    @property
    def _connection(self) -> Connection:
        return get_connection(self.request)

    # The body

    def prepare(self) -> Awaitable[None] | None:
        # Tornado accepts a repeated length: "7, 7".
        length = self.request.headers.get("Content-Length", "").partition(",")[0]
        if length.isdecimal() and float(length) > config.MAX_BODY_SIZE:
            return self._reject_body()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        self._body_size += len(chunk)
        if self._body_size <= config.MAX_BODY_SIZE:
            self._chunks.append(chunk)
        elif not self._answered:
            return self._reject_body()
        return None

    async def _reject_body(self) -> None:
        # Closing while the client sends would reset the connection before the client reads the response. So
        # the response is sent now, and the rest of the body is read and dropped.
        self._chunks.clear()
        error = BodyTooLarge(config.MAX_BODY_SIZE)
        self.set_header("Connection", "close")
        body = self._write_envelope({"status": error.code, "data": error.message}, error.code)
        self.set_header("Content-Length", len(body))
        if not self._body_size and "Expect" in self.request.headers:  # the client has not sent the body yet
            self.finish()
            return
        self._discard_timer = asyncio.get_running_loop().call_later(DISCARD_SECONDS, self._finish_and_close)
        with suppress(StreamClosedError):  # the client has disconnected
            await self.flush()
            self._connection.close_writing()
        self.request.method = "REFUSED"  # Tornado then does not call `post`

    def _finish_and_close(self) -> None:
        self.finish()
        self._connection.close()

    def _end(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        super()._end()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._discard_timer is not None:
            self._finish_and_close()
        else:
            super().send_error(status_code, **kwargs)

    # The action

    def begin_action(self) -> bool:
        """
        Set `self.request.body` and start the timeout. Return False if the request needs no response: the body
        was rejected, or the client has disconnected.
        """
        if self._discard_timer is not None or self._connection.is_closed():
            self._finish_and_close()
            return False
        self.request.body = b"".join(self._chunks)
        self._chunks.clear()
        begin_request()
        self._task = asyncio.current_task()
        self.start_timer()
        return True

    def start_timer(self) -> None:
        """Abort the request after `request_timeout` seconds."""
        timeout = self.request_timeout
        self._timer = None if timeout is None else call_after(timeout, self._on_timeout)

    def count_action(self) -> None:
        """Count the action until `end_action`. Raises Unavailable if MAX_ACTIONS are running."""
        if 0 < config.MAX_ACTIONS <= len(self._state.actions):
            raise Unavailable("The server is busy")
        self._state.actions.add(self)

    def end_action(self) -> None:
        """Stop the timeout: the action has ended."""
        self._task = None
        self._state.actions.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # avoids a reference cycle
        if self._is_lazy and self._aborted and not self._has_finished:
            self.application.log_request(self)  # Tornado does it for other handlers

    def refused(self, *args: Any, **kwargs: Any) -> None:
        """The response to all methods that Tornado does not know."""
        raise HTTPError(405)

    def _on_timeout(self) -> None:
        self.abort_with(RequestTimeout())

    def abort_with(self, error: IndicoError) -> None:
        """Respond with `error` now, cancel the action and drop its later responses."""
        self._context.copy().run(super().abort_with, error)
        self._cancel_action()

    def on_connection_close(self) -> None:
        if not self._is_lazy:
            super().on_connection_close()
        if not self._answered and self._has_tornado:
            self.set_status(499, "Client Closed Request")
        elif not self._answered:
            self._status = 499  # the status that nginx logs; only hooks see it
        self._chunks.clear()  # frees memory now: Tornado leaves the handler in a reference cycle
        self._end()
        self._cancel_action()

    def _cancel_action(self) -> None:
        self._aborted = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
