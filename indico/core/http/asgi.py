"""
Serves a Tornado application on an ASGI server. Each request is an `HTTPConnection`, as Tornado documents it.
"""

from __future__ import annotations

import asyncio
import functools
from asyncio import Future
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from typing import Any
from urllib.parse import quote

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)

from indico import config
from indico.core.http.errors import send_error_response
from indico.core.http.filters import guard_hosts
from indico.core.http.head import take_absolute_target
from indico.core.http.responses import fail_future
from indico.error import IndicoError

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def serve_request(
    application: HTTPServerConnectionDelegate, scope: Scope, receive: Receive, send: Send
) -> Coroutine[Any, Any, None]:
    """Serve one request of an ASGI server, from its headers to the end of its response."""
    address = (scope.get("server") or ("",))[0]
    return ASGIConnection(scope, receive, send).serve(guard_hosts(application, address))


async def send_error(error: IndicoError, scope: Scope, receive: Receive, send: Send) -> None:
    """Respond to a request with this error."""
    connection = ASGIConnection(scope, receive, send)
    send_error_response(connection, error)
    await connection.send_written()


class ASGIConnection(HTTPConnection):
    """A request of an ASGI server, and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.remote_ip = (scope.get("client") or (None,))[0]
        self.protocol = str(scope.get("scheme", "http"))
        self._scope = scope
        self._receive = receive
        self._send = send
        self._close_callback: Callable[[], object] | None = None
        self._begun = False  # whether the response has begun
        self._start: Message | None = None  # status and headers that are not sent yet
        self._body = b""  # the part of the body that is not sent yet
        self._sent: Future[None] | None = None  # done when everything written so far is sent
        self._finished = False  # the application has written the whole response
        self._closed = False  # the client has disconnected
        self._changed = asyncio.Event()  # there is data to send, or the client has disconnected
        self._body_timeout = config.BODY_TIMEOUT  # seconds

    @property
    def context(self) -> ASGIConnection:
        """Tornado reads `remote_ip` and `protocol` from this object."""
        return self

    async def serve(self, application: HTTPServerConnectionDelegate) -> None:
        reader = asyncio.get_running_loop().create_task(self._read(application.start_request(self, self)))
        reader.add_done_callback(lambda _: self._changed.set())
        try:
            complete = False
            while not complete and not self._closed:
                await self._changed.wait()
                self._changed.clear()
                complete = not self._closed and await self.send_written()
                if reader.done():
                    reader.result()  # raises what the application has raised
        except asyncio.CancelledError:  # the server has cancelled the request
            self.close()
            raise
        finally:
            reader.cancel()
            await asyncio.wait([reader])  # the request has ended when this returns

    async def _read(self, delegate: HTTPMessageDelegate) -> None:
        """Pass the request to the application, then wait for the client to disconnect."""
        try:
            prepared = delegate.headers_received(*read_scope(self._scope))
        except HTTPInputError:
            send_error_response(self, IndicoError("Bad Request", 400))
            return
        if prepared is not None:
            await prepared
        timer = asyncio.get_running_loop().call_later(self._body_timeout, self._reject_late_body)
        more = True
        try:
            while more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    break
                chunk = message.get("body")
                if chunk and not self._finished:
                    taken = delegate.data_received(chunk)
                    if taken is not None:
                        await taken
                more = message.get("more_body", False)
        finally:
            timer.cancel()
            if more or self._finished:  # a body that ends after the response starts no action
                delegate.on_connection_close()
            else:
                delegate.finish()
        while message["type"] != "http.disconnect":
            message = await self._receive()
        self.close()

    # The response

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        """Set a function to call if the client disconnects before the response is complete."""
        self._close_callback = callback

    def set_body_timeout(self, seconds: float) -> None:
        """Set the time that this request's body may take. Call it in `prepare`."""
        self._body_timeout = seconds

    def write_headers(
        self,
        start_line: RequestStartLine | ResponseStartLine,
        headers: HTTPHeaders,
        chunk: bytes | None = None,
    ) -> Future[None]:
        assert isinstance(start_line, ResponseStartLine)
        self._begun = True
        self._start = write_start(self._scope, start_line.code, headers)
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> Future[None]:
        self._body = self._body + chunk if self._body else chunk
        if self._sent is None:
            self._sent = asyncio.get_running_loop().create_future()
        sent = self._sent
        if self._closed:
            fail_future(sent)
        else:
            self._changed.set()
        return sent

    def finish(self) -> None:
        self._finished = True
        self._changed.set()

    def _reject_late_body(self) -> None:
        if not self._begun:
            send_error_response(self, IndicoError("The body took too long", 408))

    async def send_written(self) -> bool:
        """Send what the application has written. Return whether that was the end of the response."""
        start, self._start = self._start, None
        body, self._body = self._body, b""
        sent, self._sent = self._sent, None
        finished = self._finished
        if start is not None:
            await self._send(start)
        if body or finished:
            await self._send({"type": "http.response.body", "body": body, "more_body": not finished})
        if sent is not None and not sent.done():
            sent.set_result(None)
        return finished

    def close(self) -> None:
        """End the response: the client has disconnected, or the server is to close its connection."""
        self._closed = True
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()
        if self._sent is not None:
            fail_future(self._sent)
        self._changed.set()


def read_scope(scope: Scope) -> tuple[RequestStartLine, HTTPHeaders]:
    """Return the request line and the headers of a request."""
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
    path = path.removeprefix(quote(scope.get("root_path", ""))) or "/"
    if scope["query_string"]:
        path = f"{path}?{scope['query_string'].decode('latin-1')}"
    headers = HTTPHeaders()
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == ":authority":  # HTTP/2 sends it in place of Host
            headers["Host"] = value
        elif name in headers:
            headers.add(name, value)
        else:
            headers[name] = value  # faster than `add`; the server has validated the characters
    line = RequestStartLine(scope["method"], path, f"HTTP/{scope['http_version']}")
    return take_absolute_target(line, headers), headers


def write_start(scope: Scope, status: int, headers: HTTPHeaders) -> Message:
    """Return the ASGI message with the status and the headers of a response."""
    lines = [_encode_header(name, value) for name, value in headers.get_all()]
    if scope["http_version"] not in ("1.0", "1.1"):
        lines = [line for line in lines if line[0] != b"connection"]  # HTTP/2 forbids it
    return {"type": "http.response.start", "status": status, "headers": lines}


@functools.lru_cache(1000)
def _encode_header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("latin-1"), value.encode("latin-1")
