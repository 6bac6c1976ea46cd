"""
A handler whose Tornado part is made when something first uses it: a header, a cookie, a template and so on.
Most actions use none of that, and it takes two thirds of the time of a short request.
"""

from __future__ import annotations

import functools
import http.client
import time
from typing import TYPE_CHECKING, Any, Self

from tornado.httputil import format_timestamp
from tornado.web import RequestHandler

from indico.core.hooks import get_hooks

HEADERS = {  # of every envelope
    "Content-Type": "application/json; charset=UTF-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
WITHOUT_BODY = (*range(100, 200), 204, 304)  # statuses


@functools.lru_cache(100)
def write_head(code: int, now: int) -> bytes:
    """The first lines of a response at this time, in seconds since 1970."""
    headers = {**HEADERS, "Date": format_timestamp(now)}
    lines = [f"HTTP/1.1 {code} {http.client.responses.get(code, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def write_header(name: str, value: str) -> bytes:
    """Raises ValueError for a value that would be more than one line."""
    if not value.isprintable():
        raise ValueError(f"The header {name} can't be {value!r}")
    return f"{name}: {value}\r\n".encode("latin-1")


class LazyHandler(RequestHandler):
    """One that `make_lazily` made has no part of Tornado's until `_wake` is called."""

    __slots__ = ("_has_tornado", "_status")
    _has_tornado: bool

    @classmethod
    def make_lazily(cls, application: Any, request: Any, action: str) -> Self:
        """A handler for this action, without Tornado's part. That is made when something first uses it."""
        handler = cls.__new__(cls)
        handler._has_tornado = False
        handler._set_up(application)
        handler.application, handler.request = application, request
        handler.path_args, handler.path_kwargs = [], {"action": action}
        request.connection.set_close_callback(handler.on_connection_close)
        handler._enter()
        return handler

    def _set_up(self, application: Any) -> None:
        """Set what is ours. Subclasses add theirs."""
        self._status = 200  # until there is Tornado's part

    def _enter(self) -> None:
        """The request begins."""

    def _wake(self) -> None:
        """Make Tornado's part, unless it is there."""
        if self._has_tornado:
            return
        self._has_tornado = True
        status = self._status
        RequestHandler.__init__(self, self.application, self.request)
        self.set_status(status, http.client.responses.get(status, "Unknown"))
        self._transforms = []  # Tornado sets it before the action runs

    if not TYPE_CHECKING:  # pragma: no branch - mypy would take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            if self._has_tornado:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            self._wake()
            return getattr(self, name)

    def set_status(self, status_code: int, reason: str | None = None) -> None:
        self._wake()
        super().set_status(status_code, reason)

    def get_status(self) -> int:
        return super().get_status() if self._has_tornado else self._status

    def detach(self) -> Any:
        self._wake()
        return super().detach()

    def _write_head(self, code: int) -> bytes:
        """The lines of a response but for those about its body and the connection."""
        head = write_head(code, int(time.time()))
        for find_headers in get_hooks(self.application).response_headers:
            for name, value in find_headers(self):
                head += write_header(name, value)
        return head
