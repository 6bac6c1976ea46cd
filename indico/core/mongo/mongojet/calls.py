"""
Calls of mongojet's methods.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import mongojet
from pymongo.monitoring import CommandFailedEvent, CommandStartedEvent, CommandSucceededEvent

from indico.core.mongo.mongojet.errors import translate

if TYPE_CHECKING:
    from indico.core.mongo.mongojet.client import Database

Document = dict[str, Any]
Method = Callable[..., Awaitable[Any]]

ADDRESS = ("", None)  # of the server: mongojet does not tell it


async def call(database: Database, command: str, method: Method, *arguments: Any, **options: Any) -> Any:
    """Call a method of mongojet. Its errors become PyMongo's, and the client's listeners are called."""
    if database.client.listeners:
        return await _call_with_listeners(database, command, method, *arguments, **options)
    try:
        return await method(*arguments, **options)
    except (mongojet.PyMongoError, ValueError) as error:
        raise translate(error) from None


async def _call_with_listeners(
    database: Database, command: str, method: Method, *arguments: Any, **options: Any
) -> Any:
    began = time.monotonic()
    about: Any = (command, 0, ADDRESS, None, None, database.name)
    for listener in database.client.listeners:
        listener.started(CommandStartedEvent({command: 1}, database.name, 0, ADDRESS, None))
    try:
        result = await method(*arguments, **options)
    except (mongojet.PyMongoError, ValueError) as error:
        problem = translate(error)
        duration = timedelta(seconds=time.monotonic() - began)
        for listener in database.client.listeners:
            listener.failed(
                CommandFailedEvent(
                    duration, getattr(problem, "details", None) or {"errmsg": str(problem)}, *about
                )
            )
        raise problem from None
    duration = timedelta(seconds=time.monotonic() - began)
    for listener in database.client.listeners:
        listener.succeeded(CommandSucceededEvent(duration, {"ok": 1}, *about))
    return result


def adapt(options: Document) -> Document:
    """Convert PyMongo's options to mongojet's: it takes documents instead of lists, and no None."""
    adapted = {name: value for name, value in options.items() if value is not None}
    for name in adapted.keys() & {"projection", "sort"}:
        adapted[name] = _fields(adapted[name])
    if "return_document" in adapted:
        adapted["return_document"] = "after" if adapted["return_document"] else "before"
    return adapted


def _fields(fields: Any) -> Document:
    if isinstance(fields, Mapping):
        return dict(fields)
    pairs = [fields] if isinstance(fields, str) else fields
    return dict((pair, 1) if isinstance(pair, str) else pair for pair in pairs)
