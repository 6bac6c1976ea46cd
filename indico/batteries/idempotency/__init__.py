"""
Idempotency: a request that is sent again with the same `Idempotency-Key` gets the first response again.

`@idempotent` makes the action run once for each key of a user. The request that runs it holds the key by a
lease in MongoDB, for the handler's `request_timeout`. If its process dies, the lease ends, and the next
request with the key runs the action. Without a `request_timeout`, a heartbeat renews the lease.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from dataclasses import replace
from typing import Any

from indico.batteries.idempotency.run import Run
from indico.batteries.idempotency.store import declare_collection, make_claim
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.hooks import Application
from indico.core.http.upload_handler import takes_uploads
from indico.core.tasks import Prompt
from indico.error import IndicoError, InvalidValue
from indico.routes.handler import IndicoHandler
from indico.utils import Action

HEADER = "Idempotency-Key"
KEY = re.compile(r"[!-~]{1,255}")
STATUSES = {
    409: f"The first request with this {HEADER} still runs",
    422: f"The first request with this {HEADER} had another body",
}


class StillRunning(IndicoError):
    """409. The client should send the request again."""

    retry_after = 1  # second

    def __init__(self) -> None:
        super().__init__(STATUSES[409], 409)


class OtherBody(IndicoError):
    """422. The client should use a new key."""

    def __init__(self) -> None:
        super().__init__(STATUSES[422], 422)


def install(application: Application) -> None:
    """Declare the collection if an action has `@idempotent`. Raise TypeError if it has no `@auth`."""
    for rule in application.routes:
        handler = rule.target
        if isinstance(handler, type) and issubclass(handler, IndicoHandler):
            for name, action in handler.list_actions().items():
                decorators = get_info(action).decorators
                if "idempotent" in decorators:
                    if "auth" not in decorators:
                        raise TypeError(f"@idempotent needs @auth above it: {handler.__name__}.{name}")
                    declare_collection()


def idempotent(action: Action) -> Action:
    """
    Run an action once for each `Idempotency-Key` of a user. Further requests with the key get the first
    response again. A request without the header runs the action. Must be below `@auth`.

    Raises StillRunning while the first request runs, and OtherBody if that had another body.
    """
    check_order("idempotent", action)
    info = get_info(action)
    if inspect.isasyncgenfunction(inspect.unwrap(action)) or any(map(takes_uploads, info.types or ())):
        raise TypeError(f"@idempotent can't keep a stream or a body with files: {action.__qualname__}")

    @functools.wraps(action)
    def wrapper(self: Any, *args: Any) -> Any:
        key = self.request.headers.get(HEADER)
        return action(self, *args) if key is None else Prompt(_run(action, self, key, args))

    headers = {
        **info.headers,
        HEADER: "A new text for each request. If the request is repeated, the same",
    }
    statuses = {**info.statuses, **STATUSES}
    add_decorator("idempotent", wrapper, replace(info, headers=headers, statuses=statuses))
    return wrapper


async def _run(action: Action, handler: Any, key: str, args: tuple[Any, ...]) -> Any:
    if KEY.fullmatch(key) is None:
        raise InvalidValue(f"{HEADER} should be 1 to 255 characters of ASCII, none of them a space")
    kind = type(handler)
    name = f"{kind.__module__}.{kind.__qualname__}.{action.__name__}"
    run = Run(handler, make_claim(handler.user_id, name, key, handler.request.body))
    stored = await run.take_key()
    if stored["body"] != run.claim["body"]:
        raise OtherBody()
    if stored["run"] == run.claim["run"]:
        return await run.call(action, args)
    if "response" not in stored:
        raise StillRunning()
    handler.set_header("Idempotent-Replayed", "true")
    envelope = json.loads(stored["response"])
    if envelope["status"] != 200:
        raise IndicoError(envelope["data"], envelope["status"])
    return envelope["data"]
