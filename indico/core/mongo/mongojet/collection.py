"""
Collections and their cursors.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import mongojet
from pymongo import IndexModel
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import InvalidOperation
from pymongo.results import DeleteResult, InsertOneResult, UpdateResult

from indico.core.mongo.mongojet.calls import Document, adapt, call
from indico.core.mongo.mongojet.errors import UnreadReply, translate

if TYPE_CHECKING:
    from indico.core.mongo.mongojet.client import Database

# The keyword arguments that the methods accept. Calls with any others go to PyMongo.
FIND_ONE = {"projection", "sort", "skip", "max_time_ms"}
FIND = FIND_ONE | {"limit", "batch_size"}
UPDATE_ONE = {"upsert", "array_filters"}
FIND_ONE_AND_UPDATE = UPDATE_ONE | {"projection", "sort", "return_document", "max_time_ms"}


class Collection:
    """A collection, with PyMongo's methods."""

    def __init__(self, database: Database, name: str) -> None:
        self.database = database
        self.name = name
        self.pymongo: AsyncCollection[Document] = database.pymongo[name]
        self._opened: mongojet.Collection | None = None

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.pymongo, name)
        return self.database[found.name] if isinstance(found, AsyncCollection) else found

    async def open(self) -> mongojet.Collection:
        """Return mongojet's collection. The first call makes it."""
        if self._opened is None:
            self._opened = (await self.database.open())[self.name]
        return self._opened

    async def find_one(self, filter: Any = None, *rest: Any, **options: Any) -> Document | None:
        if rest or not options.keys() <= FIND_ONE:
            return await self.pymongo.find_one(filter, *rest, **options)
        opened = self._opened or await self.open()
        found: Document | None = await call(self.database, "find", opened.find_one, filter, **adapt(options))
        return found

    def find(self, filter: Any = None, *rest: Any, **options: Any) -> Any:
        if rest or not options.keys() <= FIND:
            return self.pymongo.find(filter, *rest, **options)
        return Cursor(self, filter, options)

    async def find_one_and_update(self, filter: Any, update: Any, *rest: Any, **options: Any) -> Any:
        if rest or not options.keys() <= FIND_ONE_AND_UPDATE:
            return await self.pymongo.find_one_and_update(filter, update, *rest, **options)
        opened = self._opened or await self.open()
        method = opened.find_one_and_update
        try:
            return await call(self.database, "findAndModify", method, filter, update, **adapt(options))
        except UnreadReply as error:
            return error.decode(self.pymongo.codec_options)["value"]

    async def insert_one(self, document: Any, **options: Any) -> InsertOneResult:
        if options:
            return await self.pymongo.insert_one(document, **options)
        opened = self._opened or await self.open()
        result = await call(self.database, "insert", opened.insert_one, document)
        return InsertOneResult(result["inserted_id"], True)

    async def update_one(self, filter: Any, update: Any, *rest: Any, **options: Any) -> UpdateResult:
        if rest or not options.keys() <= UPDATE_ONE:
            return await self.pymongo.update_one(filter, update, *rest, **options)
        opened = self._opened or await self.open()
        result = await call(self.database, "update", opened.update_one, filter, update, **adapt(options))
        counts = {"n": result["matched_count"], "nModified": result["modified_count"]}
        if result["upserted_id"] is not None:
            counts["upserted"] = result["upserted_id"]
        return UpdateResult(counts, True)

    async def delete_one(self, filter: Any, **options: Any) -> DeleteResult:
        if options:
            return await self.pymongo.delete_one(filter, **options)
        opened = self._opened or await self.open()
        result = await call(self.database, "delete", opened.delete_one, filter)
        return DeleteResult({"n": result["deleted_count"]}, True)

    async def create_indexes(self, indexes: Sequence[IndexModel], **options: Any) -> list[str]:
        if options:
            return await self.pymongo.create_indexes(indexes, **options)
        opened = self._opened or await self.open()
        result = await call(self.database, "createIndexes", opened.create_indexes, indexes)
        names: list[str] = result["index_names"]
        return names


class Cursor:
    """What `find` returns. Use `async for` to iterate over the documents, or `to_list` for a list."""

    def __init__(self, collection: Collection, filter: Any, options: Document) -> None:
        self._collection = collection
        self._filter = filter
        self._options = options
        self._opened: AsyncIterator[Document] | None = None

    def __getattr__(self, name: str) -> Any:
        self._check_unopened()
        return getattr(self._collection.pymongo.find(self._filter, **self._options), name)

    def sort(self, key: Any, direction: Any = None) -> Cursor:
        return self._set("sort", key if direction is None else [(key, direction)])

    def skip(self, skip: int) -> Cursor:
        return self._set("skip", skip)

    def limit(self, limit: int) -> Cursor:
        return self._set("limit", limit)

    def _set(self, name: str, value: Any) -> Cursor:
        self._check_unopened()
        self._options[name] = value
        return self

    def _check_unopened(self) -> None:
        if self._opened is not None:
            raise InvalidOperation("cannot set options after executing query")

    def __aiter__(self) -> Cursor:
        return self

    async def __anext__(self) -> Document:
        opened = self._opened or await self._open()
        try:
            return await anext(opened)
        except mongojet.PyMongoError as error:
            raise translate(error) from None

    async def to_list(self, length: int | None = None) -> list[Document]:
        """Return the remaining documents, at most `length` of them."""
        documents: list[Document] = []
        async for document in self:
            documents.append(document)
            if len(documents) == length:
                break
        return documents

    async def _open(self) -> AsyncIterator[Document]:
        method = (await self._collection.open()).find
        database = self._collection.database
        opened: AsyncIterator[Document] = await call(
            database, "find", method, self._filter, **adapt(self._options)
        )
        self._opened = opened
        return opened
