"""
Mends data that an older server left behind: `python -m indico.mend`.

The first servers of this design had no indexes, stored keys in clear, and took any text. What they stored
is served as well as it can be; this puts it right, for good. It may run while servers run, and again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import PyMongoError

from indico import config
from indico.db import Document, blank
from indico.db.auth_db import DIGEST
from indico.db.user_db import USER_SCHEMA

LENIENT: CodecOptions[Document] = CodecOptions(unicode_decode_error_handler="replace")


def find_doubles(database: Database[Document]) -> list[Document]:
    """The user_ids that more than one document has, each with its documents' `_id`s, the oldest first."""
    return list(
        database.user.aggregate(
            [
                {"$sort": {"_id": 1}},
                {"$group": {"_id": "$user_id", "documents": {"$push": "$_id"}}},
                {"$match": {"documents.1": {"$exists": True}}},
            ],
            allowDiskUse=True,
        )
    )


def mend_texts(database: Database[Document]) -> int:
    """Texts that are no Unicode get the replacement character for what is wrong in them."""
    mended = 0
    raw = CodecOptions(document_class=RawBSONDocument)
    for collection in (database.user, database.auth):
        for document in collection.with_options(codec_options=raw).find():
            try:
                bson.decode(document.raw)
            except BSONError:
                readable = bson.decode(document.raw, LENIENT)
                collection.replace_one({"_id": readable["_id"]}, readable)
                mended += 1
    return mended


def mend_doubles(database: Database[Document]) -> int:
    """Of several documents of a user one stays, the oldest, with what the later ones know better."""
    doubles = find_doubles(database)
    for double in doubles:
        oldest, *later = [database.user.find_one({"_id": number}) or {} for number in double["documents"]]
        merged = dict(oldest)
        for document in later:
            merged.update({name: value for name, value in document.items() if value not in ("", 0, [])})
        merged.update({name: oldest[name] for name in ("_id", "created") if name in oldest})
        database.user.replace_one({"_id": oldest["_id"]}, merged)
        database.user.delete_many({"_id": {"$in": double["documents"][1:]}})
    return len(doubles)


def mend_keys(database: Database[Document]) -> int:
    """Keys in clear are deleted: their users log in again."""
    return database.auth.delete_many({"key": {"$lt": DIGEST}}).deleted_count


def mend_fields(database: Database[Document]) -> int:
    """Required fields that a user lacks get their empty values."""
    return sum(
        database.user.update_many({name: {"$exists": False}}, {"$set": {name: value}}).modified_count
        for name, value in blank(USER_SCHEMA).items()
        if name != "user_id"
    )


STEPS: dict[str, Callable[[Database[Document]], int]] = {
    "documents with texts that are no Unicode": mend_texts,
    "users with more than one document": mend_doubles,
    "keys in clear": mend_keys,
    "required fields that users lacked": mend_fields,
}


def main() -> None:
    """Mend everything, and say of each kind how much there was."""
    try:
        config.check()
        with MongoClient[dict[str, Any]](config.MONGODB, w="majority", journal=True) as client:
            for name, step in STEPS.items():
                print(f"{step(client[config.MONGODB_DATABASE]):8} {name}", flush=True)
    except config.SettingError as error:
        sys.exit(f"Not mended: {error}")
    except PyMongoError as error:  # whose text may hold parts of the URI
        sys.exit(f"Not mended: MONGODB can't be used, {type(error).__name__}.")
