"""
Indico request handler: finds the action, runs it, and sends its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

from indico.core.http.actions import ActionHandler
from indico.core.http.encoding import JSONEncoder as JSONEncoder
from indico.core.http.envelope import name_request
from indico.core.log import LOGGER
from indico.core.tasks import LATER, await_outcome
from indico.error import RouteNotFound


class IndicoHandler(ActionHandler):
    """
    Turns `POST /<route>/<action>` into a call of the method `<action>` with the body.

    If the action returns an awaitable, its result is the data of the response. If it is a plain function, its
    return value is the data. If that is None, the request stays open until the action calls `respond`. If it
    is an async generator, each value is sent as an event. An IndicoError that the action raises becomes the
    response, and any other exception becomes a ServerError. An action that takes longer than
    `request_timeout` is cancelled, and the response is 504. It is also cancelled if the client disconnects.
    """

    SUPPORTED_METHODS = ("GET", "HEAD", "OPTIONS", "POST")  # all others are 405

    # Set by @auth
    user_id: str
    roles: list[str]
    key: str
    key_owner: dict[str, Any]  # see `AuthDB.get_user_id`

    async def post(self, action: str | None = None) -> None:
        """Find the action, run it, and send its result."""
        if not self.begin_action():
            return
        try:
            function = self.find_action(action)
            self.action = action
            self.count_action()
            await self.run_hooks()
            outcome = await await_outcome(function(self, self.request.body))
            if isinstance(outcome, AsyncGenerator):
                await self.send_events(outcome)
            elif outcome is LATER:
                await self.wait_for_response()
            elif outcome is not None or not self.has_response:
                self.respond(outcome)
        except (Exception, asyncio.CancelledError) as error:
            self.fail(error)
        finally:
            self.end_action()

    def find_action(self, action: str | None) -> Callable[..., Any]:
        """Return the action of that name. Raises RouteNotFound if there is none."""
        function = self.get_action(str(action))
        if function is None:
            raise RouteNotFound(action)
        return function

    def check_path(self) -> None:
        self.find_action(self.request.path.rpartition("/")[2] or None)

    def respond(self, data: Any, code: int = 200) -> None:
        """
        Send `{"status": code, "data": data}`. Raises TypeError for data that JSONEncoder can't encode. A
        second response is logged and dropped.
        """
        if self.has_response and not self.is_aborted:
            LOGGER.warning("%s responded twice; the second response is dropped", name_request(self))
        else:
            self.send_envelope({"status": code, "data": data}, code)
