"""
The base of all our handlers: an envelope for every response, and limits on the size and time of a request.
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
from indico.core.hooks import get_hooks
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.core.http.limits import Connection, get_connection
from indico.core.log import LOGGER
from indico.core.mongo.helper import begin_request
from indico.core.timers import Timer, call_after
from indico.error import BodyTooLarge, IndicoError, RequestTimeout

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
DISCARD_SECONDS = 2  # in which the rest of a body that is too large is read and dropped


@stream_request_body  # so that the client of a body that is too large gets a response
class LimitedHandler(EnvelopeHandler):
    """
    A request with limits. Its body may have MAX_BODY_SIZE bytes. What runs between `begin_action` and
    `end_action` is cancelled after `request_timeout` seconds, and when the client disconnects.
    """

    __slots__ = ("_body_size", "_chunks", "_context", "_discard_timer", "_is_lazy", "_task", "_timer")
    SUPPORTED_METHODS = (*EnvelopeHandler.SUPPORTED_METHODS, "REFUSED")

    def _set_up(self, application: Any) -> None:
        super()._set_up(application)
        self._is_lazy = not self._has_tornado
        self._chunks: list[bytes] = []
        self._body_size = 0  # bytes received so far
        self._discard_timer: asyncio.TimerHandle | None = None  # set while the rest of a body is dropped
        self._task: asyncio.Task[Any] | None = None  # that runs the action
        self._timer: Timer | None = None
        self._context = copy_context()

    def _enter(self) -> None:
        super()._enter()
        self._method = str(self.request.method)
        if self._method not in self.SUPPORTED_METHODS:  # Tornado would not wait for the body
            self.request.method = "REFUSED"
        self._context = copy_context()  # so that what aborts the request logs as part of it

    @classmethod
    @functools.cache
    def overrides_nothing(cls) -> bool:
        """Whether Tornado's part of a handler can wait: the class overrides nothing that Tornado calls."""
        base = next((kind for kind in cls.__mro__ if "get_action" in vars(kind)), LimitedHandler)
        ours = [*((name, LimitedHandler) for name in CALLED_BY_TORNADO), ("post", base)]
        return base is not LimitedHandler and all(
            getattr(cls, name) is getattr(kind, name) for name, kind in ours
        )

    def start(self) -> None:
        """Run the action: the request is there. Tornado calls `post` itself."""
        post: Any = self.post
        task = asyncio.get_running_loop().create_task(post(**self.path_kwargs))
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:  # even the error could not be sent
            LOGGER.error("%s can't be answered", name_request(self), exc_info=task.exception())
            self._finish()
            self._connection.close()

    @property
    def request_timeout(self) -> float | None:
        """Seconds that an action may take. A handler can set its own: `request_timeout = 300`, or None."""
        return config.REQUEST_TIMEOUT

    @property
    def _connection(self) -> Connection:
        return get_connection(self.request)

    # The body

    def prepare(self) -> Awaitable[None] | None:
        # Tornado accepts a length that is repeated, "7, 7".
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
        # To close while the client still sends would reset the connection before the client reads the
        # response. So the response is sent now, and the rest of the body is read and dropped.
        self._chunks.clear()
        error = BodyTooLarge(config.MAX_BODY_SIZE)
        self.set_header("Connection", "close")
        body = self._write_envelope({"status": error.code, "data": error.message}, error.code)
        self.set_header("Content-Length", len(body))
        if not self._body_size and "Expect" in self.request.headers:  # the client waits before it sends
            self.finish()
            return
        self._discard_timer = asyncio.get_running_loop().call_later(DISCARD_SECONDS, self._hang_up)
        with suppress(StreamClosedError):  # the client has disconnected
            await self.flush()
            self._connection.close_writing()
        self.request.method = "REFUSED"  # not what its body would have been for

    def _hang_up(self) -> None:
        self.finish()
        self._connection.close()

    def _end(self) -> None:
        if self._discard_timer is not None:
            self._discard_timer.cancel()
        super()._end()

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        if self._discard_timer is not None:
            self._hang_up()
        else:
            super().send_error(status_code, **kwargs)

    # The action

    def begin_action(self) -> bool:
        """
        Put the body into `self.request.body` and start the timeout. False if nobody waits for a response:
        the body was rejected, or the client has disconnected.
        """
        if self._discard_timer is not None or self._connection.is_closed():
            self._hang_up()
            return False
        self.request.body = b"".join(self._chunks)
        self._chunks.clear()
        begin_request()
        self._task = asyncio.current_task()
        timeout = self.request_timeout
        self._timer = None if timeout is None else call_after(timeout, self._on_timeout)
        return True

    def end_action(self) -> None:
        """The action has ended: it can't time out any more."""
        self._task = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None  # or handler and timer would hold each other
        if self._is_lazy and self._aborted and not self._has_finished:
            self.application.log_request(self)  # otherwise Tornado does

    def refused(self, *args: Any, **kwargs: Any) -> None:
        """Every method that Tornado does not know."""
        raise HTTPError(405)

    async def run_hooks(self) -> None:
        """Run what batteries hooked on to `before_action`. Raises what they raise."""
        for check in get_hooks(self.application).before_action:
            await check(self)

    async def wait_for_response(self) -> None:
        """Wait until `respond` has been called."""
        if not self._answered:
            self._response_sent = asyncio.get_running_loop().create_future()
            await self._response_sent

    def _on_timeout(self) -> None:
        self.abort_with(RequestTimeout())

    def abort_with(self, error: IndicoError) -> None:
        """Respond with `error` now, cancel the action, and drop what it responds later."""
        self._context.copy().run(super().abort_with, error)
        self._cancel_action()

    def on_connection_close(self) -> None:
        if not self._is_lazy:
            super().on_connection_close()
        if not self._answered and self._has_tornado:
            self.set_status(499, "Client Closed Request")
        elif not self._answered:
            self._status = 499  # nginx's status; only hooks see it
        self._chunks.clear()  # at once: Tornado leaves a cycle behind, with the handler in it
        self._end()
        self._cancel_action()

    def _cancel_action(self) -> None:
        self._aborted = True
        if self._task is not None:
            self._task.cancel()
            self._task = None
