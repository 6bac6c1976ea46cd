"""
What batteries can hook on to, and what a running server knows about itself: attributes of the application.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import tornado.web
from pymongo.monitoring import CommandListener

from indico.core.http.dispatch import Dispatcher
from indico.error import IndicoError


class Request(Protocol):
    """A request in flight, as the server sees it: its handler."""

    def abort_with(self, error: IndicoError) -> None: ...


@dataclass
class Hooks:
    """
    The hooks of an application. A battery's `install` adds to them:

        application.hooks.before_action.append(check)
    """

    # Give names and values of headers to add to a response.
    response_headers: list[Callable[[Any], Iterable[tuple[str, str]]]] = field(default_factory=list)
    # Awaited before an action runs. What it raises is the response, and the action does not run.
    before_action: list[Callable[[Any], Awaitable[None]]] = field(default_factory=list)
    # Called when a request begins. Returns a function to call when it ends.
    around_request: list[Callable[[Any], Callable[[], object]]] = field(default_factory=list)
    # Entered when the server starts, in the process that serves, and left when it stops.
    lifespans: list[Callable[[Application], AbstractAsyncContextManager[None]]] = field(default_factory=list)
    # Told of each of MongoDB's commands, by the clients that are made after that.
    mongo_listeners: list[CommandListener] = field(default_factory=list)
    # Names and paths of pages that development prints when the server starts.
    welcome_pages: dict[str, str] = field(default_factory=dict)
    # More statuses that the API's description lists for an action of this name.
    extra_statuses: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class ServerState:
    """What a running server knows about itself."""

    in_flight: set[Request] = field(default_factory=set)  # those without a response
    draining: bool = False  # the server is going down
    worker: int | None = None  # the number of this worker process, from 0
    mongod_folder: Path | None = None  # the data of the mongod that this process started


class DatabaseRoom(Protocol):
    """What the server asks of `indico.db`."""

    def connect(self, *, listeners: Sequence[CommandListener] = ()) -> None: ...
    async def close(self) -> None: ...
    async def ensure_indexes(self) -> None: ...
    def watch(
        self, collection: str, pipeline: list[dict[str, Any]], heartbeat: int, /
    ) -> AsyncIterator[dict[str, Any] | None]: ...


class Application(Dispatcher):
    """Tornado's application, with hooks, a state and a database."""

    def __init__(self, *args: Any, database: DatabaseRoom, **settings: Any) -> None:
        self.database = database
        self.hooks = Hooks()
        self.state = ServerState()
        super().__init__(*args, **settings)


NO_HOOKS = Hooks((), (), (), (), (), {}, {})  # type: ignore[arg-type] # nothing can be added to them
_plain_states: WeakKeyDictionary[tornado.web.Application, ServerState] = WeakKeyDictionary()


def get_hooks(application: tornado.web.Application) -> Hooks:
    """The hooks of an application. A plain one of Tornado's has none."""
    return application.hooks if isinstance(application, Application) else NO_HOOKS


def get_state(application: tornado.web.Application) -> ServerState:
    """The state of an application, also of a plain one of Tornado's."""
    if isinstance(application, Application):
        return application.state
    return _plain_states.setdefault(application, ServerState())
