"""
Database helpers: copied arguments, one timeout, translated errors, callbacks.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, ParamSpec, Protocol, TypeVar, cast, overload

from bson.errors import BSONError, InvalidDocument
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    OperationFailure,
    PyMongoError,
)

from indico import config
from indico.core.log import LOGGER
from indico.core.tasks import spawn
from indico.core.timers import Timer, call_after
from indico.error import IndicoError, InvalidValue, MongoError, Unavailable

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Callback = Callable[[Any, Any], Any]  # called with (result, error), one of which is None

MAX_COPIED_LEVELS = 200  # MongoDB stores half as many
NOT_PRIMARY = {91, 189, 10058, 10107, 11600, 11602, 13435, 13436}  # codes: stepping down, shutting down
REFUSED_DOCUMENT = {15, 10334, 17260, 17419, 17420}  # codes: too large, nested too deeply
# Codes of what the operator of MongoDB can change, or time.
UNAVAILABLE = NOT_PRIMARY | {
    *(13, 18),  # the user does not exist yet, or has no rights yet
    *(6, 7, 89, 202, 317, 384, 9001),  # another member or a shard can't be reached
    *(133, 134, 262, 365, 462, 16500),  # no member can serve it, or too many operations at once
    *(8000, 12501, 14031),  # out of disk or quota
}
UNAVAILABLE_LABELS = ("RetryableWriteError", "RetryableError", "SystemOverloadedError")
DATABASE_ERRORS = (TimeoutError, PyMongoError, BSONError, OverflowError, UnicodeEncodeError)

_operations: set[asyncio.Future[Any]] = set()  # in progress, including those whose callers have timed out


class Helper(Protocol[P, T_co]):
    """A helper. It is awaited, or called with a callback as its last argument."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...
    @overload
    def __call__(self, *args: *tuple[*tuple[Any, ...], Callback]) -> None: ...


def mongo(function: Callable[P, Coroutine[Any, Any, T]]) -> Helper[P, T]:
    """
    Make a coroutine function a database helper. This is the only place that copies arguments, sets the
    timeout, translates errors and adapts callbacks.

    If the last argument is a function, the helper calls it on the event loop with `(result, None)` or `(None,
    error)`. Otherwise it returns an awaitable. Raises Unavailable if MongoDB does not respond within
    MONGODB_TIMEOUT (all calls of a request share it), InvalidValue if a document can't be stored, MongoError
    if MongoDB rejects the operation for any other reason, and the errors of the function itself.
    """

    @functools.wraps(function)
    def helper(*args: Any, **kwargs: Any) -> Any:
        callback = args[-1] if args and callable(args[-1]) else None
        copied = [_copy(argument) for argument in (args[:-1] if callback else args)]
        named = {name: _copy(argument) for name, argument in kwargs.items()}
        call = bounded(function(*copied, **named))
        if callback is None:
            return call
        spawn(_call_back(call, callback))
        return None

    vars(helper)["helper_of"] = function  # `mongo_obj` needs it when it stands above
    return cast("Helper[P, T]", helper)


def _copy(value: Any, level: int = 1) -> Any:
    # copy.deepcopy would also copy other objects than documents, and takes ten times as long.
    if isinstance(value, dict) and level < MAX_COPIED_LEVELS:
        return {key: _copy(member, level + 1) for key, member in value.items()}
    if isinstance(value, list) and level < MAX_COPIED_LEVELS:
        return [_copy(member, level + 1) for member in value]
    return value


async def _call_back(call: Coroutine[Any, Any, Any], callback: Callback) -> None:
    result, error = None, None
    try:
        result = await call
    except Exception as problem:
        error = problem
    try:
        callback(result, error)
    except Exception:
        LOGGER.exception("The callback of a database helper failed")


# Time


class Budget:
    """The time that the operations of a request have used of MONGODB_TIMEOUT."""

    spent = 0.0  # seconds


_budget: ContextVar[Budget | None] = ContextVar("budget", default=None)


def begin_request() -> None:
    """Start a budget: from now on, this task and the tasks that it starts share one MONGODB_TIMEOUT."""
    _budget.set(Budget())


async def bounded(operation: Awaitable[T]) -> T:
    """Await a driver's operation within the request's budget. Raises the errors that `mongo` documents."""
    budget = _budget.get() or Budget()
    began = time.monotonic()
    try:
        return await wait_for(operation, max(config.MONGODB_TIMEOUT - budget.spent, 0))
    except DATABASE_ERRORS as error:
        raise translate(error) from error
    finally:
        budget.spent += time.monotonic() - began


def wait_for(operation: Awaitable[T], seconds: float) -> Awaitable[T]:
    """
    Return a future with the operation's result, or with TimeoutError if it takes longer.

    Unlike `asyncio.wait_for`, this does not cancel the operation, because that can leave a lock in PyMongo
    locked forever. The operation ends by itself after socketTimeoutMS. `asyncio.wait` takes twice as long.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    timer = call_after(seconds, functools.partial(_expire, outcome))
    task = loop.create_task(_resolve(operation, outcome, timer))
    _operations.add(task)
    return outcome


async def _resolve(operation: Awaitable[T], outcome: asyncio.Future[T], timer: Timer) -> None:
    # If the wait has timed out or was cancelled, the outcome is already done.
    try:
        result = await operation
    except (Exception, asyncio.CancelledError) as error:
        if not outcome.done():
            outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)
    finally:
        timer.cancel()
        _operations.discard(asyncio.current_task())


def _expire(outcome: asyncio.Future[Any]) -> None:
    with suppress(asyncio.InvalidStateError):  # the result arrived at the same moment
        outcome.set_exception(TimeoutError())


async def cancel_operations() -> None:
    """Cancel all operations in progress, and wait a second for them to end."""
    for task in _operations:
        task.cancel()
    if _operations:
        await asyncio.wait(_operations, timeout=1)


# Errors


def translate(error: Exception) -> IndicoError:
    """Return the response for one of DATABASE_ERRORS."""
    if isinstance(error, TimeoutError):
        return Unavailable("The database did not respond in time")
    if isinstance(error, InvalidDocument) and not isinstance(error, DocumentTooLarge):
        # Clients can send names with NUL, but no value of a type that BSON lacks.
        if "NULL byte" not in str(error):
            return MongoError("The document can't be stored: BSON lacks the type of a value")
        return InvalidValue("The document can't be stored: a field name contains NUL")
    if isinstance(error, (InvalidDocument, OverflowError, UnicodeEncodeError)):
        return InvalidValue("The document can't be stored: it contains a value that BSON lacks")
    # The driver raises ConfigurationError if the name can't be resolved, or MongoDB is too old.
    if isinstance(error, (ConnectionFailure, ConfigurationError)):
        return Unavailable("The database can't be reached")
    if isinstance(error, OperationFailure):
        codes = find_codes(error)
        if codes & REFUSED_DOCUMENT:
            return InvalidValue("The document can't be stored: it is too large or too deep")
        if error.timeout or codes & UNAVAILABLE or any(map(error.has_error_label, UNAVAILABLE_LABELS)):
            return Unavailable("The database can't run this operation at the moment")
    return MongoError("The database rejected the operation")


def find_codes(error: OperationFailure) -> set[Any]:
    """Return the error's code, and those of the operations of a bulk write."""
    details = error.details or {}
    failed = [*details.get("writeErrors", ()), *details.get("writeConcernErrors", ())]
    return {error.code, *(each.get("code") for each in failed)}
