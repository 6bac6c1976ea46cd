"""
Indexes: declared beside the helpers that use them, and made when the server starts.
"""

from __future__ import annotations

from typing import Any

from pymongo import IndexModel

from indico.core.log import LOGGER
from indico.core.mongo.drivers import Database
from indico.core.mongo.helper import bounded
from indico.error import MongoError

CONFLICTS = {85, 86}  # MongoDB's codes for an index whose name or fields another index has

INDEXES: list[tuple[str, IndexModel]] = []  # those that were declared: (collection, index)


def index(collection: str, *fields: str, **options: Any) -> None:
    """
    Declare an index on these fields, with PyMongo's options, such as `unique=True`. Call it beside the
    helpers that need the index.
    """
    INDEXES.append((collection, IndexModel([(field, 1) for field in fields], **options)))


async def ensure_indexes(database: Database) -> None:
    """
    Make the declared indexes that do not exist. An index that the data does not allow is named in the log,
    and the next one is made. Raises Unavailable if MongoDB can't be reached.
    """
    for collection, model in INDEXES:
        try:
            await bounded(database[collection].create_indexes([model]))
        except MongoError as error:
            if getattr(error.__cause__, "code", None) in CONFLICTS:
                place = f"{collection}.{model.document['name']}"
                LOGGER.error("MongoDB has another definition of %s; see `python -m indico.migrate`", place)
            else:
                fields = ", ".join(model.document["key"])
                reason = str(error.__cause__).partition(", full error")[0]
                LOGGER.error("No index on %s of %s: %s", fields, collection, reason)
