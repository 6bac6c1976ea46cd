"""
A job that runs: its action, its lease, and what is stored of its outcome.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from indico import config
from indico.batteries.jobs import store
from indico.batteries.jobs.handlers import make_handler, run_action
from indico.core.hooks import Application
from indico.core.http.encoding import encode
from indico.core.http.errors import to_error
from indico.core.log import LOGGER
from indico.core.tasks import Prompt, spawn
from indico.db import Document
from indico.error import IndicoError, Unavailable
from indico.routes.handler import IndicoHandler

CHECK_SECONDS = 1.0  # between two looks at a lease
SAFE = 0.8  # part of a lease after which an action is cancelled if the lease could not be renewed
MAX_LOST = 10  # leases: an action that ends its worker each time is not repeated forever
MAX_BACKOFF = 3600  # seconds between two attempts
STORE_SECONDS = 0.5  # between two attempts to store an outcome


@dataclass(frozen=True)
class Job:
    """An action with `@job`, and the handler that has it."""

    action: Callable[..., Any]  # what stands below `@job`
    retries: int
    every: float | None  # seconds
    handler: type[IndicoHandler] = IndicoHandler
    keywords: Mapping[str, Any] = field(default_factory=dict)  # of the handler's `initialize`


class Run:
    """One attempt to run a job. While it runs, it counts as a request in flight."""

    def __init__(self, job: Job, document: Document, application: Application, claimed: float) -> None:
        self.job = job
        self.document = document
        self.application = application
        self._lease = {"_id": document["_id"], "holder": document["holder"]}
        self._renewed = claimed  # the loop's time
        self._aborted = False
        application.state.in_flight.add(self)
        self.task = spawn(self._run())

    def abort_with(self, error: IndicoError) -> None:
        """Cancel the action, and let another worker run it. A second call does not interrupt this."""
        if not self._aborted:
            self._aborted = True
            self.task.cancel()

    async def _run(self) -> None:
        guard = spawn(self._guard_lease())
        try:
            await self._run_action()
        except asyncio.CancelledError:
            if self._aborted:
                with suppress(IndicoError):
                    await store.update_job(self._lease, store.waiting(0, self.document["failures"]))
        except Exception as error:
            to_error(error)  # logs it. Another worker runs the job when the lease ends.
        finally:
            guard.cancel()
            self.application.state.in_flight.discard(self)

    async def _run_action(self) -> None:
        document = self.document
        if document["lost"] > MAX_LOST:
            await self._fail(IndicoError("The worker was lost each time that it ran", 500), 0)
            return
        try:
            handler = make_handler(
                self.job.handler, self.application, document["body"], dict(self.job.keywords)
            )
            handler.action = document["action"].rpartition(".")[2]
            handler.user_id, handler.roles = document.get("user_id", ""), document.get("roles", [])
            setattr(handler, "progress", self._report)  # noqa: B010 - only some handlers declare it
            result = await run_action(self.job.action, handler)
            await self._store(store.ending("done", {"result": result}, self._lifetime))
        except asyncio.CancelledError as error:
            if self.task.cancelling():
                raise
            await self._fail(to_error(error), self.job.retries)
        except Exception as error:
            await self._fail(to_error(error), self.job.retries)

    @property
    def _lifetime(self) -> float:
        """Seconds. The slot of a scheduled job must not be free before it is over."""
        return max(config.JOB_LIFETIME, 2 * (self.job.every or 0))

    async def _fail(self, error: IndicoError, retries: int) -> None:
        """Let the job wait for the next attempt, or end it. An error below 500 stays the same each time."""
        failures = self.document["failures"] + 1
        if error.code >= 500 and failures <= retries:
            pause = min(2 ** (failures - 1), MAX_BACKOFF) * random.uniform(1, 1.5)
            LOGGER.warning("%s failed; it is tried again in %.0f s", self.document["action"], pause)
            await self._store(store.waiting(pause, failures))
        else:
            message = encode(error.message).decode()
            await self._store(store.ending("failed", {"error": message}, self._lifetime))

    async def _store(self, change: list[Document]) -> None:
        """Store an outcome. Repeated while MongoDB is not available, until the lease ends."""
        while True:
            try:
                return await store.update_job(self._lease, change)
            except Unavailable:
                await asyncio.sleep(STORE_SECONDS)

    def _report(self, progress: Any) -> Prompt:
        """Store the progress of the action. It need not be awaited."""
        return Prompt(self._store_progress(encode(progress).decode()))

    async def _store_progress(self, progress: str) -> None:
        with suppress(Unavailable):
            await store.update_job(self._lease, [{"$set": {"progress": {"$literal": progress}}}])

    async def _guard_lease(self) -> None:
        """Renew the lease. Cancel the action when the lease is lost, or can't be renewed in time."""
        loop = asyncio.get_running_loop()
        held = True
        while held:
            await asyncio.sleep(min(CHECK_SECONDS, config.JOB_LEASE / 4))
            began, end = loop.time(), self._renewed + SAFE * config.JOB_LEASE
            renew = began > self._renewed + config.JOB_LEASE / 3
            try:
                async with asyncio.timeout_at(end):
                    held = await store.check_lease(self._lease, renew)
                if renew:
                    self._renewed = began
            except (IndicoError, TimeoutError):
                held = loop.time() < end
        self.task.cancel()
