"""
A handler that creates Tornado's part of itself on first use: headers, cookies, templates and so on. Most
actions use none of these, and creating them takes two thirds of the time of a short request.
"""

from __future__ import annotations

import functools
import http.client
import time
from typing import TYPE_CHECKING, Any, Self

from tornado.httputil import format_timestamp
from tornado.web import RequestHandler

from indico.core.hooks import get_hooks

HEADERS = {  # sent with every envelope
    "Content-Type": "application/json; charset=UTF-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
WITHOUT_BODY = (*range(100, 200), 204, 304)  # statuses


@functools.lru_cache(100)
def write_head(code: int, now: int) -> bytes:
    """Return the status line and the default headers of a response. `now` is in seconds since 1970."""
    headers = {**HEADERS, "Date": format_timestamp(now)}
    lines = [f"HTTP/1.1 {code} {http.client.responses.get(code, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def write_header(name: str, value: str) -> bytes:
    """Return a header line. Raises ValueError if the value has a line break or is not printable."""
    if not value.isprintable():
        raise ValueError(f"The header {name} can't be {value!r}")
    return f"{name}: {value}\r\n".encode("latin-1")


class LazyHandler(RequestHandler):
    """A handler that `make_lazily` can create without Tornado's part. `_set_up_tornado` adds that part."""

    __slots__ = ("_has_tornado", "_status")
    _has_tornado: bool

    @classmethod
    def make_lazily(cls, application: Any, request: Any, action: str) -> Self:
        """Return a handler for this action. Tornado's part is created on first use."""
        handler = cls.__new__(cls)
        handler._has_tornado = False
        handler._set_up(application)
        handler.application, handler.request = application, request
        handler.path_args, handler.path_kwargs = [], {"action": action}
        request.connection.set_close_callback(handler.on_connection_close)
        handler._begin()
        return handler

    def _set_up(self, application: Any) -> None:
        """Set the attributes that are not Tornado's. Subclasses extend this."""
        self._status = 200  # replaced by Tornado's when its part exists

    def _begin(self) -> None:
        """Called when the request begins."""

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
        self._set_up_tornado()
        return super().detach()

    def _write_head(self, code: int) -> bytes:
        """Return the status line and the headers, except those about the body and the connection."""
        head = write_head(code, int(time.time()))
        for find_headers in get_hooks(self.application).response_headers:
            for name, value in find_headers(self):
                head += write_header(name, value)
        return head
