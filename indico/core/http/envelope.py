"""
The handler that wraps every response in an envelope and calls the hooks of the application.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable
from typing import Any

from tornado.web import HTTPError, RequestHandler

from indico.core.hooks import get_hooks, get_state
from indico.core.http.answers import to_answer
from indico.core.http.encoding import encode
from indico.core.http.lazy import HEADERS, WITHOUT_BODY, LazyHandler
from indico.core.log import LOGGER
from indico.error import IndicoError, MethodNotAllowed

RETRY_AFTER = 1  # seconds, in the header Retry-After of a 503


class EnvelopeHandler(LazyHandler):
    """A handler whose responses, errors included, are all envelopes."""

    # Slots save half a kilobyte per request in flight. Public attributes have no slot, because an action may
    # have the same name.
    __slots__ = (
        "_aborted",
        "_answered",
        "_end_callbacks",
        "_has_finished",
        "_method",
        "_response_sent",
        "_state",
    )
    allowed_methods = "POST"  # value of the header Allow
    request_id: str | None = None  # the battery `logs` sets it

    def __init__(self, application: Any, request: Any, **kwargs: Any) -> None:
        self._has_tornado = True
        self._set_up(application)
        super().__init__(application, request, **kwargs)
        self._begin()

    def _set_up(self, application: Any) -> None:
        super()._set_up(application)
        self._state = get_state(application)
        self._method = "POST"
        self.action: str | None = None  # the name of the running action, for the log
        self._answered = False
        self._aborted = False  # True after a timeout or a disconnect: later responses are dropped
        self._has_finished = False
        self._response_sent: Future[None] | None = None
        self._end_callbacks: tuple[Callable[[], object], ...] = ()

    def _begin(self) -> None:
        self._state.in_flight.add(self)
        around_request = get_hooks(self.application).around_request
        self._end_callbacks = tuple([around(self) for around in around_request])

    async def run_hooks(self) -> None:
        """Run the hooks in `before_action`. Their exceptions are not caught."""
        for check in get_hooks(self.application).before_action:
            await check(self)

    async def wait_for_response(self) -> None:
        """Wait until `respond` has been called."""
        if not self._answered:
            self._response_sent = asyncio.get_running_loop().create_future()
            await self._response_sent

    @property
    def is_answered(self) -> bool:
        """Whether the request has a response."""
        return self._answered

    @property
    def is_aborted(self) -> bool:
        """Whether the request has timed out or its client has disconnected."""
        return self._aborted

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)
        for find_headers in get_hooks(self.application).response_headers:
            for name, value in find_headers(self):
                self.add_header(name, value)

    def compute_etag(self) -> None:
        """Return no ETag: an envelope is never sent as 304."""

    def respond(self, data: Any, code: int = 200) -> None:
        """Respond with `{"status": code, "data": data}`. Raises TypeError for values without JSON."""
        self.send_envelope({"status": code, "data": data}, code)

    def send_envelope(self, envelope: Any, code: int) -> None:
        """Respond with this envelope, unless the request was aborted."""
        if self._aborted:
            return
        if code in WITHOUT_BODY:
            self.set_status(code)
            self.finish()
        elif self._has_tornado or self._state.draining or code == 503:
            self._write_envelope(envelope, code)
            self.finish()
        else:
            self._finish_at_once(encode(envelope), code)

    def _finish_at_once(self, body: bytes, code: int) -> None:
        """Send the whole response without Tornado's part of the handler."""
        head = self._write_head(code)
        self._status = code
        self._finish()
        self.request.connection.write_response(head, body)  # type: ignore[union-attr]
        self.application.log_request(self)

    def _write_envelope(self, envelope: Any, code: int) -> bytes:
        body = encode(envelope)
        self.set_status(code)
        if code == 503:
            self.set_header("Retry-After", RETRY_AFTER)
        if self._state.draining:
            self.set_header("Connection", "close")
        self.write(body)
        self._answered = True
        return body

    def fail(self, error: BaseException) -> None:
        """Respond with `to_answer(error)`, unless the request has a response."""
        if self._aborted and isinstance(error, asyncio.CancelledError):
            return
        answer = to_answer(error)
        if not self._answered:
            if answer.retry_after is not None:
                self.set_header("Retry-After", answer.retry_after)
            self.respond(answer.message, answer.code)

    def abort_with(self, error: IndicoError) -> None:
        """Respond with `error` now and drop every later response."""
        self.fail(error)
        self._aborted = True

    def finish(self, chunk: Any = None) -> Future[None]:
        self._finish()
        return super().finish(chunk)

    def detach(self) -> Any:
        """Return the stream of the connection. The request then needs no response."""
        stream = super().detach()
        self._finish()
        return stream

    def _finish(self) -> None:
        self._answered = self._has_finished = True
        if self._response_sent is not None and not self._response_sent.done():
            self._response_sent.set_result(None)
        self._end()

    def _end(self) -> None:
        self._state.in_flight.discard(self)
        callbacks, self._end_callbacks = self._end_callbacks, ()
        for callback in callbacks:
            callback()

    # Errors that Tornado reports

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else HTTPError(status_code)
        if status_code == 405:
            error = self._wrong_method_or_unknown()
        self.fail(error)

    def _wrong_method_or_unknown(self) -> IndicoError:
        try:
            self.check_path()
        except IndicoError as error:
            return error
        self.set_header("Allow", self.allowed_methods)
        return MethodNotAllowed(self._method, self.allowed_methods)

    def check_path(self) -> None:
        """Raise RouteNotFound if no method exists at this path."""

    def log_exception(self, *exc_info: Any) -> None:
        if self._has_finished:  # `to_answer` logs all other exceptions
            LOGGER.error("%s failed after its response", name_request(self), exc_info=exc_info)


def name_request(handler: RequestHandler) -> str:
    """Return `user.update`, for the log and for metrics. No part of it comes from the client."""
    route = name_route(type(handler))
    action = getattr(handler, "action", None)
    return f"{route}.{action}" if action else route


def name_route(handler: type[RequestHandler]) -> str:
    """Return `user` for UserHandler."""
    return handler.__name__.removesuffix("Handler").lower()
