"""
Stores uploads in pieces, and reads them again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

from bson.objectid import ObjectId

import indico.batteries.files.file_db as FileDB
from indico.batteries.files.file_db import CHUNK_SIZE, StoredFile
from indico.core.mongo.helper import begin_request
from indico.core.tasks import spawn
from indico.error import IndicoError
from indico.utils import Upload


async def save_file(upload: Upload, user_id: str) -> StoredFile:
    """
    Store an upload as a file of this user. If this fails or is cancelled, the stored pieces are deleted.
    Each piece of it may take MONGODB_TIMEOUT. Raises NotFound if there is no such user.
    """
    document = FileDB.make_document(upload, user_id)
    file_id = document["_id"]
    saving = spawn(FileDB.insert_file(document))
    try:
        await asyncio.shield(saving)
        await asyncio.to_thread(upload.file.seek, 0)
        number = 0
        while data := await asyncio.to_thread(upload.file.read, CHUNK_SIZE):
            begin_request()
            saving = spawn(FileDB.insert_chunk({"files_id": file_id, "n": number, "data": data}))
            await asyncio.shield(saving)
            number += 1
        begin_request()
        saving = spawn(FileDB.complete(file_id, user_id, upload.size))
        await asyncio.shield(saving)
    except BaseException:
        spawn(discard(file_id, saving))
        raise
    return FileDB.describe({**document, "length": upload.size})


async def discard(file_id: ObjectId, saving: asyncio.Task[None]) -> None:
    """Delete a file that could not be stored, after the operation that runs."""
    await asyncio.wait([saving])
    begin_request()
    with suppress(IndicoError):  # the document of the file is then still there
        await FileDB.delete_file(file_id)


async def read_file(file: StoredFile, part: range) -> AsyncIterator[bytes]:
    """Yield these bytes of a file. Each piece may take MONGODB_TIMEOUT. Raises NotFound if it is deleted."""
    for number in range(part.start // CHUNK_SIZE, -(-part.stop // CHUNK_SIZE)):
        begin_request()
        data = await FileDB.read_chunk(file["file"], number)
        start = number * CHUNK_SIZE
        yield data[max(part.start - start, 0) : part.stop - start]
