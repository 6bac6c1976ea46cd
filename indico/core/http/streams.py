"""
Server-sent events: the values of an action that is an async generator are sent as they come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from tornado.iostream import StreamClosedError

from indico import config
from indico.core.http.encoding import encode
from indico.core.http.envelope import name_request
from indico.core.http.errors import to_error
from indico.core.http.upload_handler import UploadHandler
from indico.core.log import LOGGER
from indico.core.timers import Timer, call_after

COMMENT = b":\n\n"
COMMENT_SECONDS = 15  # between comments while the action yields nothing
END = b"event: end\ndata: null\n\n"
PIECE = 16 * 1024  # bytes; a longer event is sent in pieces


class StreamHandler(UploadHandler):
    """A handler that can send the values of an async generator to a client that may read slowly or leave."""

    _is_streaming = False  # True when the response is a stream and has begun
    _rest = memoryview(b"")  # the part of an event that is not written yet
    _comment_timer: Timer | None = None  # set while the action yields nothing

    async def send_events(self, values: AsyncGenerator[Any, Any]) -> None:
        """
        Send each value as an event, and `event: end` after the last one. `request_timeout` limits the wait
        for each value. The generator is closed if the client disconnects or takes nothing for WRITE_TIMEOUT.
        """
        try:
            async with aclosing(values):
                self._wait_for_value()
                async for value in values:
                    self._stop_waiting()
                    event = b"data: %b\n\n" % encode({"status": 200, "data": value})
                    if not self._begin_stream():
                        return
                    await self._send(event)
                    self.start_timer()
                    self._wait_for_value()
            if self._begin_stream():
                self.finish(END)
        finally:
            self._stop_waiting()
            if self._is_lazy and self._is_streaming and self._aborted:
                self.application.log_request(self)  # Tornado does it for other handlers

    def _wait_for_value(self) -> None:
        """Send a comment in COMMENT_SECONDS, unless `_stop_waiting` is called before."""
        self._comment_timer = call_after(COMMENT_SECONDS, self._send_comment)

    def _stop_waiting(self) -> None:
        self.stop_timer()
        if self._comment_timer is not None:
            self._comment_timer.cancel()
            self._comment_timer = None

    def _send_comment(self) -> None:
        if self._begin_stream():
            self.write(COMMENT)
            self.flush()
            self._wait_for_value()

    def _begin_stream(self) -> bool:
        """Set the headers, unless they are sent. Return False if nothing can be sent any more."""
        if self._is_streaming or self._aborted:
            return not self._aborted
        if self._has_response:
            LOGGER.warning("%s has responded already; its events are dropped", name_request(self))
            return False
        self.set_header("Content-Type", "text/event-stream")
        self.set_header("X-Accel-Buffering", "no")  # nginx then sends each event at once
        if self._state.draining:
            self.set_header("Connection", "close")
        self._has_response = self._is_streaming = True
        return True

    async def _send(self, event: bytes) -> None:
        """Send an event. Wait while the client takes it. Raises CancelledError if it has disconnected."""
        self._rest = memoryview(event)
        while self._rest:
            self.write(bytes(self._rest[:PIECE]))
            self._rest = self._rest[PIECE:]
            sent = self.flush()
            try:
                async with asyncio.timeout(None if sent.done() else config.WRITE_TIMEOUT):
                    await sent
            except (StreamClosedError, TimeoutError):
                self.request.connection.close()  # type: ignore[union-attr] # all of our servers have it
                self.on_connection_close()
                break
        await asyncio.sleep(0)  # lets other requests run

    def fail(self, error: BaseException) -> None:
        """If the stream has begun, end it with `event: error`, after the event that is being sent."""
        if not self._is_streaming or self._aborted:
            super().fail(error)
            return
        self._is_streaming = False
        response = to_error(error)
        envelope = encode({"status": response.code, "data": response.message})
        self.finish(b"%bevent: error\ndata: %b\n\n" % (bytes(self._rest), envelope))
