"""
Clients and databases.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import mongojet
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.errors import ConfigurationError, InvalidOperation
from pymongo.monitoring import CommandListener

from indico.core.mongo.mongojet.calls import Document, call
from indico.core.mongo.mongojet.collection import Collection
from indico.core.mongo.mongojet.errors import translate

# The URI options that the Rust driver knows. It rejects all others.
URI_OPTIONS = """
    appname authmechanism authmechanismproperties authsource connecttimeoutms directconnection
    heartbeatfrequencyms journal loadbalanced localthresholdms maxconnecting maxidletimems maxpoolsize
    maxstalenessseconds minpoolsize readconcernlevel readpreference readpreferencetags replicaset retryreads
    retrywrites servermonitoringmode serverselectiontimeoutms srvmaxhosts srvservicename ssl tls
    tlsallowinvalidcertificates tlscafile tlscertificatekeyfile tlsinsecure w wtimeoutms
"""
MAX_POOL_SIZE = 100  # connections, PyMongo's default; the Rust driver's is ten

_process: int | None = None  # pid of the process that runs the Rust driver's threads


class Client:
    """
    A client for a MongoDB URI, with PyMongo's options. It connects when it is first used.

    Raises PyMongo's errors, and ConfigurationError for options that the Rust driver does not support.
    """

    def __init__(self, uri: str, event_listeners: Sequence[CommandListener] = (), **options: Any) -> None:
        self.pymongo: AsyncMongoClient[Document] = AsyncMongoClient(
            uri, event_listeners=event_listeners, **options
        )
        self.write_concern = self.pymongo.write_concern
        self.listeners = event_listeners
        self._uri = add_options(uri, {"maxPoolSize": MAX_POOL_SIZE, **options})
        if not self.write_concern.acknowledged:
            raise ConfigurationError("mongojet does not take w=0")
        self._opened: mongojet.Client | None = None
        self._lock = asyncio.Lock()
        self._is_closed = False

    def __getitem__(self, name: str) -> Database:
        return Database(self, name)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.pymongo, name)
        return self[name] if isinstance(found, AsyncDatabase) else found

    async def open(self) -> mongojet.Client:
        """Return mongojet's client. The first call makes it."""
        global _process
        async with self._lock:
            if self._is_closed:
                raise InvalidOperation("Cannot use a client after close")
            if self._opened is None:
                if _process is None:
                    # If a thread of the Rust driver calls Python after Python has ended, the process aborts.
                    # This pause lets the threads finish first.
                    atexit.register(time.sleep, 0.05)
                elif _process != os.getpid():
                    raise ConfigurationError("mongojet was used before the process was forked")
                _process = os.getpid()
                try:
                    self._opened = await mongojet.create_client(self._uri)
                except (mongojet.PyMongoError, ValueError) as error:
                    problem = translate(error)
                    raise ConfigurationError(str(problem)) if problem is error else problem from None
            return self._opened

    async def close(self) -> None:
        """Close the client permanently. Operations in progress fail."""
        async with self._lock:
            self._is_closed = True
            opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()
        await self.pymongo.close()


def add_options(uri: str, options: Mapping[str, Any]) -> str:
    """Add PyMongo's options to the URI, except those that it has or that the Rust driver does not know."""
    known = set(URI_OPTIONS.split())
    given = {name.lower(): name for name, _ in parse_qsl(uri.partition("?")[2])}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise ConfigurationError(f"mongojet does not take the option {given[unknown[0]]}")
    added = urlencode(
        {name: str(value).lower() for name, value in options.items() if name.lower() in known - given.keys()}
    )
    address, _, query = uri.partition("?")
    if "/" not in address.partition("://")[2]:
        address += "/"
    return f"{address}?{query}&{added}" if query else f"{address}?{added}"


class Database:
    """A database. Its attributes and items are its collections."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name
        self.pymongo: AsyncDatabase[Document] = client.pymongo[name]
        self._collections: dict[str, Collection] = {}
        self._opened: mongojet.Database | None = None

    def __getitem__(self, name: str) -> Collection:
        if name not in self._collections:
            self._collections[name] = Collection(self, name)
        return self._collections[name]

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.pymongo, name)
        return self[name] if isinstance(found, AsyncCollection) else found

    async def open(self) -> mongojet.Database:
        """Return mongojet's database. The first call makes it."""
        if self._opened is None:
            client = await self.client.open()
            self._opened = client.get_database(self.name, codec_options=self.pymongo.codec_options)
        return self._opened

    async def command(self, command: str | Mapping[str, Any], value: Any = 1, **options: Any) -> Document:
        document = {command: value, **options} if isinstance(command, str) else {**command, **options}
        opened = self._opened or await self.open()
        reply: Document = await call(self, next(iter(document)), opened.run_command, document)
        return reply
