"""
The worker: claims jobs and runs them. There is one in each process that serves.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from tornado import web
from tornado.routing import Rule

from indico import config
from indico.batteries.jobs import store
from indico.batteries.jobs.running import ATTRIBUTE, Job, Run, RunningHandler
from indico.core.decorators import get_info
from indico.core.hooks import Application, get_hooks
from indico.core.http.envelope import name_route
from indico.core.http.errors import to_error
from indico.db import Document
from indico.error import Unavailable
from indico.routes.handler import IndicoHandler

POLL_SECONDS = 1.0  # between two looks for what other processes have stored


async def repeat(application: Application, work: Callable[[], Awaitable[bool]], wake: asyncio.Event) -> None:
    """Call `work` until it returns False, pause, and so on. Of failures in a row, the first is logged."""
    state, is_failing = application.state, False
    while True:
        wake.clear()
        try:
            while state.running and not state.draining and await work():
                pass
            is_failing = False
        except Exception as error:
            if not is_failing:
                to_error(error)
            is_failing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(POLL_SECONDS):
                await wake.wait()


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
        self._slots: dict[str, str] = {}  # the last one of each scheduled job that is known to be stored

    async def __call__(self, application: Application) -> None:
        """Run jobs until the server stops. The jobs that still run then are given back."""
        async with asyncio.TaskGroup() as group:
            for _ in range(config.JOB_WORKERS):
                group.create_task(repeat(application, lambda: self._run_next(application), self.wake))
            if config.JOB_WORKERS:
                await repeat(application, self._add_scheduled, asyncio.Event())

    async def _run_next(self, application: Application) -> bool:
        """Claim a job and run it. Return whether there was one."""
        claimed = asyncio.get_running_loop().time()
        document = await store.claim_job(list(self.jobs))
        if document is None:
            return False
        self.wake.set()  # there may be another one
        run = Run(self.jobs[document["action"]], document, application, claimed)
        application.state.in_flight.add(run)
        try:
            await asyncio.wait([run.task])
        finally:
            run.abort_with(Unavailable("The server is stopping"))
            await asyncio.wait([run.task])
            application.state.in_flight.discard(run)
        await run.task  # raises the error of an outcome that can't be stored
        return True

    async def _add_scheduled(self) -> bool:
        """Store the scheduled jobs whose time has come. Of all processes, one succeeds."""
        for name, job in self.jobs.items():
            if job.every is not None:
                slot = f"{name} {int(time.time() // job.every * job.every)}"
                if self._slots.get(name) != slot:
                    await store.add_job(name, b"{}", {"slot": slot})
                    self._slots[name] = slot
                    self.wake.set()
        return False


def find_jobs(routes: Sequence[Rule]) -> Iterator[tuple[str, Job]]:
    """Yield the names and the Jobs of all actions with `@job`. Raises TypeError for one without `@auth`."""
    for rule in routes:
        kind = rule.target
        if not (isinstance(kind, type) and issubclass(kind, IndicoHandler)):
            continue
        for action, function in kind.list_actions().items():
            found: Job | None = getattr(function, ATTRIBUTE, None)
            if found is None:
                continue
            if found.every is None and "auth" not in get_info(function).decorators:
                raise TypeError(f"{kind.__name__}.{action} needs @auth above @job, or @job(every=...)")
            running = type(kind.__name__, (RunningHandler, kind), {})
            make_handler = functools.partial(running, **rule.target_kwargs)
            yield (
                f"{name_route(kind)}.{action}",
                replace(found, decorated=function, make_handler=make_handler),
            )


def get_worker(application: web.Application) -> Worker | None:
    """Return the application's worker, or None if none of its actions has `@job`."""
    tasks = get_hooks(application).background_tasks
    return next((task for task in tasks if isinstance(task, Worker)), None)
