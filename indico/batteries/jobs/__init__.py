"""
Jobs: actions with `@job` run later, in workers. Clients get an id, and ask `/job/find` for the result.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any, overload

from typing_extensions import TypedDict

from indico import config
from indico.batteries.jobs import store
from indico.batteries.jobs.running import ATTRIBUTE, Job
from indico.batteries.jobs.store import ENDED, JobState
from indico.batteries.jobs.worker import Worker, find_jobs
from indico.batteries.jobs.worker import get_worker as get_worker
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.hooks import Application
from indico.core.http.envelope import name_request
from indico.core.http.upload_handler import takes_uploads
from indico.error import RouteNotFound
from indico.routes.handler import IndicoHandler
from indico.utils import Action, type_check, unpack
from indico.utils.auth.auth_utils import auth

MAX_EVERY = 366 * 24 * 3600  # seconds
FOLLOW_SECONDS = 0.5  # between two looks at a job

Progress = Callable[[Any], Awaitable[None]]  # a handler declares it: `progress: Progress`


class NewJob(TypedDict):
    job: str


@overload
def job(action: Action, /) -> Action: ...
@overload
def job(*, retries: int = 0, every: float | None = None) -> Callable[[Action], Action]: ...
def job(action: Action | None = None, /, *, retries: int = 0, every: float | None = None) -> Any:
    """
    Run an action later, in a worker: `@job`, or `@job(retries=3)`. The body is checked at once. The response
    is 202 and `{"job": id}`.

    In the worker, the action can use `self.user_id`, `self.roles` and `self.progress`. If it fails, it is
    repeated `retries` times. With `every`, in seconds, it also runs by itself, with the body `{}` and without
    a user; if it lacks `@auth`, clients can't call it. Must be below `@auth`.
    """
    if retries < 0 or (every is not None and not 1 <= every <= MAX_EVERY):
        raise TypeError(f"@job takes retries from 0, and every from 1 to {MAX_EVERY} seconds")
    if action is None:
        return functools.partial(job, retries=retries, every=every)
    check_order("job", action)
    info = get_info(action)
    if inspect.isasyncgenfunction(inspect.unwrap(action)) or any(map(takes_uploads, info.types or ())):
        raise TypeError(f"@job can't be used on {action.__qualname__}: a job has no stream and no files")
    check: Action = functools.wraps(inspect.unwrap(action))(lambda self, *values: None)
    if info.types is not None:
        check = type_check(*info.types)(check)
    if info.fields is not None:
        check = unpack(*(name for name in info.fields if name not in info.defaults), **info.defaults)(check)

    @functools.wraps(action)
    async def wrapper(self: Any, data: bytes) -> None:
        if not hasattr(self, "user_id"):
            raise RouteNotFound(self.action)
        check(self, data)
        worker = get_worker(self.application)
        if worker is None:
            raise TypeError(f"{__package__} is not in BATTERIES, or was installed before this route")
        fields = {"user_id": self.user_id, "roles": self.roles}
        for read_fields in worker.field_readers:
            fields.update(read_fields(self))
        job_id = await store.add_job(name_request(self), data, fields)
        worker.wake.set()
        self.respond({"job": str(job_id)}, 202)

    add_decorator("job", wrapper, replace(info, response=(202, NewJob)))
    setattr(wrapper, ATTRIBUTE, Job(action, retries, every))
    return wrapper


class JobHandler(IndicoHandler):
    """The state, the cancellation and the events of a user's jobs."""

    @property
    def request_timeout(self) -> float | None:
        return None if self.action == "follow" else config.REQUEST_TIMEOUT

    @auth
    @unpack("job")
    @type_check(str)
    async def find(self, job: str) -> JobState:
        """
        Return the state of a job, its progress, and its result or error.

        404: The user has no such job.
        """
        return await store.find_job(job, self.user_id)

    @auth
    @unpack("job")
    @type_check(str)
    async def cancel(self, job: str) -> JobState:
        """
        End a job, unless it has ended. Return its state.

        404: The user has no such job.
        """
        return await store.find_job(job, self.user_id, cancel=True)

    @auth
    @unpack("job")
    @type_check(str)
    async def follow(self, job: str) -> AsyncGenerator[JobState]:
        """
        Send the state of a job each time that it changes, until the job has ended.

        404: The user has no such job.
        """
        last = None
        while last is None or last["state"] not in ENDED:
            state = await store.find_job(job, self.user_id)
            if state != last:
                yield state
            else:
                await asyncio.sleep(FOLLOW_SECONDS)
            last = state


JobRoute = (r"/job/(?P<action>find|cancel|follow)?", JobHandler)


def install(application: Application) -> None:
    """Add the route and a worker, if an action has `@job`."""
    jobs = dict(find_jobs(application.routes))
    if jobs:
        store.register()
        application.hooks.background_tasks.append(Worker(jobs))
        application.add_handlers(".*", [JobRoute])
