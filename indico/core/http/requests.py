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

from indico import config
from indico.core.http.chunks import ChunkDecoder
from indico.core.http.head import CHUNKED, LARGEST_HEAD, BadRequest, Head, is_hopeless, parse_head
from indico.core.http.responses import ResponseWriter, refuse
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


class RequestReader(ResponseWriter):
    """Gives the application a request, and the next one when that has its response."""

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_chunks",
        "_delegate",
        "_expects",
        "_left",
        "_max_body",
        "_paused",
        "_start",
        "_state",
        "_unread",
    )

    def __init__(self, server: Server, remote_ip: str) -> None:
        super().__init__(server, remote_ip)
        self.deadline = time.monotonic() + config.HEADER_TIMEOUT
        self._state = HEAD
        self._buffer = b""
        self._start = 0  # where in the buffer it is that nothing has been read yet
        self._paused = False
        self._delegate: HTTPMessageDelegate | None = None
        self._expects = False  # to be told to go on
        self._chunks: ChunkDecoder | None = None
        self._left = 0  # bytes of the body; CHUNKED until its last chunk
        self._body_bytes = 0  # that have come in
        self._max_body = math.inf
        self._unread = 0  # bytes of the request at work and of those after it, as far as they are counted

    def set_max_body_size(self, size: int) -> None:
        """The largest body of this request in bytes: for `prepare`, as with Tornado's own server."""
        self._max_body = size

    def set_body_timeout(self, seconds: float) -> None:
        """How long this request's body may take, from now on."""
        self.deadline = time.monotonic() + seconds

    def unread_bytes(self) -> int:
        return self._body_bytes + len(self._buffer) - self._start

    def _lose(self) -> None:
        """Forget the request, if there is one: its client has left, or is to."""
        state, self._state = self._state, ENDED
        delegate, self._delegate = self._delegate, None
        callback, self._on_left = self._on_left, None
        self._buffer, self._start, self._body_bytes = b"", 0, 0
        self._count_unread()
        if delegate is not None and state < AT_WORK:
            delegate.on_connection_close()
        elif callback is not None:
            callback()
        self._stop_waiting()

    def _count_unread(self) -> None:
        unread = self.unread_bytes()
        if unread != self._unread:
            change, self._unread = unread - self._unread, unread
            self._server.limits.count_unread(change)

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
        if self._paused and self._state <= BODY:
            self._paused = False
            self._server.limits.paused.discard(self)
            self._transport.resume_reading()
        self._count_unread()

    def _take(self, end: int) -> bytes:
        """What has come in up to there, and has not been read."""
        buffer, start = self._buffer, self._start
        if end < len(buffer):
            self._start = end
            return buffer[start:end]
        self._buffer, self._start = b"", 0
        return buffer[start:] if start else buffer

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
        self._start_response(head.line.method == "HEAD", head.line.version != "HTTP/1.1", head.keep_alive)
        self._max_body = math.inf
        self._left = head.body_size
        self._chunks = ChunkDecoder() if head.body_size == CHUNKED else None
        self._expects = bool(head.body_size) and head.headers.get("Expect", "").lower() == "100-continue"
        self._state = BODY
        self.deadline = time.monotonic() + config.BODY_TIMEOUT if head.body_size else math.inf
        self._delegate = self._server.application.start_request(self, self)
        ready = self._delegate.headers_received(head.line, head.headers)
        if ready is not None:
            self._hold(ready)
        elif self._max_body == math.inf:
            self._max_body = config.MAX_BODY_SIZE  # of what collects the body without a look at it

    def _read_body(self) -> bool:
        """Whether there was some of it, or its end."""
        if self._left == 0:
            self._end_request()
            return True
        if self._left > self._max_body and not self._begun:
            self._refuse_body()
        if self._expects:
            self._expects = False
            if not self._begun:
                self._transport.write(GO_ON)
        if not self._buffer:
            return False
        if self._chunks is None:
            piece = self._take(self._start + self._left)
            self._left -= len(piece)
        else:
            piece, end, is_last = self._chunks.decode(self._buffer, self._start)
            is_stuck = end == self._start
            self._take(end)
            if is_last:
                self._left = 0
            elif not piece and is_stuck:
                return False
        if piece and not self._finished:
            self._body_bytes += 0 if self._begun else len(piece)  # the rest after a response is dropped
            if self._body_bytes > self._max_body:
                self._refuse_body()
            elif self._delegate is not None:
                ready = self._delegate.data_received(piece)
                if ready is not None:
                    self._hold(ready)
        return True

    def _hold(self, ready: Awaitable[None]) -> None:
        """Read no more of the body until this is done."""
        future = asyncio.ensure_future(ready)
        if future.done():
            future.result()
        else:
            self._state = HELD
            future.add_done_callback(self._release)

    def _release(self, future: Future[None]) -> None:
        failed = future.cancelled() or future.exception() is not None
        if self._state == HELD:
            self._state = BODY
            if failed:
                self.close()
            else:
                self._advance()

    def _end_request(self) -> None:
        """All of the request is there."""
        self.deadline = math.inf
        self._chunks = None
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
        self._buffer, self._start = b"", 0
        self._transport.close()

    def _refuse(self) -> None:
        """Say that this is no HTTP, unless a response has begun, and close."""
        is_quiet = self._state != HEAD and self._begun
        self._lose()
        if not is_quiet:
            self._transport.write(BARE_400)
        self._transport.close()

    def _refuse_body(self) -> None:
        delegate, self._delegate = self._delegate, None
        if delegate is not None:
            delegate.on_connection_close()
        self._on_left = None
        self._state = BODY
        refuse(self, BodyTooLarge(int(self._max_body)))
