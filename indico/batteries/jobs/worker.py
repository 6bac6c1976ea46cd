"""
The worker: claims jobs and runs them. There is one in each process that serves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from bson.objectid import ObjectId

from indico import config
from indico.batteries.jobs import store
from indico.batteries.jobs.running import Job, Run
from indico.core.hooks import Application
from indico.core.http.errors import to_error
from indico.db import Document
from indico.error import Unavailable

POLL_SECONDS = 1.0  # between two looks for jobs that other processes have stored


class Worker:
    """
    Runs JOB_WORKERS jobs at a time. `jobs` has those that it can run by their names, such as `report.build`.
    It is a background task of the application.
    """

    def __init__(self, jobs: Mapping[str, Job]) -> None:
        self.jobs = jobs
        self.wake = asyncio.Event()  # there may be a job
        # Return further fields of a new job. They may raise an error, which becomes the response.
        self.field_readers: list[Callable[[Any], Document]] = []
        self._runs: set[Run] = set()
        self._slots: dict[str, str] = {}  # the last one of each scheduled job that is known to be stored
        self._is_failing = False

    def read_fields(self, handler: Any) -> Document:
        """Return the fields of `field_readers` for the request of a new job."""
        return {name: value for read in self.field_readers for name, value in read(handler).items()}

    async def __call__(self, application: Application) -> None:
        """Run jobs until the server stops. The jobs that still run then are given back."""
        try:
            while config.JOB_WORKERS:
                self.wake.clear()
                await self._try_to_start_jobs(application)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), POLL_SECONDS)
        finally:
            for run in self._runs:
                run.abort_with(Unavailable("The server is going down"))
            if self._runs:
                await asyncio.wait([run.task for run in self._runs])

    async def _try_to_start_jobs(self, application: Application) -> None:
        """Start jobs. Of failures in a row, the first is logged."""
        try:
            await self._start_jobs(application)
            self._is_failing = False
        except Exception as error:
            if not self._is_failing:
                to_error(error)
            self._is_failing = True

    async def _start_jobs(self, application: Application) -> None:
        state = application.state
        if state.running and not state.draining:
            await self._add_scheduled()
        while state.running and not state.draining and len(self._runs) < config.JOB_WORKERS:
            claimed = asyncio.get_running_loop().time()
            document = await store.claim_job(list(self.jobs), ObjectId())
            if document is None:
                break
            run = Run(self.jobs[document["action"]], document, application, claimed)
            self._runs.add(run)
            run.task.add_done_callback(lambda _, run=run: self._end(run))  # type: ignore[misc]

    def _end(self, run: Run) -> None:
        self._runs.discard(run)
        self.wake.set()

    async def _add_scheduled(self) -> None:
        """Store the scheduled jobs whose time has come. Of all processes, one succeeds."""
        for name, job in self.jobs.items():
            if job.every is not None:
                slot = f"{name} {int(time.time() // job.every * job.every)}"
                if self._slots.get(name) != slot:
                    await store.add_job(name, b"{}", {"slot": slot})
                    self._slots[name] = slot
