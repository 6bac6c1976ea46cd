"""
The application: hooks for batteries, and the state of the running server.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

import tornado.web
from pymongo.monitoring import CommandListener
from tornado.routing import Rule, URLSpec
from tornado.websocket import WebSocketHandler

from indico.core.http.dispatch import Dispatcher
from indico.core.mongo.drivers import Database
from indico.error import IndicoError


class RequestInFlight(Protocol):
    """The interface of a request in flight, implemented by its handler."""

    def abort_with(self, error: IndicoError) -> None: ...


@dataclass
class Hooks:
    """
    The hooks of an application. A battery's `install` adds to them:

        application.hooks.before_action.append(check)
    """

    # Return names and values of headers to add to a response.
    response_headers: list[Callable[[Any], Iterable[tuple[str, str]]]] = field(default_factory=list)
    # Awaited before an action runs. An exception becomes the response, and the action does not run.
    before_action: list[Callable[[Any], Awaitable[None]]] = field(default_factory=list)
    # Called when a request begins. Returns a function to call when it ends.
    around_request: list[Callable[[Any], Callable[[], object]]] = field(default_factory=list)
    # Entered when the server starts and exited when it stops, in each process that serves.
    lifespans: list[Callable[[Application], AbstractAsyncContextManager[None]]] = field(default_factory=list)
    # Run as tasks in each process that serves, while MongoDB is connected. Cancelled when the server stops.
    background_tasks: list[Callable[[Application], Coroutine[Any, Any, None]]] = field(default_factory=list)
    # Notified of each MongoDB command by the clients that are created later.
    mongo_listeners: list[CommandListener] = field(default_factory=list)
    # Names and paths of pages. In development the server prints them when it starts.
    welcome_pages: dict[str, str] = field(default_factory=dict)
    # Additional statuses of an action, by its name, for the description of the API.
    extra_statuses: dict[str, list[int]] = field(default_factory=dict)
    # Gauges for the metrics of the running server, by name: a description, and what reads the value.
    gauges: dict[str, tuple[str, Callable[[], float]]] = field(default_factory=dict)


@dataclass
class ServerState:
    """The state of a running server."""

    in_flight: set[RequestInFlight] = field(default_factory=set)  # requests without a response
    actions: set[RequestInFlight] = field(default_factory=set)  # requests whose actions are running
    websockets: WeakSet[WebSocketHandler] = field(default_factory=WeakSet)
    running: bool = False  # within the application's lifespan
    missing: set[str] = field(default_factory=set)  # names of start-up work that is not done yet
    draining: bool = False  # the server is shutting down
    worker: int | None = None  # the number of this worker process, from 0
    mongod_folder: Path | None = None  # data folder of the mongod that this process started


class DatabaseRoom(Protocol):
    """The interface of `indico.db` that the server uses."""

    def connect(self, *, listeners: Sequence[CommandListener] = ()) -> None: ...
    async def close(self) -> None: ...
    def get_database(self) -> Database: ...
    async def ensure_indexes(self) -> None: ...


def to_rule(route: Any) -> Rule:
    return route if isinstance(route, Rule) else URLSpec(*route)


class Application(Dispatcher):
    """Tornado's application, with hooks, a state, a database, and its routes."""

    def __init__(self, handlers: Sequence[Any] = (), *, database: DatabaseRoom, **settings: Any) -> None:
        self.database = database
        self.routes = list(map(to_rule, handlers))  # those that batteries add too
        self.hooks = Hooks()
        self.state = ServerState()
        super().__init__(self.routes, **settings)

    def add_handlers(self, host_pattern: str, host_handlers: Any) -> None:
        self.routes += map(to_rule, host_handlers)
        super().add_handlers(host_pattern, host_handlers)

    def log_request(self, handler: tornado.web.RequestHandler) -> None:
        if isinstance(handler, WebSocketHandler):
            self.state.websockets.add(handler)
        super().log_request(handler)


NO_HOOKS = Hooks((), (), (), (), (), (), {}, {}, {})  # type: ignore[arg-type] # tuples, so that nothing can be added
_plain_states: WeakKeyDictionary[tornado.web.Application, ServerState] = WeakKeyDictionary()


def get_hooks(application: tornado.web.Application) -> Hooks:
    """Return the hooks of an application. Tornado's plain Application has none."""
    return application.hooks if isinstance(application, Application) else NO_HOOKS


def get_state(application: tornado.web.Application) -> ServerState:
    """Return the state of an application, including Tornado's plain Application."""
    if isinstance(application, Application):
        return application.state
    return _plain_states.setdefault(application, ServerState())
