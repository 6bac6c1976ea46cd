"""
The reading half of a connection: requests, one after the other.
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
from indico.core.http.head import CHUNKED, LARGEST_HEAD, BadRequest, Head, is_hopeless, parse_head
from indico.core.http.reading import BufferedReader
from indico.core.http.refusals import refuse
from indico.core.log import LOGGER
from indico.error import BodyTooLarge

if TYPE_CHECKING:
    from indico.core.http.server import Server

BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
GO_ON = b"HTTP/1.1 100 Continue\r\n\r\n"


# States of a connection, in this order
HEAD = 0  # the next request is awaited
BODY = 1  # more of it is to come
HELD = 2  # but the application does not want it yet
AT_WORK = 3  # all of the request is there
ENDED = 4  # nothing more is read
DETACHED = 5  # the socket has another owner


class RequestReader(BufferedReader):
    """Gives the application a request, and the next one when that has its response."""

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
        self._expects = False  # to be told to go on
        self._decoder: ChunkDecoder | LengthDecoder | None = None  # while more of the body is to come
        self._declared = 0  # bytes of the body, according to the headers
        self._max_body = math.inf

    def _lose(self) -> None:
        """Forget the request, if there is one: its client has left, or is to."""
        state, self._state = self._state, ENDED
        delegate, self._delegate = self._delegate, None
        callback, self._on_left = self._on_left, None
        self._drop_input()
        self._body_bytes = 0
        self._count_unread()
        if delegate is not None and state < AT_WORK:
            delegate.on_connection_close()
        elif callback is not None:
            callback()
        self._end_wait(StreamClosedError())

    # Reading

    def _advance(self) -> None:
        """Read what has come in, as far as the application is ready for it."""
        try:
            while self._state <= BODY:
                if not (self._read_body() if self._state else self._read_head()):
                    break
        except (BadRequest, HTTPInputError):
            self._refuse()
        except Exception:
            LOGGER.exception("The application failed on a request")
            self.close()
        self._resume_reading()
        self._count_unread()

    def _read_head(self) -> bool:
        """Whether there was one."""
        while self._buffer.startswith(b"\r\n", self._start):
            self._take(self._start + 2)
        end = self._buffer.find(b"\r\n\r\n", self._start)
        if end < 0 or end - self._start > LARGEST_HEAD:
            if self._buffer and is_hopeless(self._buffer[self._start :]):
                raise BadRequest
            return False
        self._begin_request(parse_head(self._take(end + 4)))
        return True

    def _begin_request(self, head: Head) -> None:
        is_old = head.line.version != "HTTP/1.1"
        self._start_response(head.line.method == "HEAD", is_old, head.keep_alive)
        self._max_body = math.inf
        self._declared = head.body_size
        if head.body_size:
            is_chunked = head.body_size == CHUNKED
            self._decoder = ChunkDecoder() if is_chunked else LengthDecoder(head.body_size)
        expects = "Expect" in head.headers and head.headers["Expect"].lower() == "100-continue"
        self._expects = expects and not is_old
        self._state = BODY
        self.deadline = time.monotonic() + config.BODY_TIMEOUT if head.body_size else math.inf
        self._delegate = self._server.application.start_request(self, self)
        ready = self._delegate.headers_received(head.line, head.headers)
        self._hold(ready)
        if ready is None and self._max_body == math.inf:
            self._max_body = config.MAX_BODY_SIZE  # of what collects the body without a look at it

    def _read_body(self) -> bool:
        """Whether there was some of it, or its end."""
        if self._decoder is None:
            self._end_request()
            return True
        if self._declared > self._max_body and not self._begun:
            self._refuse_body()
        if self._expects:
            self._expects = False
            if not self._begun:
                self._transport.write(GO_ON)
        start = self._start
        piece, end, is_last = self._decoder.decode(self._buffer, start)
        if end == start:
            return False
        self._take(end)
        if is_last:
            self._decoder = None
        if piece and not self._finished:  # what comes after a response is dropped
            self._body_bytes += 0 if self._begun else len(piece)
            if self._body_bytes > self._max_body:
                self._refuse_body()
            else:
                assert self._delegate is not None
                self._hold(self._delegate.data_received(piece))
        return True

    def _hold(self, ready: Awaitable[None] | None) -> None:
        """Read no more of the body until this is done."""
        if ready is not None:
            self._state = HELD
            asyncio.ensure_future(ready).add_done_callback(self._release)

    def _release(self, future: Future[None]) -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            LOGGER.error("The application failed on a request", exc_info=error)
            self.close()
        elif self._state == HELD:
            self._state = BODY
            self._advance()

    def _end_request(self) -> None:
        """All of the request is there."""
        self.deadline = math.inf
        if not self._finished:
            self._state = AT_WORK
            assert self._delegate is not None
            self._delegate.finish()
            return
        delegate, self._delegate = self._delegate, None
        if delegate is not None:
            delegate.on_connection_close()  # what is answered before its end has none
        self._next_request()

    def _end_response(self) -> None:
        self._body_bytes = 0
        if self._state == AT_WORK:
            self._delegate = None
            self._next_request()
        elif not self._keep_alive and self._state < AT_WORK:
            self._linger()
        self._count_unread()

    def _next_request(self) -> None:
        if not self._keep_alive:
            self._end()
            return
        self._state = HEAD
        self.deadline = time.monotonic() + config.IDLE_TIMEOUT
        if self._buffer:
            # In no context of the request that ends.
            self._server.loop.call_soon(self._advance, context=self._server.context)

    def _end(self) -> None:
        """Close the connection when what is written has been sent."""
        self._state = ENDED
        self._drop_input()
        self._transport.close()

    def _refuse(self) -> None:
        """Say that this is no HTTP, unless a response has begun, and close."""
        is_quiet = self._state != HEAD and self._begun
        self._lose()
        if not is_quiet:
            self._transport.write(BARE_400)
        self._transport.close()

    def _refuse_body(self) -> None:
        assert self._delegate is not None
        self._delegate.on_connection_close()
        self._delegate, self._on_left = None, None
        refuse(self, BodyTooLarge(int(self._max_body)))
