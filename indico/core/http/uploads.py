"""
Uploads: the files of a `multipart/form-data` body, stored as they arrive.
"""

from __future__ import annotations

import asyncio
import io
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, BinaryIO, get_origin

from multipart import (
    MultipartError,
    MultipartSegment,
    PushMultipartParser,
    parse_options_header,
)

from indico import config
from indico.error import BodyTooLarge, IndicoError, InvalidValue, Unavailable

MEMORY = 1024 * 1024  # bytes of a file that are kept in memory; larger files go to disk
MAX_PARTS = 1000
MAX_NAME = 255  # characters
PART = 2048  # bytes that a part takes in memory at most, besides its content and the name of its field


class Upload:
    """
    A file of a multipart body. It is deleted when the request ends.

    `name` is the file's name without its path, `content_type` the type that the client gives, `size` is in
    bytes, and `file` is a binary file, open for reading.
    """

    def __init__(self, name: str, content_type: str) -> None:
        self.name = name
        self.content_type = content_type
        self.size = 0
        self.file: BinaryIO = io.BytesIO()

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        return {"type": "is-instance", "cls": cls}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "binary"}


class Storage:
    """The bytes of all uploads of this process."""

    def __init__(self) -> None:
        self.size = 0  # of files
        self.held = 0  # of texts and names, in memory

    def reserve(self, size: int, held: int = 0) -> None:
        """Raises Unavailable if all would have more than MAX_UPLOADS bytes, or hold more than MAX_UNREAD."""
        if self.size + size > config.MAX_UPLOADS or self.held + held > config.MAX_UNREAD:
            raise Unavailable("There are too many uploads at the moment")
        self.size += size
        self.held += held


STORAGE = Storage()


class Form:
    """
    The multipart body of a request. Nothing of it is stored before `read` is called.

    `files` has the types of the fields that are files. Other fields are strings, as in other forms; with the
    names of all fields they may have MAX_BODY_SIZE bytes. The body may have `limit` bytes.
    """

    def __init__(self, content_type: str, files: Mapping[str, Any], limit: int) -> None:
        loop = asyncio.get_running_loop()
        self.received = False  # True when the whole body has been received
        self.wanted: asyncio.Future[None] = loop.create_future()
        self.complete: asyncio.Future[None] = loop.create_future()
        self._content_type = content_type
        self._files = files
        self.limit = limit
        self._received = 0  # bytes
        self._reserved = self._held = 0  # bytes in STORAGE
        self._text_size = 0  # bytes, of names too
        self._part: Upload | bytearray = bytearray()
        self._part_name = ""
        self._fields: dict[str, Any] = {}
        self._parser: PushMultipartParser | None = None
        self._uploads: list[Upload] = []

    async def read(self) -> dict[str, Any]:
        """Store the body and return its fields. Raises InvalidValue, BodyTooLarge and Unavailable."""
        boundary = parse_options_header(self._content_type)[1].get("boundary", "")
        try:
            self._parser = PushMultipartParser(boundary, max_segment_count=MAX_PARTS)
        except MultipartError as error:
            raise _to_error(error) from error
        self.wanted.set_result(None)
        await self.complete
        return self._fields

    async def feed(self, chunk: bytes) -> None:
        """Store a part of the body. An error of it is raised by `read`."""
        assert self._parser is not None
        if self.complete.done():  # the body is dropped
            return
        try:
            self._received += len(chunk)
            if self._received > self.limit:
                raise BodyTooLarge(self.limit)
            for event in self._parser.parse(chunk):
                if isinstance(event, MultipartSegment):
                    self._begin_part(event)
                elif event is None:
                    self._end_part()
                else:
                    await self._store(bytes(event))
        except (ValueError, OSError, IndicoError) as error:  # ValueError: also of a file that is closed
            self._fail(_to_error(error))
        if self.complete.cancelled():  # the request has ended meanwhile
            self.close()

    def end(self) -> None:
        """The whole body has been received."""
        assert self._parser is not None
        self.received = True
        try:
            self._parser.close()
        except MultipartError as error:
            self._fail(_to_error(error))
        with suppress(asyncio.InvalidStateError):  # the body can't be used
            self.complete.set_result(None)

    def close(self) -> None:
        """Delete the files."""
        self.complete.cancel()
        STORAGE.size -= self._reserved
        STORAGE.held -= self._held
        self._reserved = self._held = 0
        self._part, self._fields = bytearray(), {}
        for upload in self._uploads:
            upload.file.close()

    def _fail(self, error: IndicoError) -> None:
        with suppress(asyncio.InvalidStateError):  # the request has ended
            self.complete.set_exception(error.with_traceback(None))  # frames hold pieces of the body

    def _begin_part(self, segment: MultipartSegment) -> None:
        self._part_name = segment.name or ""
        self._hold(len(self._part_name), PART)
        if segment.filename is None or self._part_name not in self._files:
            self._part = bytearray()
            return
        name = re.split(r"[/\\]", segment.filename)[-1]  # without its path
        name = re.sub(r"[\x00-\x1f\x7f-\x9f]", "", name)[:MAX_NAME]
        self._part = Upload(name, (segment.content_type or "application/octet-stream")[:MAX_NAME])
        self._uploads.append(self._part)

    async def _store(self, data: bytes) -> None:
        part = self._part
        if isinstance(part, bytearray):
            self._hold(len(data))
            part += data
        else:
            STORAGE.reserve(len(data))
            self._reserved += len(data)
            part.size += len(data)
            in_memory = part.size <= MEMORY and STORAGE.size + STORAGE.held <= config.MAX_UNREAD
            if not in_memory and isinstance(part.file, io.BytesIO):
                part.file = await asyncio.to_thread(_move_to_disk, part.file)
            if isinstance(part.file, io.BytesIO):
                part.file.write(data)
            else:
                await asyncio.to_thread(part.file.write, data)

    def _hold(self, text: int, others: int = 0) -> None:
        self._text_size += text
        if self._text_size > config.MAX_BODY_SIZE:
            raise BodyTooLarge(config.MAX_BODY_SIZE)
        size = 4 * text + others  # a string has up to four bytes for each character
        STORAGE.reserve(0, size)
        self._held += size

    def _end_part(self) -> None:
        part, name = self._part, self._part_name
        if isinstance(part, bytearray):
            try:
                self._fields[name] = part.decode()
            except UnicodeDecodeError as error:
                raise InvalidValue("The body is not valid UTF-8") from error
        elif part.size or part.name:  # else the person has chosen no file
            part.file.seek(0)
            if get_origin(self._files[name]) is list:
                files = self._fields.get(name)  # a string, if a part of this name was no file
                self._fields[name] = [*files, part] if isinstance(files, list) else [part]
            else:
                self._fields[name] = part


def _move_to_disk(memory: io.BytesIO) -> BinaryIO:
    content = memory.getvalue()  # raises ValueError if the request has ended
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the form closes it
    file.write(content)
    return file


def _to_error(error: Exception) -> IndicoError:
    if isinstance(error, IndicoError):
        return error
    if isinstance(error, OSError):
        unavailable = Unavailable("The upload can't be stored at the moment")
        unavailable.__cause__ = error
        return unavailable
    return InvalidValue(f"The multipart body is not valid: {error}")
