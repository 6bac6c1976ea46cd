"""
Serves a Tornado application on an ASGI server. It uses only interfaces that Tornado documents: each ASGI
request is an `HTTPConnection`.
"""

from __future__ import annotations

import asyncio
from asyncio import Future
from collections.abc import Callable, Coroutine
from typing import Any

from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.web import Application

from indico import config
from indico.core.http.asgi_messages import Message, Receive, Scope, Send, read_scope, write_start
from indico.core.http.refusals import refuse
from indico.error import IndicoError


def serve_request(
    application: Application, scope: Scope, receive: Receive, send: Send
) -> Coroutine[Any, Any, None]:
    """Serve one request of an ASGI server, from its headers to the end of its response."""
    return Request(scope, receive, send).serve(application)


class Request(HTTPConnection):
    """A request and its response. Handlers use it as their `Connection` (see `limits`)."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._close_callback: Callable[[], object] | None = None
        self._begun = False  # whether the response has begun
        self._start: Message | None = None  # status and headers that are not sent yet
        self._body = b""  # the part of the body that is not sent yet
        self._sent: Future[None] | None = None  # done when everything written so far is sent
        self._finished = False  # the application has written the whole response
        self._complete = False  # the whole response is sent
        self._closed = False  # the client has disconnected
        self._waiting: Future[None] | None = None  # done when there is data to send, or after a disconnect
        self._body_read = False
        self._sender: asyncio.Task[None] | None = None

    # Properties of the request

    @property
    def context(self) -> Request:
        """Tornado reads `remote_ip` and `protocol` from this object."""
        return self

    @property
    def remote_ip(self) -> str | None:
        return (self._scope.get("client") or (None,))[0]

    @property
    def protocol(self) -> str:
        return str(self._scope.get("scheme", "http"))

    async def serve(self, application: Application) -> None:
        watcher = None
        try:
            await self._read(application.start_request(self, self))
            self._body_read = True
            if self._sender is not None:
                await self._sender
            elif not self._finished:
                await asyncio.sleep(0)  # an action that does not wait responds meanwhile
            while not self._complete and not self._closed:
                if self._start is None and not self._body and not self._finished:
                    if watcher is None:
                        watcher = asyncio.get_running_loop().create_task(self._wait_for_disconnect())
                    self._waiting = asyncio.get_running_loop().create_future()
                    await self._waiting
                    self._waiting = None
                else:
                    await self._send_written()
        except asyncio.CancelledError:  # the server has cancelled the request
            self._on_disconnect()
            raise
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _read(self, delegate: HTTPMessageDelegate) -> None:
        try:
            prepared = delegate.headers_received(*read_scope(self._scope))
        except HTTPInputError:
            refuse(self, IndicoError("Bad Request", 400))
            return
        if prepared is not None:
            await prepared
        timer = asyncio.get_running_loop().call_later(config.BODY_TIMEOUT, self._reject_late_body)
        more = True
        while more and not self._complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._closed = not self._complete
                delegate.on_connection_close()
                break
            chunk = message.get("body")
            if chunk and not self._finished:
                taken = delegate.data_received(chunk)
                if taken is not None:
                    await taken
            more = message.get("more_body", False)
        else:
            if more or self._finished:  # a body that ends after the response starts no action
                delegate.on_connection_close()
            else:
                delegate.finish()
        timer.cancel()

    # The response

    def set_close_callback(self, callback: Callable[[], object] | None) -> None:
        """Set a function to call if the client disconnects before the response is complete."""
        self._close_callback = callback

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
        if self._closed:
            return self._fail_sending(self._sent)
        self._notify_sender()
        return self._sent

    def finish(self) -> None:
        self._finished = True
        self._notify_sender()

    def _reject_late_body(self) -> None:
        if not self._begun:
            refuse(self, IndicoError("The body took too long", 408))

    def _notify_sender(self) -> None:
        # The sender runs in a later turn of the loop, so that one message can carry several writes.
        if self._waiting is not None:
            if not self._waiting.done():
                self._waiting.set_result(None)
        elif not self._body_read and self._sender is None:
            self._sender = asyncio.get_running_loop().create_task(self._send_written())

    async def _wait_for_disconnect(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._on_disconnect()

    async def _send_written(self) -> None:
        while (self._start is not None or self._body or self._finished) and not (
            self._complete or self._closed
        ):
            start, self._start = self._start, None
            body, self._body = self._body, b""
            sent, self._sent = self._sent, None
            finished = self._finished
            if start is not None:
                await self._send(start)
            if body or finished:
                await self._send({"type": "http.response.body", "body": body, "more_body": not finished})
            self._complete = finished
            if sent is not None and not sent.done():
                sent.set_result(None)
        self._sender = None

    # The interface `Connection`, for handlers

    def is_closed(self) -> bool:
        """Whether the server has reported a disconnect of the client."""
        return self._closed

    def close_writing(self) -> None:
        """Does nothing: ASGI has no message for it."""

    def close(self) -> None:
        """
        End a response that has begun: the server then closes the connection. Does nothing after a whole
        response. The server closes after one with the header "Connection: close".
        """
        if self._begun and not self._finished:
            self._on_disconnect()

    def _on_disconnect(self) -> None:
        self._closed = True
        callback, self._close_callback = self._close_callback, None
        if callback is not None:
            callback()
        if self._sent is not None:
            self._fail_sending(self._sent)
        self._notify_sender()

    def _fail_sending(self, sent: Future[None]) -> Future[None]:
        if not sent.done():
            sent.set_exception(StreamClosedError())
            sent.exception()  # asyncio logs exceptions that are never retrieved
        return sent
