"""
Jobs: actions with `@job` run later, in workers. Clients get an id, and ask `/job/find` for the result.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, overload

from tornado import web
from tornado.routing import Rule, URLSpec
from typing_extensions import TypedDict

from indico.batteries.jobs import store
from indico.batteries.jobs.handlers import JobRoute
from indico.batteries.jobs.running import Job
from indico.batteries.jobs.worker import Worker
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.hooks import Application, get_hooks
from indico.core.http.envelope import name_request, name_route
from indico.core.http.uploads import takes_uploads
from indico.error import RouteNotFound
from indico.routes.handler import IndicoHandler
from indico.utils import Action, type_check, unpack

ATTRIBUTE = "job"  # of a decorated function: its Job
MAX_EVERY = 366 * 24 * 3600  # seconds

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
    a user; if it lacks `@auth`, clients can't call it. Must stand below `@auth`.
    """
    if action is None:
        if retries < 0 or (every is not None and not 1 <= every <= MAX_EVERY):
            raise TypeError(f"@job takes retries from 0, and every from 1 to {MAX_EVERY} seconds")
        return functools.partial(_decorate, retries, every)
    return _decorate(0, None, action)


def _decorate(retries: int, every: float | None, action: Action) -> Action:
    check_order("job", action)
    info = get_info(action)
    name = getattr(action, "__qualname__", "the action")
    if inspect.isasyncgenfunction(inspect.unwrap(action)) or any(map(takes_uploads, info.types or ())):
        raise TypeError(f"@job can't stand above {name}: a job sends no stream and takes no files")
    check = _make_check(action)

    @functools.wraps(action)
    def wrapper(self: Any, data: bytes) -> Any:
        if not hasattr(self, "user_id"):
            raise RouteNotFound(self.action)
        check(self, data)
        return _add(self, data)

    async def _add(self: Any, data: bytes) -> None:
        worker = get_worker(self.application)
        if worker is None:
            raise TypeError(f"{__package__} is not in BATTERIES, or was installed before the route of {name}")
        fields = {"user_id": self.user_id, "roles": self.roles, **worker.read_fields(self)}
        job_id = await store.add_job(name_request(self), data, fields)
        worker.wake.set()
        self.respond({"job": str(job_id)}, 202)

    add_decorator("job", wrapper, replace(info, response=(202, NewJob)))
    setattr(wrapper, ATTRIBUTE, Job(action, retries, every))
    return wrapper


def _make_check(action: Action) -> Action:
    """Return an action that checks the body as this one does, and does nothing else."""
    info = get_info(action)

    @functools.wraps(inspect.unwrap(action))
    def accept(self: Any, *values: Any) -> None:
        """Do nothing with what was checked."""

    check: Action = accept
    if info.types is not None:
        check = type_check(*info.types)(check)
    if info.fields is not None:
        required = [name for name in info.fields if name not in info.defaults]
        check = unpack(*required, **info.defaults)(check)
    return check


def find_jobs(routes: Sequence[Any]) -> Iterator[tuple[str, Job]]:
    """Yield the names and the Jobs of all actions with `@job`. Raises TypeError for one without `@auth`."""
    for route in routes:
        rule = route if isinstance(route, Rule) else URLSpec(*route)
        kind = rule.target
        if not (isinstance(kind, type) and issubclass(kind, IndicoHandler)):
            continue
        for action, function in kind.list_actions().items():
            found: Job | None = getattr(function, ATTRIBUTE, None)
            if found is None:
                continue
            if found.every is None and "auth" not in get_info(function).decorators:
                raise TypeError(f"{kind.__name__}.{action} needs @auth above @job, or @job(every=...)")
            yield f"{name_route(kind)}.{action}", replace(found, handler=kind, keywords=rule.target_kwargs)


def get_worker(application: web.Application) -> Worker | None:
    """Return the application's worker, or None if none of its actions has `@job`."""
    tasks = get_hooks(application).background_tasks
    return next((task for task in tasks if isinstance(task, Worker)), None)


def install(application: Application) -> None:
    """Add the route and a worker, if an action has `@job`."""
    jobs = dict(find_jobs(application.routes))
    if jobs:
        store.register()
        application.hooks.background_tasks.append(Worker(jobs))
        application.add_handlers(".*", [JobRoute])
