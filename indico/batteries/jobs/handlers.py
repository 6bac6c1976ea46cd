"""
The route for clients, and the handlers of jobs in a worker.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable
from typing import Any

from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPServerRequest, RequestStartLine

from indico import config
from indico.batteries.jobs import store
from indico.batteries.jobs.store import ENDED, JobState
from indico.core.hooks import Application
from indico.core.http.encoding import encode
from indico.core.tasks import LATER, await_outcome
from indico.error import IndicoError
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

FOLLOW_SECONDS = 0.5  # between two looks at a job


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
        await store.find_job(job, self.user_id)
        await store.cancel_job(job, self.user_id)
        return await store.find_job(job, self.user_id)

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


class _Connection(HTTPConnection):
    """The connection of a request that no client has sent."""

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Nobody closes it."""


class _RunningHandler(IndicoHandler):
    """What the handler of a job differs in: nobody gets a response, and no hook is called."""

    _responded: asyncio.Future[tuple[Any, int]]

    def _begin(self) -> None:
        self._responded = asyncio.get_running_loop().create_future()

    def set_default_headers(self) -> None:
        """There are none."""

    def respond(self, data: Any, code: int = 200) -> None:
        if not self._responded.done():
            self._responded.set_result((data, code))


@functools.cache
def _make_kind(kind: Any) -> type[_RunningHandler]:
    return type(kind.__name__, (_RunningHandler, kind), {"__doc__": kind.__doc__})


def make_handler(kind: Any, application: Application, body: bytes, keywords: dict[str, Any]) -> IndicoHandler:
    """Return a handler of this class for the body of a job. It has no headers."""
    line = RequestStartLine("POST", "/", "HTTP/1.0")
    request = HTTPServerRequest(start_line=line, headers=HTTPHeaders(), body=body, connection=_Connection())
    return _make_kind(kind)(application, request, **keywords)


async def run_action(action: Callable[..., Any], handler: IndicoHandler) -> str:
    """Run the action of a job, and return its result as JSON. Raises what it raises, or responds with."""
    assert isinstance(handler, _RunningHandler)
    outcome = await await_outcome(action(handler, handler.request.body))
    if outcome is not LATER:
        handler.respond(outcome)  # unless it has responded
    data, code = await handler._responded
    if code >= 400:
        raise IndicoError(data, code)
    return encode(data).decode()


JobRoute = (r"/job/(?P<action>find|cancel|follow)?", JobHandler)
