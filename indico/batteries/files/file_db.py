"""
Files of users, in the collections and the layout of GridFS: `fs.files` has a document for each file, and
`fs.chunks` one for each piece of it. The GridFS of the driver is not used. A file without `length` is not
complete.
"""

from __future__ import annotations

import datetime
from typing import Any, TypedDict

from bson.objectid import ObjectId

import indico.db.user_db as UserDB
from indico import db
from indico.db import Document, current_time, mongo, parse_id
from indico.error import NotFound
from indico.utils import Upload

CHUNK_SIZE = 255 * 1024  # bytes, as in GridFS
WHAT = "The file"

db.index("fs.files", "metadata.user_id")
db.index("fs.chunks", "files_id", "n", unique=True)


class StoredFile(TypedDict):
    file: str  # the id
    name: str
    content_type: str
    size: int  # bytes
    created: int  # UTC milliseconds


def make_document(upload: Upload, user_id: str) -> Document:
    """Return the document of a file that is about to be stored."""
    created = current_time()
    return {
        "_id": ObjectId(),
        "filename": upload.name,
        "chunkSize": CHUNK_SIZE,
        "uploadDate": datetime.datetime.fromtimestamp(created / 1000, datetime.UTC),
        "metadata": {"user_id": user_id, "content_type": upload.content_type, "created": created},
    }


def describe(document: Document) -> StoredFile:
    """Return a document of `fs.files` as clients get it."""
    metadata = document["metadata"]
    return {
        "file": str(document["_id"]),
        "name": document["filename"],
        "content_type": metadata["content_type"],
        "size": document["length"],
        "created": metadata["created"],
    }


@mongo
async def insert_file(document: Document) -> None:
    await db.mongodb["fs.files"].insert_one(document)


@mongo
async def insert_chunk(chunk: Document) -> None:
    await db.mongodb["fs.chunks"].insert_one(chunk)


@mongo
async def complete(file_id: ObjectId, user_id: str, size: int) -> None:
    """Mark the file as complete. Raises NotFound if its user was removed, before it was inserted or after."""
    found = await db.mongodb["fs.files"].update_one({"_id": file_id}, {"$set": {"length": size}})
    # A removal deletes the user before the files. So a file that it does not see has no user here.
    if not found.matched_count or await UserDB.find_user(user_id) is None:
        raise NotFound(WHAT)


@mongo
async def find(file_id: str, user_id: str) -> StoredFile:
    """Return a file of this user. Raises NotFound if there is none with this id."""
    query = {"_id": parse_id(file_id), "metadata.user_id": user_id, "length": {"$exists": True}}
    document = await db.mongodb["fs.files"].find_one(query)
    if document is None:
        raise NotFound(WHAT)
    return describe(document)


@mongo
async def find_all(user_id: str) -> list[StoredFile]:
    """Return the user's files, the oldest first."""
    query = {"metadata.user_id": user_id, "length": {"$exists": True}}
    found = db.mongodb["fs.files"].find(query).sort("_id", 1)
    return [describe(document) async for document in found]


@mongo
async def read_chunk(file_id: str, number: int) -> bytes:
    chunk = await db.mongodb["fs.chunks"].find_one({"files_id": ObjectId(file_id), "n": number})
    if chunk is None:
        raise NotFound(WHAT)
    return bytes(chunk["data"])


@mongo
async def remove(file_id: str, user_id: str) -> None:
    """Delete a file of this user. Raises NotFound if there is none with this id."""
    query = {"_id": parse_id(file_id), "metadata.user_id": user_id}
    found = await db.mongodb["fs.files"].update_one(query, {"$unset": {"length": ""}})
    if not found.matched_count:
        raise NotFound(WHAT)
    await delete(query["_id"])


@mongo
async def delete_file(file_id: ObjectId) -> None:
    await delete(file_id)


async def delete(file_id: Any) -> None:
    """Delete the pieces, then the document of the file. If that fails, it can be repeated."""
    database = db.mongodb  # after the first operation, the server may have stopped
    await database["fs.chunks"].delete_many({"files_id": file_id})
    await database["fs.files"].delete_one({"_id": file_id})


@mongo
async def remove_all(user_id: str) -> None:
    """Delete the user's files."""
    async for document in db.mongodb["fs.files"].find({"metadata.user_id": user_id}, projection=["_id"]):
        await delete(document["_id"])


async def export(user_id: str) -> Document:
    """The user's files, without their content."""
    files = await find_all(user_id)
    return {"files": files} if files else {}


db.on_remove(remove_all)
db.on_export(export)
