"""
The request that runs the action of a key.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from tornado.web import HTTPError

from indico import config
from indico.batteries.idempotency import store
from indico.core.hooks import get_state
from indico.core.http.encoding import encode
from indico.core.http.envelope import name_request
from indico.core.http.errors import to_error
from indico.core.mongo.helper import begin_request
from indico.core.tasks import LATER, await_outcome, spawn
from indico.core.timers import call_after
from indico.db import Document
from indico.error import IndicoError
from indico.utils import LOGGER, Action

NOT_KEPT = (401, 408, 409, 425, 429)  # statuses, and all from 500: the same request may succeed later
MAX_RESPONSE_SIZE = 1024 * 1024  # bytes
HEARTBEAT_LEASE = 30  # seconds, for handlers without a request_timeout
HEARTBEAT = 10  # seconds between two extensions of that lease


class Run:
    """
    A request that takes a key and calls the action. If the client disconnects meanwhile, the action goes on,
    so that the next request gets its response.
    """

    def __init__(self, handler: Any, claim: Document) -> None:
        self.claim = claim
        self._handler = handler
        self._timeout: float | None = handler.request_timeout
        self._began = time.monotonic()
        self._task: asyncio.Task[Any] | None = None
        self._waits = False  # the action has returned and will call `respond` later

    async def take_key(self) -> Document:
        """Take the key, if it is free. Returns the document that counts."""
        try:
            return await store.take_key(self.claim, self._timeout or HEARTBEAT_LEASE)
        except BaseException:  # it may have been taken all the same
            spawn(self._finish({"status": 500}))
            raise

    async def call(self, action: Action, args: tuple[Any, ...]) -> Any:
        """Call the action and return its outcome. The response is stored before it is returned."""
        self._task = spawn(self._call(action, args))
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self._continue_without_client(self._task)
            raise
        return self._task.result()

    def _continue_without_client(self, task: asyncio.Task[Any]) -> None:
        envelope = self._handler.response_envelope
        if self._waits or (envelope is not None and envelope["status"] >= 500):  # of a timeout or a shutdown
            task.cancel()
            return
        in_flight = get_state(self._handler.application).in_flight
        in_flight.add(self)
        task.add_done_callback(lambda _: in_flight.discard(self))
        if self._timeout is not None:
            timer = call_after(self._began + self._timeout - time.monotonic(), task.cancel)
            task.add_done_callback(lambda _: timer.cancel())

    def abort_with(self, error: IndicoError) -> None:
        """Cancel the action: the server is shutting down."""
        assert self._task is not None
        self._task.cancel()

    async def _call(self, action: Action, args: tuple[Any, ...]) -> Any:
        heartbeat = spawn(self._beat()) if self._timeout is None else None
        outcome, failure = None, None
        try:
            outcome = await await_outcome(action(self._handler, *args))
            if outcome is LATER:
                self._waits = True
                await self._handler.wait_for_response()
            envelope = {"status": 200, "data": outcome}
        except asyncio.CancelledError:
            spawn(self._finish(self._handler.response_envelope or {"status": 500}))
            raise
        except Exception as error:
            failure, envelope = error, {"status": 500}
            if isinstance(error, IndicoError):
                envelope = {"status": error.code, "data": error.message}
            elif isinstance(error, HTTPError) and error.status_code < 500:
                response = to_error(error)
                envelope = {"status": response.code, "data": response.message}
        finally:
            if heartbeat is not None:
                heartbeat.cancel()
        await self._finish(self._handler.response_envelope or envelope)
        if failure is not None:
            raise failure
        return outcome

    async def _finish(self, envelope: Document) -> None:
        """Store the response, or release the key if the response is not kept."""
        begin_request()  # the action may have used up the time of its own
        status = envelope["status"]
        try:
            response = None if status in NOT_KEPT or status >= 500 else encode(envelope)
        except TypeError:  # the handler will raise it, too
            response = None
        try:
            if response is not None and len(response) <= MAX_RESPONSE_SIZE:
                await store.extend(self.claim, config.IDEMPOTENCY_LIFETIME, response)
            else:
                await store.release(self.claim)
        except IndicoError as error:
            LOGGER.warning("%s: its Idempotency-Key: %s", name_request(self._handler), error.message)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT)
            begin_request()
            with suppress(IndicoError):  # the next one may succeed
                await store.extend(self.claim, HEARTBEAT_LEASE)
