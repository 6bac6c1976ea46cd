"""
A job that runs: its handler, its lease, and what is stored of its outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from tornado.httputil import HTTPServerRequest, RequestStartLine

from indico import config
from indico.batteries.jobs import store
from indico.core.hooks import Application
from indico.core.http.errors import to_error
from indico.core.log import LOGGER
from indico.core.tasks import LATER, Prompt, await_outcome, spawn
from indico.db import Document
from indico.error import IndicoError, Unavailable
from indico.routes.handler import IndicoHandler
from indico.utils import Action

ATTRIBUTE = "job"  # of a decorated function: its Job
CHECK_SECONDS = 1.0  # between two renewals of a lease
SAFE = 0.8  # part of a lease after which an action is cancelled if the lease could not be renewed
MAX_LOST = 10  # leases: an action that ends its worker each time is not repeated forever
MAX_BACKOFF = 3600  # seconds between two attempts
STORE_SECONDS = 0.5  # between two attempts to store an outcome
WAITING = {"state": "waiting", "holder": "$$REMOVE"}
LINE = RequestStartLine("POST", "/", "HTTP/1.0")
CONNECTION: Any = SimpleNamespace(set_close_callback=lambda callback: None)  # it is never closed


class RunningHandler(IndicoHandler):
    """What the handler of a job differs in: nobody gets a response, and no hook is called."""

    def _begin(self) -> None:
        self.responded: asyncio.Future[tuple[Any, int]] = asyncio.get_running_loop().create_future()

    def set_default_headers(self) -> None:
        """There are none."""

    def respond(self, data: Any, code: int = 200) -> None:
        if not self.responded.done():
            self.responded.set_result((data, code))


@dataclass(frozen=True)
class Job:
    """An action with `@job`, and the handler that has it."""

    action: Action  # what stands below `@job`
    retries: int
    every: float | None  # seconds
    decorated: Action | None = None  # with all its decorators
    make_handler: Callable[..., Any] = RunningHandler


class Run:
    """One attempt to run a job. While it runs, it counts as a request in flight."""

    def __init__(self, job: Job, document: Document, application: Application, claimed: float) -> None:
        self.job = job
        self.document = document
        self.application = application
        self._lease = {"_id": document["_id"], "holder": document["holder"]}
        self.task = spawn(self._run(claimed + SAFE * config.JOB_LEASE))

    def abort_with(self, error: IndicoError) -> None:
        """Cancel the action, and let another worker run it. A second call does not interrupt this."""
        if not self.task.cancelling():
            self.task.cancel()

    async def _run(self, end: float) -> None:
        """Run the action until the lease is lost, and store its outcome. If cancelled, give the job back."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end) as limit:
                    guard = spawn(self._renew_lease(limit))
                    try:
                        await self._run_action()
                    finally:
                        guard.cancel()
        except asyncio.CancelledError:
            with suppress(IndicoError):
                await store.update_job(self._lease, {**WAITING, "due": "$$NOW"})

    async def _renew_lease(self, limit: asyncio.Timeout) -> None:
        """Keep the limit before the end of the lease. If the lease is lost, the limit is now."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, config.JOB_LEASE / 4))
            end = loop.time() + SAFE * config.JOB_LEASE
            with suppress(IndicoError, RuntimeError):  # RuntimeError: the limit was reached meanwhile
                held = await store.update_job(self._lease, {"due": store.later(config.JOB_LEASE)})
                limit.reschedule(end if held else loop.time())

    async def _run_action(self) -> None:
        document, job = self.document, self.job
        try:
            if document["lost"] > MAX_LOST:
                raise IndicoError("The worker ended each time that the job ran", 400)  # it is not repeated
            request = HTTPServerRequest(start_line=LINE, body=document["body"], connection=CONNECTION)
            handler = job.make_handler(self.application, request)
            handler.action = document["action"].rpartition(".")[2]
            handler.user_id, handler.roles = document.get("user_id", ""), document.get("roles", [])
            handler.progress = self._report
            outcome = await await_outcome(job.action(handler, document["body"]))
            if outcome is not LATER:
                handler.respond(outcome)  # unless it has responded
            data, code = await handler.responded
            if code >= 400:
                raise IndicoError(data, code)
            await self._end("done", "result", data)
        except (Exception, asyncio.CancelledError) as error:
            if isinstance(error, asyncio.CancelledError) and self.task.cancelling():
                raise
            await self._fail(to_error(error))

    async def _fail(self, error: IndicoError) -> None:
        """Let the job wait for the next attempt, or end it. An error below 500 stays the same each time."""
        failures = self.document["failures"] + 1
        if error.code >= 500 and failures <= self.job.retries:
            pause = min(2 ** (failures - 1), MAX_BACKOFF) * random.uniform(1, 1.5)
            LOGGER.warning("%s failed; it is tried again in %.0f s", self.document["action"], pause)
            await self._store({**WAITING, "due": store.later(pause), "failures": failures})
        else:
            await self._end("failed", "error", error.message)

    async def _end(self, state: str, name: str, value: Any) -> None:
        """End the job. The slot of a scheduled job must not be free before it is over."""
        lifetime = max(config.JOB_LIFETIME, 2 * (self.job.every or 0))
        await self._store({name: store.to_json(value), **store.ending(state, lifetime)})

    async def _store(self, fields: Document) -> None:
        """Store this. Repeated while MongoDB is not available, until the lease ends."""
        while True:
            try:
                await store.update_job(self._lease, fields)
                return
            except Unavailable:
                await asyncio.sleep(STORE_SECONDS)

    def _report(self, progress: Any) -> Prompt:
        """Store the progress of the action. It need not be awaited."""
        return Prompt(self._store({"progress": store.to_json(progress)}))
