"""
Indexes: declared beside the helpers that use them, and built when the server starts.
"""

from __future__ import annotations

from typing import Any

from pymongo import IndexModel

from indico.core.log import LOGGER
from indico.core.mongo.drivers import Database
from indico.core.mongo.helper import bounded
from indico.error import MongoError

CONFLICTS = {85, 86}  # codes: another index has the same name or fields

INDEXES: list[tuple[str, IndexModel]] = []  # declared: (collection, index)


def index(collection: str, *fields: str, **options: Any) -> None:
    """
    Declare an index on these fields, with PyMongo's options, such as `unique=True`. Call it beside the
    helpers that need the index. The same index again changes nothing.
    """
    model = IndexModel([(field, 1) for field in fields], **options)
    if not any(place == collection and known.document == model.document for place, known in INDEXES):
        INDEXES.append((collection, model))


async def ensure_indexes(database: Database) -> None:
    """
    Build the declared indexes that do not exist. Raises Unavailable if MongoDB can't be reached, and
    MongoError if the data does not allow an index; the others are built. Logs it if MongoDB has another
    definition of an index.
    """
    problems = []
    for collection, model in INDEXES:
        try:
            await bounded(database[collection].create_indexes([model]))
        except MongoError as error:
            if getattr(error.__cause__, "code", None) in CONFLICTS:
                name = f"{collection}.{model.document['name']}"
                LOGGER.error("MongoDB has another definition of %s; see `python -m indico.migrate`", name)
            else:
                fields = ", ".join(model.document["key"])
                reason = str(error.__cause__).partition(", full error")[0]
                problems.append(f"No index on {fields} of {collection}: {reason}")
    if problems:
        raise MongoError("; ".join(problems))
