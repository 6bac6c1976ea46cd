"""
The database: one file of helpers for each collection.

`CLIENT` and `mongodb`, the current database, are made when they are first used, or by `connect`. Both can be
replaced at any time, and helpers then use the new ones. Therefore a helper writes `db.mongodb.user`, and
never imports `mongodb` itself.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from pymongo.monitoring import CommandListener

from indico import config
from indico.core.mongo import drivers, helper, indexes
from indico.core.mongo.drivers import Client, Database
from indico.core.mongo.helper import Callback as Callback
from indico.core.mongo.helper import mongo as mongo
from indico.core.mongo.indexes import INDEXES as INDEXES
from indico.core.mongo.indexes import index as index
from indico.core.mongo.updates import Document as Document
from indico.core.mongo.updates import DocumentOf as DocumentOf
from indico.core.mongo.updates import Schema as Schema
from indico.core.mongo.updates import check_fields as check_fields
from indico.core.mongo.updates import check_size as check_size
from indico.core.mongo.updates import empty_document as empty_document
from indico.core.mongo.updates import mongo_obj as mongo_obj
from indico.core.mongo.updates import parse_id as parse_id
from indico.core.mongo.updates import refuse_changes as refuse_changes
from indico.core.mongo.updates import update_document as update_document
from indico.core.mongo.user_data import export_data as export_data
from indico.core.mongo.user_data import on_export as on_export
from indico.core.mongo.user_data import on_remove as on_remove
from indico.core.mongo.user_data import remove_data as remove_data

CLIENT: Client
mongodb: Database


def connect(
    uri: str | None = None, database: str | None = None, listeners: Sequence[CommandListener] = ()
) -> None:
    """
    Make the client for this event loop, and set `CLIENT` and `mongodb`. Nothing is sent yet. Each of
    `listeners` is called for every command.

    A client belongs to the event loop that first uses it, and can't be used after a fork: each loop connects
    and closes its own. Raises SettingError for a URI that the driver can't read, and for a driver that is not
    installed.
    """
    global CLIENT, mongodb
    CLIENT = drivers.make_client(uri or config.MONGODB, listeners)
    mongodb = drivers.make_database(CLIENT, database or config.MONGODB_DATABASE)


def get_database() -> Database:
    """Return `mongodb`. Connects if necessary."""
    if "mongodb" not in globals():
        connect()
    return mongodb


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
        with suppress(TimeoutError):  # MongoDB may be unreachable
            await helper.wait_for(closing, 1)
    await helper.cancel_operations()


async def ensure_indexes() -> None:
    """Make the declared indexes that do not exist. Raises Unavailable if MongoDB can't be reached."""
    await indexes.ensure_indexes(get_database())


def register_user_data(collection: str) -> None:
    """Export and remove the documents in a collection that have a user's id as `user_id` with the user."""

    @mongo
    async def export(user_id: str) -> Document:
        return {collection: await get_database()[collection].find({"user_id": user_id}).to_list()}

    @mongo
    async def remove(user_id: str) -> None:
        await get_database()[collection].delete_many({"user_id": user_id})

    on_export(export)
    on_remove(remove)


def describe() -> str:
    """Return the database's name and hosts: `indico at localhost:27017`."""
    return drivers.describe(config.MONGODB, config.MONGODB_DATABASE)


def current_time() -> int:
    """Return the time in UTC milliseconds."""
    return time.time_ns() // 1_000_000
