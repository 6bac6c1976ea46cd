"""
The connection to MongoDB, and the one seam that every helper goes through.

`CLIENT` and `mongodb`, the database in use, are made when they are first asked for, or by `connect`. Both
may be replaced at any time, and the helpers then use the new ones; so a helper says `db.mongodb.user` and
never imports `mongodb` itself.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import inspect
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload
from urllib.parse import urlsplit

from bson.errors import BSONError, InvalidDocument, InvalidId
from bson.objectid import ObjectId
from pymongo import IndexModel
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)
from pymongo.monitoring import CommandListener
from pymongo.synchronous import monitor
from pymongo.uri_parser import parse_uri, split_options

from indico import config
from indico.core.timers import call_within
from indico.core.types import Description, compile_type, make_empty
from indico.error import InvalidValue, MongoError, Unavailable, shorten
from indico.utils import LOGGER, check_shape, check_type, levels, spawn

if TYPE_CHECKING:
    from typing_extensions import Unpack

Document = dict[str, Any]
Schema = dict[str, tuple[Any, bool]]  # field: (type, required); see indico.core.types
P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Callback = Callable[[Any, Any], Any]  # called with (result, error), one of which is None
Update = Callable[Concatenate[Document, P], Coroutine[Any, Any, T]]

CLIENT: Any
mongodb: Any


@dataclass(frozen=True, eq=False)
class Follows(Description):
    """
    What the API's description says of a document, so that it need not be written twice: `Annotated[Document,
    Follows(USER_SCHEMA)]` is one as stored. One that clients send may be a `part` of it, with some fields
    `ignored` or `refused`. It is `mongo_obj` that checks.
    """

    schema: Schema
    part: bool = False
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = handler(source)
        return {**schema, "metadata": {**schema.get("metadata", {}), "document": self}}  # for core.openapi


DRIVERS = {
    "motor": ("motor", "MotorClient"),
    "pymongo": ("pymongo", "AsyncMongoClient"),
    "mongojet": ("indico.core.mongo.mongojet", "Client"),
}
INDEXES: list[tuple[str, IndexModel]] = []  # what `index` was told: (collection, index)
LISTENERS: list[CommandListener] = []  # told of each command by the clients that `connect` makes from then on

FIELD_NAME = r"[^$.\u0000][^.\u0000]*"
MAX_FIELDS = 200  # of an update; MongoDB's time for them grows with their square

_waited: ContextVar[list[float] | None] = ContextVar("waited", default=None)  # seconds, of this request

_operations: set[asyncio.Future[Any]] = set()  # those under way, also when nobody waits for them any more

# What MongoDB says of an index whose name or fields another has.
CONFLICTS = {85, 86}

# By these a server says that it is not, or no longer, the one to ask: it steps down, or ends.
NOT_PRIMARY = {91, 189, 10058, 10107, 11600, 11602, 13435, 13436}

# What the server says of a document that has grown beyond 16 MB or is nested too deep.
REFUSED_DOCUMENT = {15, 10334, 17260, 17419, 17420}


def connect(uri: str | None = None, database: str | None = None) -> None:
    """
    Make the client for this event loop, and set `CLIENT` and `mongodb`. Nothing is sent yet.

    A client belongs to the event loop that first uses it and does not survive a fork: each loop connects
    and closes its own. Raises SettingError for a URI that the driver can't read,
    and for a driver that is not installed.
    """
    global CLIENT, mongodb
    module, name = DRIVERS[config.MONGODB_DRIVER]
    uri = uri or config.MONGODB
    milliseconds = int(config.MONGODB_TIMEOUT * 1000)
    options = {
        "w": "majority",
        "journal": True,
        "serverSelectionTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds,  # or Motor's few threads wait for ever, and with them all requests
        # One that went silent is given up, and one that is back is found, within two seconds.
        "connectTimeoutMS": min(milliseconds, 1000),
        "heartbeatFrequencyMS": 500,
        "waitQueueTimeoutMS": milliseconds,
        # What another program stored is read as well as it can be.
        "unicode_decode_error_handler": "replace",
        "datetime_conversion": "DATETIME_AUTO",
    }
    logging.getLogger("pymongo").setLevel(logging.INFO)  # below, it quotes whole documents
    try:
        make_client = getattr(importlib.import_module(module), name)
        query = uri.partition("?")[2]
        given = split_options(query) if query else {}
        options = {key: value for key, value in options.items() if key not in given}
        CLIENT = make_client(uri, event_listeners=list(LISTENERS), **options)
    except ModuleNotFoundError as error:
        driver = config.MONGODB_DRIVER
        raise config.SettingError(
            f"MONGODB_DRIVER is {driver}, but it is not installed: pip install -e '.[{driver}]' brings it."
        ) from error
    except (ConfigurationError, InvalidURI, OSError, ValueError) as error:  # OSError: a file that it names
        # Where a password is not escaped as it should be, PyMongo quotes parts of it.
        hint = "look at its host and options, and whether user and password are percent-encoded."
        reason = hint if "@" in uri else str(error)
        raise config.SettingError(f"MONGODB can't be used: {reason}") from error
    mongodb = CLIENT[database or config.MONGODB_DATABASE]
    shipped = dir(mongodb)  # a collection may have the name of something else there, such as "client"
    for collection, _ in INDEXES:  # or each access makes another object, a twelfth of an update's time
        if collection not in shipped:
            setattr(mongodb, collection, mongodb[collection])


def describe() -> str:
    """The database and where it is, `indico at localhost:27017`: of the URI nothing but the hosts."""
    if config.MONGODB.startswith("mongodb+srv:"):  # the name in DNS that knows the hosts
        hosts = [str(urlsplit(config.MONGODB).hostname)]
    else:
        hosts = [f"{host}:{port}" if port else host for host, port in parse_uri(config.MONGODB)["nodelist"]]
    return f"{config.MONGODB_DATABASE} at {', '.join(hosts)}"


def __getattr__(name: str) -> Any:
    if name not in ("CLIENT", "mongodb"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    connect()
    return globals()[name]


async def close() -> None:
    """Close the client, if there is one. The next use of `CLIENT` or `mongodb` makes another."""
    globals().pop("mongodb", None)
    client = globals().pop("CLIENT", None)
    closing = client.close() if client is not None else None
    if inspect.isawaitable(closing):
        with suppress(asyncio.TimeoutError):  # it says goodbye to a MongoDB that may not answer
            await _wait_for(closing, 1)
    for task in _operations:
        task.cancel()
    if _operations:
        await asyncio.wait(_operations, timeout=1)
    # PyMongo would have the process wait, at its end, for half a second: until the threads of Motor's client
    # wake and see that it is closed.
    atexit.unregister(getattr(monitor, "_shutdown_resources", close))


def index(collection: str, *fields: str, **options: Any) -> None:
    """
    Have `ensure_indexes` make an index on these fields, with PyMongo's options, such as `unique=True`. Call
    it beside the helpers that look there.
    """
    INDEXES.append((collection, IndexModel([(field, 1) for field in fields], **options)))


async def ensure_indexes() -> None:
    """
    Make the indexes that are not there yet. Data that one can't be made on is named in the log, and stops
    nothing. Raises Unavailable when MongoDB can't be reached.
    """
    for collection, model in INDEXES:
        try:
            await _bounded(mongodb[collection].create_indexes([model]))
        except MongoError as error:
            if getattr(error.__cause__, "code", None) in CONFLICTS:
                place = f"{collection}.{model.document['name']}"
                LOGGER.error("MongoDB has %s otherwise; see `python -m indico.migrate`", place)
                continue
            fields = list(model.document["key"])
            LOGGER.error("No index on %s of %s: %s", ", ".join(fields), collection, _first_line(error))
            for double in await _find_doubles(collection, fields):
                LOGGER.error(
                    "%s has several documents with %s; see `python -m indico.mend`", collection, double
                )


async def watch(collection: str, pipeline: list[Document], heartbeat: int) -> AsyncIterator[Document | None]:
    """
    The changes of a collection, as a change stream tells them: each as soon as it is made, and None at first
    and whenever there was none for `heartbeat` milliseconds. Ends when the collection is dropped. Raises
    Unavailable, and MongoError where MongoDB has no change streams, as a single server.
    """
    opening = mongodb[collection].watch(pipeline, max_await_time_ms=heartbeat)
    stream = await _bounded(opening) if inspect.isawaitable(opening) else opening
    await _bounded(stream.__aenter__())  # which is where Motor opens it
    yield None
    while stream.alive:
        yield await _bounded(stream.try_next())


async def _find_doubles(collection: str, fields: list[str]) -> list[Document]:
    """What more than one document has in these fields, the first hundred such."""
    pipeline = [
        {"$group": {"_id": {field: f"${field}" for field in fields}, "count": {"$sum": 1}}},
        {"$match": {"count": {"$gt": 1}}},
        {"$limit": 100},
    ]
    # As a command, because the drivers' own methods differ here.
    answer = await _bounded(mongodb.command("aggregate", collection, pipeline=pipeline, cursor={}))
    return [group["_id"] for group in answer["cursor"]["firstBatch"]]


def _first_line(error: MongoError) -> str:
    return str(error.__cause__).partition(", full error")[0]


def current_time() -> int:
    """The time in UTC milliseconds."""
    return time.time_ns() // 1_000_000


class Helper(Protocol[P, T_co]):
    """A helper that is awaited, or called with one more argument: the function to call back."""

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T_co]: ...
    @overload
    def __call__(self, *args: Unpack[tuple[Unpack[tuple[Any, ...]], Callback]]) -> None: ...


def mongo(function: Callable[P, Coroutine[Any, Any, T]]) -> Helper[P, T]:
    """
    Make a coroutine function a database helper: the only place that copies what it is given, bounds its
    time, translates its errors and adapts callbacks.

    Called with one more argument, a function, the helper calls it on the event loop with `(result, None)`
    or `(None, error)`; otherwise it returns an awaitable. Raises, or passes on, Unavailable when MongoDB
    does not answer within MONGODB_TIMEOUT, which all calls of a request share, InvalidValue for a document
    that can't be stored, MongoError for anything else that MongoDB refuses, and what the function raises.
    """

    @functools.wraps(function)
    def helper(*args: Any, **kwargs: Any) -> Any:
        callback = args[-1] if args and callable(args[-1]) else None
        copied = [_copy(argument) for argument in (args[:-1] if callback else args)]
        named = {name: _copy(argument) for name, argument in kwargs.items()}
        call = _bounded(function(*copied, **named))
        if callback is None:
            return call
        spawn(_call_back(call, callback))
        return None

    return cast("Helper[P, T]", helper)


def _copy(value: Any, level: int = 1) -> Any:
    # copy.deepcopy would also copy what is no document, and takes ten times as long. What is nested too
    # deep to be stored need not be copied whole.
    if isinstance(value, dict) and level < 200:
        return {key: _copy(member, level + 1) for key, member in value.items()}
    if isinstance(value, list) and level < 200:
        return [_copy(member, level + 1) for member in value]
    return value


def begin_request() -> None:
    """From here on this task, and those that it starts, wait for MongoDB for MONGODB_TIMEOUT in all."""
    _waited.set([0.0])


async def _bounded(operation: Awaitable[T]) -> T:
    waited = _waited.get() or [0.0]
    began = time.monotonic()
    try:
        return await _wait_for(operation, max(config.MONGODB_TIMEOUT - waited[0], 0))
    except asyncio.TimeoutError as error:
        raise Unavailable("The database did not answer in time") from error
    except (DocumentTooLarge, InvalidDocument, OverflowError, UnicodeEncodeError) as error:
        raise InvalidValue("The document can't be stored: BSON does not hold it") from error
    except OperationFailure as error:
        if error.code in REFUSED_DOCUMENT:
            raise InvalidValue("The document can't be stored: it is too large or too deep") from error
        # PyMongo reads the code of an operation, but not that of its write concern.
        if error.timeout or error.has_error_label("RetryableWriteError") or error.code in NOT_PRIMARY:
            raise Unavailable("The database can't take this at the moment") from error
        raise MongoError("The database refused the operation") from error
    except ConnectionFailure as error:
        raise Unavailable("The database can't be reached") from error
    except (PyMongoError, BSONError) as error:
        raise MongoError("The database refused the operation") from error
    finally:
        waited[0] += time.monotonic() - began


async def _wait_for(operation: Awaitable[T], seconds: float) -> T:
    # What takes longer is left alone, and ends by itself (socketTimeoutMS). asyncio.wait_for would cancel it
    # and wait for its end, and a lock of PyMongo's that is cancelled so was seen to stay locked for good.
    # asyncio.wait would do, but takes twice the time of this.
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()
    task = loop.create_task(_settle(operation, outcome))
    _operations.add(task)
    task.add_done_callback(_operations.discard)
    give_up = functools.partial(_give_up, outcome)
    companions = call_within(seconds, give_up)
    try:
        return await outcome
    finally:
        companions.discard(give_up)


async def _settle(operation: Awaitable[T], outcome: asyncio.Future[T]) -> None:
    # The outcome is done already when nobody waits for it any more.
    try:
        result = await operation
    except (Exception, asyncio.CancelledError) as error:
        if not outcome.done():
            outcome.set_exception(error)
    else:
        if not outcome.done():
            outcome.set_result(result)


def _give_up(outcome: asyncio.Future[Any]) -> None:
    with suppress(asyncio.InvalidStateError):  # it came at the same moment
        outcome.set_exception(asyncio.TimeoutError())


async def _call_back(call: Coroutine[Any, Any, Any], callback: Callable[[Any, Any], Any]) -> None:
    result, error = None, None
    try:
        result = await call
    except Exception as problem:
        error = problem
    try:
        callback(result, error)
    except Exception:
        LOGGER.exception("The callback of a database helper failed")


def mongo_obj(schema: Schema, ignore: tuple[str, ...] = ()) -> Callable[[Update[P, T]], Update[P, T]]:
    """
    Hold the first argument of a helper, an update such as `{"$set": {...}}`, to a schema, and leave the
    fields named in `ignore` out of its `$set`. Stands below `@mongo`.

    Fields of the schema have its types, others any. No field name, at any depth, is empty, begins with `$`
    or holds a dot or NUL. Raises WrongFieldType and InvalidValue; and TypeError for plain fields, because
    a helper that took them as well would run the operators that a client sends among them.
    """

    for kind, _ in schema.values():
        compile_type(kind)  # a TypeError at import, not at the first update

    def decorator(function: Update[P, T]) -> Update[P, T]:
        @functools.wraps(function)
        async def checked(update_dic: Document, /, *args: P.args, **kwargs: P.kwargs) -> T:
            if not all(name.startswith("$") for name in update_dic):
                raise TypeError('an update holds operators: {"$set": {...}}')
            fields = {name: value for name, value in update_dic.get("$set", {}).items() if name not in ignore}
            check_fields(fields, schema)
            return await function({**update_dic, "$set": fields}, *args, **kwargs)

        return checked

    return decorator


def check_fields(fields: Document, schema: Schema) -> None:
    """Raise WrongFieldType or InvalidValue unless these fields of a document may be stored."""
    check_shape(fields)
    if len(fields) > MAX_FIELDS:
        raise InvalidValue(f"An update has at most {MAX_FIELDS} fields")
    names = (name for level in levels(fields) for part in level if isinstance(part, dict) for name in part)
    for name in names:
        if not re.fullmatch(FIELD_NAME, name):
            raise InvalidValue(f"The field name {name[:100]!r} is empty, begins with $ or holds a dot or NUL")
    for name, value in fields.items():
        if name in schema:
            check_type(name, value, schema[name][0])


def blank(schema: Schema) -> Document:
    """The required fields of a schema, each with its type's empty value."""
    return {field: make_empty(kind) for field, (kind, required) in schema.items() if required}


def parse_id(text: str) -> ObjectId:
    """The `_id` that a client sends as it got it, 24 hex digits. Raises InvalidValue."""
    try:
        return ObjectId(text)
    except InvalidId as error:
        raise InvalidValue(f"{shorten(text)} is no id: it should be 24 hex digits") from error


def refuse_changes(update_dic: Document, fields: tuple[str, ...]) -> None:
    """Raise InvalidValue when any operator of an update is about one of these fields."""
    for field in fields:
        if any(field in changes for changes in update_dic.values()):
            raise InvalidValue(f"Field {field} can't be changed")
