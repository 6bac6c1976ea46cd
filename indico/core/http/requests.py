"""
The reading half of a connection.
"""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import Future
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from tornado.httputil import HTTPInputError, HTTPMessageDelegate

from indico import config
from indico.core.http.errors import send_error_response
from indico.core.http.framing import ChunkDecoder, LengthDecoder
from indico.core.http.head import CHUNKED, LARGEST_HEAD, BadRequest, is_malformed, parse_head
from indico.core.http.responses import ResponseWriter, fail_future
from indico.core.log import LOGGER
from indico.error import BodyTooLarge

if TYPE_CHECKING:
    from indico.core.http.server import Server

BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LINGER_SECONDS = 2  # for the rest of a body after a response that closes the connection

# States of a connection. They are compared with <, so their order matters.
HEAD = 0  # waiting for the headers of the next request
BODY = 1  # reading the body
WAITING = 2  # within the body, until the application is ready for more
RESPONDING = 3  # the whole request is received; waiting for the response
ENDED = 4  # no more data is read
DETACHED = 5  # a handler has taken over the socket


class RequestReader(ResponseWriter):
    """Passes requests to the application, each one after the response to the previous one."""

    __slots__ = ("deadline", "_body_bytes", "_buffer", "_decoder", "_delegate", "_max_body", "_state")

    def __init__(self, server: Server, remote_ip: str) -> None:
        super().__init__(server, remote_ip)
        self.deadline = time.monotonic() + config.HEADER_TIMEOUT
        self._state = HEAD
        self._buffer = bytearray()  # received data that is not parsed yet
        self._body_bytes = 0  # received bytes of the current request's body
        self._max_body = math.inf
        self._decoder: ChunkDecoder | LengthDecoder | None = None  # None when the whole body is decoded
        self._delegate: HTTPMessageDelegate | None = None

    def _drop_request(self) -> None:
        """End the request in flight, if any, because the connection ends."""
        state, self._state = self._state, ENDED
        delegate, self._delegate = self._delegate, None
        callback, self._on_disconnect = self._on_disconnect, None
        self._buffer.clear()
        self._body_bytes = 0
        if delegate is not None and state < RESPONDING:
            delegate.on_connection_close()
        elif callback is not None:
            callback()
        fail_future(self._drained)

    # Reading

    def _advance(self) -> None:
        """Parse the buffer as far as the application is ready for it."""
        try:
            while self._state <= BODY and (self._read_body() if self._state else self._read_head()):
                pass
        except (BadRequest, HTTPInputError):
            self._reject()
        except Exception:
            LOGGER.exception("The application failed on a request")
            self.close()

    def _read_head(self) -> bool:
        """Parse the headers of a request. Return False if they are incomplete."""
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        end = self._buffer.find(b"\r\n\r\n", 0, LARGEST_HEAD + 4)
        if end < 0:
            if self._buffer and is_malformed(self._buffer):
                raise BadRequest
            return False
        head = parse_head(bytes(self._buffer[: end + 4]))
        del self._buffer[: end + 4]
        self._start_response(head)
        self._max_body = math.inf
        if head.body_size:
            self._decoder = ChunkDecoder() if head.body_size == CHUNKED else LengthDecoder(head.body_size)
        self._state = BODY
        self.deadline = time.monotonic() + config.BODY_TIMEOUT if head.body_size else math.inf
        self._delegate = self._server.application.start_request(self, self)
        ready = self._delegate.headers_received(head.line, head.headers)
        self._await_application(ready)
        if ready is None and self._max_body == math.inf:
            self._max_body = config.MAX_BODY_SIZE  # for handlers that set no limit of their own
        return True

    def _read_body(self) -> bool:
        """Decode a part of the body or its end. Return False if neither has been received."""
        if self._decoder is not None:
            if self.head.body_size > self._max_body and not self._begun:
                self._reject_body()
            if self.head.expects_continue:
                self.head.expects_continue = False
                if not self._begun:
                    self._transport.write(CONTINUE)
            piece, size, is_last = self._decoder.decode(self._buffer)
            if not size:
                return False
            del self._buffer[:size]
            if is_last:
                self._decoder = None
            if piece and not self._finished:  # after the response the body is dropped
                self._pass_on(piece)
        if self._decoder is None and self._state == BODY:
            self._end_request()
        return True

    def _pass_on(self, piece: bytes) -> None:
        self._body_bytes += 0 if self._begun else len(piece)
        if self._body_bytes > self._max_body:
            self._reject_body()
        else:
            assert self._delegate is not None
            ready = self._delegate.data_received(piece)
            if ready is not None and self._max_body == math.inf:
                self._body_bytes -= len(piece)  # the handler limits the body, and stores it
            self._await_application(ready)

    def _await_application(self, ready: Awaitable[None] | None) -> None:
        """Stop reading the body until `ready` is done."""
        if ready is not None:
            self._state = WAITING
            asyncio.ensure_future(ready).add_done_callback(self._on_application_ready)

    def _on_application_ready(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            LOGGER.error("The application failed on a request", exc_info=error)
            self.close()
        elif self._state == WAITING:
            self._state = BODY
            self._advance()

    def _end_request(self) -> None:
        """The whole request has been received."""
        self.deadline = math.inf
        delegate = self._delegate
        if not self._finished:
            self._state = RESPONDING
            assert delegate is not None
            delegate.finish()
            return
        if delegate is not None:
            delegate.on_connection_close()  # not `finish`: the request has its response already
        self._next_request()

    def _end_response(self) -> None:
        self._body_bytes = 0
        if self._state == RESPONDING:
            self._next_request()
        elif not self._keep_alive and self._state < RESPONDING:
            # An immediate close would reset the connection before the client could read the response.
            self.close_writing()
            self.deadline = min(self.deadline, time.monotonic() + LINGER_SECONDS)

    def _next_request(self) -> None:
        self._delegate = None
        if not self._keep_alive:
            self._state = ENDED
            self._buffer.clear()
            self._transport.close()
            return
        self._state = HEAD
        self.deadline = time.monotonic() + config.IDLE_TIMEOUT
        if self._buffer:
            # In the context of the server, not that of the request that ends.
            self._server.loop.call_soon(self._advance, context=self._server.context)

    def _reject(self) -> None:
        """Respond with a bare 400, unless a response has begun, and close."""
        if self._state == HEAD or not self._begun:
            self._transport.write(BARE_400)
        self._drop_request()
        self._transport.close()

    def _reject_body(self) -> None:
        assert self._delegate is not None
        self._delegate.on_connection_close()
        self._delegate, self._on_disconnect = None, None
        send_error_response(self, BodyTooLarge(int(self._max_body)))
