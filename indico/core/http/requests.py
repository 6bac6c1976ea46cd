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
from tornado.iostream import StreamClosedError

from indico import config
from indico.core.http.framing import ChunkDecoder, LengthDecoder
from indico.core.http.head import CHUNKED, LARGEST_HEAD, BadRequest, Head, is_malformed, parse_head
from indico.core.http.reading import BufferedReader
from indico.core.http.refusals import refuse
from indico.core.log import LOGGER
from indico.error import BodyTooLarge

if TYPE_CHECKING:
    from indico.core.http.server import Server

BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


# States of a connection. They are compared with <, so their order matters.
HEAD = 0  # waiting for the headers of the next request
BODY = 1  # reading the body
WAITING = 2  # within the body, until the application is ready for more
RESPONDING = 3  # the whole request is received; waiting for the response
ENDED = 4  # no more data is read
DETACHED = 5  # a handler has taken over the socket


class RequestReader(BufferedReader):
    """Passes requests to the application, each one after the response to the previous one."""

    __slots__ = (
        "_declared",
        "_decoder",
        "_delegate",
        "_expects",
        "_max_body",
        "_state",
    )

    def __init__(self, server: Server, remote_ip: str) -> None:
        super().__init__(server, remote_ip)
        self.deadline = time.monotonic() + config.HEADER_TIMEOUT
        self._state = HEAD
        self._delegate: HTTPMessageDelegate | None = None
        self._expects = False  # the client waits for "100 Continue"
        self._decoder: ChunkDecoder | LengthDecoder | None = None  # None when the whole body is decoded
        self._declared = 0  # size of the body in bytes according to the headers, or CHUNKED
        self._max_body = math.inf

    def _drop_request(self) -> None:
        """End the request in flight, if any, because the connection ends."""
        state, self._state = self._state, ENDED
        delegate, self._delegate = self._delegate, None
        callback, self._on_disconnect = self._on_disconnect, None
        self._drop_input()
        self._body_bytes = 0
        self._count_unread()
        if delegate is not None and state < RESPONDING:
            delegate.on_connection_close()
        elif callback is not None:
            callback()
        self._resolve_drained(StreamClosedError())

    # Reading

    def _advance(self) -> None:
        """Parse the buffer as far as the application is ready for it."""
        try:
            while self._state <= BODY:
                if not (self._read_body() if self._state else self._read_head()):
                    break
        except (BadRequest, HTTPInputError):
            self._reject()
        except Exception:
            LOGGER.exception("The application failed on a request")
            self.close()
        self._resume_reading()
        self._count_unread()

    def _read_head(self) -> bool:
        """Parse the headers of a request. Return False if they are incomplete."""
        while self._buffer.startswith(b"\r\n", self._start):
            self._take(self._start + 2)
        end = self._buffer.find(b"\r\n\r\n", self._start)
        if end < 0 or end - self._start > LARGEST_HEAD:
            if self._buffer and is_malformed(self._buffer[self._start :]):
                raise BadRequest
            return False
        self._begin_request(parse_head(self._take(end + 4)))
        return True

    def _begin_request(self, head: Head) -> None:
        is_http_1_0 = head.line.version != "HTTP/1.1"
        self._start_response(head.line.method == "HEAD", is_http_1_0, head.keep_alive)
        self._max_body = math.inf
        self._declared = head.body_size
        if head.body_size:
            is_chunked = head.body_size == CHUNKED
            self._decoder = ChunkDecoder() if is_chunked else LengthDecoder(head.body_size)
        expects = "Expect" in head.headers and head.headers["Expect"].lower() == "100-continue"
        self._expects = expects and not is_http_1_0
        self._state = BODY
        self.deadline = time.monotonic() + config.BODY_TIMEOUT if head.body_size else math.inf
        self._delegate = self._server.application.start_request(self, self)
        ready = self._delegate.headers_received(head.line, head.headers)
        self._await_application(ready)
        if ready is None and self._max_body == math.inf:
            self._max_body = config.MAX_BODY_SIZE  # for handlers that set no limit of their own

    def _read_body(self) -> bool:
        """Decode a part of the body or its end. Return False if neither has been received."""
        if self._decoder is None:
            self._end_request()
            return True
        if self._declared > self._max_body and not self._begun:
            self._reject_body()
        if self._expects:
            self._expects = False
            if not self._begun:
                self._transport.write(CONTINUE)
        start = self._start
        piece, end, is_last = self._decoder.decode(self._buffer, start)
        if end == start:
            return False
        self._take(end)
        if is_last:
            self._decoder = None
        if piece and not self._finished:  # after the response the body is dropped
            self._body_bytes += 0 if self._begun else len(piece)
            if self._body_bytes > self._max_body:
                self._reject_body()
            else:
                assert self._delegate is not None
                self._await_application(self._delegate.data_received(piece))
        return True

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
        if not self._finished:
            self._state = RESPONDING
            assert self._delegate is not None
            self._delegate.finish()
            return
        delegate, self._delegate = self._delegate, None
        if delegate is not None:
            delegate.on_connection_close()  # not `finish`: the request has its response already
        self._next_request()

    def _end_response(self) -> None:
        self._body_bytes = 0
        if self._state == RESPONDING:
            self._delegate = None
            self._next_request()
        elif not self._keep_alive and self._state < RESPONDING:
            self._linger()
        self._count_unread()

    def _next_request(self) -> None:
        if not self._keep_alive:
            self._end()
            return
        self._state = HEAD
        self.deadline = time.monotonic() + config.IDLE_TIMEOUT
        if self._buffer:
            # In the context of the server, not that of the request that ends.
            self._server.loop.call_soon(self._advance, context=self._server.context)

    def _end(self) -> None:
        """Close the connection when the unsent data has been sent."""
        self._state = ENDED
        self._drop_input()
        self._transport.close()

    def _reject(self) -> None:
        """Respond with a bare 400, unless a response has begun, and close."""
        has_begun = self._state != HEAD and self._begun
        self._drop_request()
        if not has_begun:
            self._transport.write(BARE_400)
        self._transport.close()

    def _reject_body(self) -> None:
        assert self._delegate is not None
        self._delegate.on_connection_close()
        self._delegate, self._on_disconnect = None, None
        refuse(self, BodyTooLarge(int(self._max_body)))
