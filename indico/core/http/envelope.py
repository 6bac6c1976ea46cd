"""
The handler that wraps every response in an envelope and calls the hooks of the application.
"""

from __future__ import annotations

import asyncio
import http.client
import time
from asyncio import Future
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from tornado.web import RequestHandler

from indico.core.hooks import get_hooks, get_state
from indico.core.http.encoding import encode
from indico.core.http.errors import to_error
from indico.core.http.headers import HEADERS, WITHOUT_BODY, write_head, write_header
from indico.error import IndicoError

RETRY_AFTER = 1  # seconds, in the header Retry-After of a 503


class EnvelopeHandler(RequestHandler):
    """
    A handler whose responses, errors included, are all envelopes.

    `make_lazily` creates one without Tornado's part: headers, cookies, templates and so on. That part is
    created when something first uses it. Most actions use none of it, and creating it takes two thirds of the
    time of a short request.
    """

    allowed_methods = "POST"  # value of the header Allow
    request_id: str | None = None  # the battery `logs` sets it
    _has_tornado = True
    _is_lazy = False
    _status = 200  # replaced by Tornado's when its part exists
    _has_response = False
    _aborted = False  # True after a timeout or a disconnect: later responses are dropped
    _response_sent: Future[None] | None = None
    _end_callbacks: Sequence[Callable[[], object]] = ()
    response_envelope: Any = None  # of the last `respond`, even if the client has disconnected

    def __init__(self, application: Any, request: Any, **kwargs: Any) -> None:
        super().__init__(application, request, **kwargs)
        self._begin()

    @classmethod
    def make_lazily(cls, application: Any, request: Any, action: str) -> Self:
        """Return a handler for this action. Tornado's part is created on first use."""
        handler = cls.__new__(cls)
        handler._has_tornado, handler._is_lazy = False, True
        handler.application, handler.request = application, request
        handler.path_args, handler.path_kwargs = [], {"action": action}
        request.connection.set_close_callback(handler.on_connection_close)
        handler._begin()
        return handler

    def _begin(self) -> None:
        """Called when the request begins."""
        self.action: str | None = None  # the name of the running action, for the log
        self._state = get_state(self.application)
        self._state.in_flight.add(self)
        self._end_callbacks = [around(self) for around in get_hooks(self.application).around_request]

    # Tornado's part

    def _set_up_tornado(self) -> None:
        """Create Tornado's part, unless it exists."""
        if self._has_tornado:
            return
        self._has_tornado = True
        status = self._status
        RequestHandler.__init__(self, self.application, self.request)
        self.set_status(status, http.client.responses.get(status, "Unknown"))
        self._transforms = []  # Tornado sets it before the action runs

    if not TYPE_CHECKING:  # pragma: no branch - with it mypy would accept every attribute

        def __getattr__(self, name: str) -> Any:
            if self._has_tornado:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._set_up_tornado()
            return getattr(self, name)

    def set_status(self, status_code: int, reason: str | None = None) -> None:
        self._set_up_tornado()
        super().set_status(status_code, reason)

    def get_status(self) -> int:
        return super().get_status() if self._has_tornado else self._status

    def detach(self) -> Any:
        """Return the stream of the connection. The request then needs no response."""
        self._set_up_tornado()
        stream = super().detach()
        self._end()
        return stream

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in HEADERS.items():
            self.set_header(name, value)
        for find_headers in get_hooks(self.application).response_headers:
            for name, value in find_headers(self):
                self.add_header(name, value)

    def compute_etag(self) -> None:
        """Return no ETag: an envelope is never sent as 304."""

    # Responses

    @property
    def has_response(self) -> bool:
        """Whether the request has a response."""
        return self._has_response

    @property
    def is_aborted(self) -> bool:
        """Whether the request has timed out or its client has disconnected."""
        return self._aborted

    def respond(self, data: Any, code: int = 200) -> None:
        """Respond with `{"status": code, "data": data}`. Raises TypeError for values without JSON."""
        self.send_envelope({"status": code, "data": data}, code)

    def send_envelope(self, envelope: Any, code: int) -> None:
        """Respond with this envelope, unless the request was aborted."""
        self.response_envelope = envelope
        if self._aborted:
            return
        if not (self._has_tornado or self._state.draining or code == 503 or code in WITHOUT_BODY):
            self._send_at_once(encode(envelope), code)
            return
        body = None if code in WITHOUT_BODY else encode(envelope)
        self.set_status(code)
        if code == 503:
            self.set_header("Retry-After", RETRY_AFTER)
        if self._state.draining:
            self.set_header("Connection", "close")
        self.finish(body)

    def _send_at_once(self, body: bytes, code: int) -> None:
        """Send the whole response without Tornado's part of the handler."""
        head = write_head(code, int(time.time()))
        for find_headers in get_hooks(self.application).response_headers:
            for name, value in find_headers(self):
                head += write_header(name, value)
        self._status = code
        self._end()
        self.request.connection.write_response(head, body)  # type: ignore[union-attr]
        self.application.log_request(self)

    def finish(self, chunk: Any = None) -> Future[None]:
        self._end()
        return super().finish(chunk)

    def _end(self) -> None:
        """The request has its response, or needs none."""
        self._has_response = True
        if self._response_sent is not None and not self._response_sent.done():
            self._response_sent.set_result(None)
        self._call_end_callbacks()

    def _call_end_callbacks(self) -> None:
        self._state.in_flight.discard(self)
        callbacks, self._end_callbacks = self._end_callbacks, ()
        for callback in callbacks:
            callback()

    # Errors

    def fail(self, error: BaseException) -> None:
        """Respond with `to_error(error)`, unless the request has a response."""
        if self._aborted and isinstance(error, asyncio.CancelledError):
            return
        response = to_error(error)
        if not self._has_response:
            if response.retry_after is not None:
                self.set_header("Retry-After", response.retry_after)
            if response.code == 415:
                self.set_header("Accept-Encoding", "identity")
            self.respond(response.message, response.code)

    def abort_with(self, error: IndicoError) -> None:
        """Respond with `error` now and drop every later response."""
        self.fail(error)
        self._aborted = True


def name_request(handler: RequestHandler) -> str:
    """Return `user.update`, for the log and for metrics. No part of it comes from the client."""
    route = name_route(type(handler))
    action = getattr(handler, "action", None)
    return f"{route}.{action}" if action else route


def name_route(handler: type[RequestHandler]) -> str:
    """Return `user` for UserHandler."""
    return handler.__name__.removesuffix("Handler").lower()
