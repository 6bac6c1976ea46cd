"""
The drivers: the methods that helpers can use with each, and how its client is made.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

from pymongo import IndexModel, WriteConcern
from pymongo.asynchronous.cursor import AsyncCursor
from pymongo.errors import ConfigurationError, InvalidURI
from pymongo.monitoring import CommandListener
from pymongo.results import DeleteResult, InsertOneResult, UpdateResult
from pymongo.uri_parser import parse_uri, split_options

from indico import config

Document = dict[str, Any]
Query = Mapping[str, Any] | None
Cursor = AsyncCursor[Document]  # all drivers have sort, skip, limit, to_list and `async for`
Client = Any  # its items are its databases; its methods depend on the driver
Update = Mapping[str, Any] | Sequence[Mapping[str, Any]]

DRIVERS = {
    "motor": ("motor", "MotorClient"),
    "pymongo": ("pymongo", "AsyncMongoClient"),
    "mongojet": ("indico.core.mongo.mongojet", "Client"),
}


class Collection(Protocol):
    """A collection, with PyMongo's methods as coroutines. All drivers have the methods listed here."""

    async def find_one(self, filter: Any = None, *rest: Any, **options: Any) -> Document | None: ...
    def find(self, filter: Query = None, *rest: Any, **options: Any) -> Cursor: ...
    async def count_documents(self, filter: Query, **options: Any) -> int: ...
    async def insert_one(self, document: Any, **options: Any) -> InsertOneResult: ...
    async def update_one(self, filter: Query, update: Update, *rest: Any, **options: Any) -> UpdateResult: ...
    async def delete_one(self, filter: Query, **options: Any) -> DeleteResult: ...
    async def delete_many(self, filter: Query, **options: Any) -> DeleteResult: ...
    async def find_one_and_update(self, filter: Query, update: Update, *rest: Any, **options: Any) -> Any: ...
    async def find_one_and_delete(self, filter: Query, **options: Any) -> Any: ...
    async def create_indexes(self, indexes: Sequence[IndexModel], **options: Any) -> list[str]: ...
    def watch(self, pipeline: Any = None, **options: Any) -> Any: ...
    def __getattr__(self, name: str) -> Any: ...


class Database(Protocol):
    """A database. Its attributes and items are its collections. Other methods depend on the driver."""

    name: str

    async def command(self, command: Any, value: Any = 1, **options: Any) -> Any: ...
    def __getattr__(self, name: str) -> Collection: ...
    def __getitem__(self, name: str) -> Collection: ...


def make_client(uri: str, listeners: Iterable[CommandListener]) -> Client:
    """
    Make a client of MONGODB_DRIVER. It connects when it is first used. Raises SettingError for a URI that the
    driver can't read, and for a driver that is not installed.
    """
    module, name = DRIVERS[config.MONGODB_DRIVER]
    logging.getLogger("pymongo").setLevel(logging.INFO)  # at DEBUG it logs whole documents
    # Its own tasks log tracebacks while a member is away. What requests meet is logged by `mongo`.
    logging.getLogger("pymongo.client").setLevel(logging.CRITICAL)
    try:
        query = uri.partition("?")[2]
        given = split_options(query) if query else {}
        options = {key: value for key, value in make_options().items() if key not in given}
        if given.get("w", "majority") != "majority":  # a client could not read what it has just written
            options.pop("readConcernLevel", None)
        client: Client = getattr(importlib.import_module(module), name)(
            uri, event_listeners=list(listeners), **options
        )
    except ModuleNotFoundError as error:
        driver = config.MONGODB_DRIVER
        raise config.SettingError(
            f"MONGODB_DRIVER is {driver}, but it is not installed: pip install -e '.[{driver}]' installs it."
        ) from error
    except (ConfigurationError, InvalidURI, OSError, ValueError) as error:  # OSError: a file named in the URI
        # PyMongo's message contains parts of a password that is not escaped.
        hint = "look at its host and options, and whether user and password are percent-encoded."
        reason = hint if "@" in uri else str(error)
        raise config.SettingError(f"MONGODB can't be used: {reason}") from error
    return client


def make_options() -> dict[str, Any]:
    """Return the options of a client. Options in the URI override them."""
    milliseconds = int(config.MONGODB_TIMEOUT * 1000)
    return {
        "w": "majority",
        "journal": True,
        "readConcernLevel": "majority",
        "serverSelectionTimeoutMS": milliseconds,
        "socketTimeoutMS": milliseconds,  # without it, Motor's few threads can wait forever
        # Within two seconds, a server that stops responding is dropped, and one that returns is found.
        "connectTimeoutMS": min(milliseconds, 1000),
        "heartbeatFrequencyMS": 500,
        "waitQueueTimeoutMS": milliseconds,
        # Documents of other programs may hold invalid UTF-8, or dates that Python can't represent.
        "unicode_decode_error_handler": "replace",
        "datetime_conversion": "DATETIME_AUTO",
    }


def by_majority(collection: Collection) -> Collection:
    """Return the collection with `w=majority`. Writes wait for a majority, even if they change nothing."""
    durable: Collection = collection.with_options(write_concern=WriteConcern("majority"))
    return durable


def make_database(client: Client, name: str) -> Database:
    """Make a database that caches its collections: Motor takes 15 microseconds to make one."""
    kind: Any = type(client[name])

    class CachingDatabase(kind):  # type: ignore[misc]
        def __getattr__(self, collection: str) -> Any:
            found = self.__dict__[collection] = super().__getattr__(collection)
            return found

    database: Database = CachingDatabase(client, name)
    return database


def describe(uri: str, database: str) -> str:
    """Return the database's name and hosts, `indico at localhost:27017`, and nothing else of the URI."""
    if uri.startswith("mongodb+srv:"):  # the hosts are in DNS
        hosts = [str(urlsplit(uri).hostname)]
    else:
        hosts = [f"{host}:{port}" if port else host for host, port in parse_uri(uri)["nodelist"]]
    return f"{database} at {', '.join(hosts)}"
