"""
Schemas, and checks of documents and updates.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from bson import encode
from bson.errors import InvalidId
from bson.objectid import ObjectId
from pymongo import ReturnDocument

from indico import config
from indico.core.http.bodies import check_levels
from indico.core.mongo.drivers import Collection
from indico.core.mongo.helper import mongo
from indico.core.types import Description, check_type, compile_type, make_empty
from indico.error import InvalidValue, shorten

Document = dict[str, Any]
Schema = dict[str, tuple[Any, bool]]  # field: (type, required); see indico.core.types
Function = TypeVar("Function", bound=Callable[..., Any])

FIELD_NAME = r"[^$.\u0000][^.\u0000]*"
is_field_name = re.compile(FIELD_NAME).fullmatch
MAX_FIELDS = 200  # of an update: its cost in MongoDB grows with their square


@dataclass(frozen=True, eq=False)
class DocumentOf(Description):
    """
    Describes a document with a schema in the API's description: `Annotated[Document,
    DocumentOf(USER_SCHEMA)]` is a stored document. With `part=True` it is a document in a request: every
    field is optional, some are `ignored` or `refused`, and with `strict` there are no other fields. It checks
    nothing; `mongo_obj` does.
    """

    schema: Schema
    part: bool = False
    ignored: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    strict: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        schema = handler(source)
        return {**schema, "metadata": {**schema.get("metadata", {}), "document": self}}  # for core/openapi.py


def mongo_obj(
    schema: Schema, ignore: tuple[str, ...] = (), *, operators: bool = False, strict: bool = False
) -> Callable[[Function], Function]:
    """
    Check the first argument of a helper: plain fields, or with `operators` an update such as `{"$set":
    {...}}`. In an update, the fields of `$set` are checked. The fields in `ignore` are removed.

    Fields of the schema must have its types. Other fields can have any type. If `strict`, they are rejected,
    and so is a document without fields. At any depth, a field name must not be empty, begin with `$`, or
    contain a dot or NUL. Can stand above or below `@mongo`, or on a plain function. Raises WrongFieldType and
    InvalidValue, and TypeError for an update without operators.
    """
    for kind, _ in schema.values():
        compile_type(kind)  # a TypeError at import, not at the first update

    def check(argument: Document) -> Document:
        if operators and not all(name.startswith("$") for name in argument):
            raise TypeError('an update consists of operators: {"$set": {...}}')
        given = argument.get("$set", {}) if operators else argument
        fields = {name: value for name, value in given.items() if name not in ignore}
        if strict and not fields and ("$set" in argument or not operators):
            raise InvalidValue("There should be at least one field")
        check_fields(fields, schema, strict)
        return {**argument, "$set": fields} if operators else fields

    def decorator(function: Function) -> Function:
        inner = getattr(function, "helper_of", None)
        if inner is not None:  # it stands above @mongo: check first, then apply @mongo
            return cast(Function, mongo(decorator(inner)))

        @functools.wraps(function)
        def checked(update_dic: Document, /, *args: Any, **kwargs: Any) -> Any:
            return function(check(update_dic), *args, **kwargs)

        @functools.wraps(function)
        async def checked_later(update_dic: Document, /, *args: Any, **kwargs: Any) -> Any:
            return await function(check(update_dic), *args, **kwargs)

        return cast(Function, checked_later if inspect.iscoroutinefunction(function) else checked)

    return decorator


def check_fields(fields: Document, schema: Schema, strict: bool = False) -> None:
    """Raise WrongFieldType or InvalidValue unless these fields of a document can be stored."""
    if len(fields) > MAX_FIELDS:
        raise InvalidValue(f"An update has at most {MAX_FIELDS} fields")
    parts = (part for level in check_levels(fields) for part in level if isinstance(part, dict))
    for name in (name for part in parts for name in part):
        if not is_field_name(name):
            raise InvalidValue(f"The field name {name[:100]!r} is empty, begins with $ or holds a dot or NUL")
    for name, value in fields.items():
        if name in schema:
            check_type(name, value, schema[name][0])
        elif strict:
            raise InvalidValue(f"Field {shorten(name)} is unknown")


def empty_document(schema: Schema) -> Document:
    """Return the required fields of a schema, each with its type's empty value."""
    return {field: make_empty(kind) for field, (kind, required) in schema.items() if required}


def parse_id(text: str) -> ObjectId:
    """Return the `_id` that these 24 hex digits stand for. Raises InvalidValue for other strings."""
    try:
        return ObjectId(text)
    except InvalidId as error:
        raise InvalidValue(f"{shorten(text)} is no id: it should be 24 hex digits") from error


def refuse_changes(update_dic: Document, fields: tuple[str, ...]) -> None:
    """Raise InvalidValue if any operator of an update changes one of these fields, or a part of it."""
    for operator, changes in update_dic.items():
        names = [*changes, *(changes.values() if operator == "$rename" else ())]
        changed = {str(name).partition(".")[0] for name in names}
        for field in fields:
            if field in changed:
                raise InvalidValue(f"Field {field} can't be changed")


def check_size(document: Document) -> None:
    """Raise InvalidValue if a document that is about to be inserted is larger than MAX_USER_SIZE."""
    if len(encode(document)) > config.MAX_USER_SIZE:
        raise _make_size_error()


def _make_size_error() -> InvalidValue:
    return InvalidValue(f"The document can't be stored: it is too large, above {config.MAX_USER_SIZE} bytes")


async def update_document(collection: Collection, query: Document, update_dic: Document) -> Document | None:
    """
    Apply operators to a document, and return it as stored now, or None if there is none. Raises InvalidValue
    if the update would make it larger than MAX_USER_SIZE.
    """
    size = {"$bsonSize": "$$ROOT"}
    # A new value replaces the old one. Of other operators that add something, the whole size counts.
    result = {"$bsonSize": {"$mergeObjects": ["$$ROOT", {"$literal": update_dic.get("$set", {})}]}}
    other = {name: value for name, value in update_dic.items() if name not in ("$set", "$unset", "$pull")}
    # Nearly all updates pass the first condition, which costs MongoDB less than the exact one.
    fits: Document = {"$lte": [size, config.MAX_USER_SIZE - len(encode(update_dic))]}
    growth = len(encode(other)) if other else 0
    exact = {"$lte": [{"$add": [result, growth]}, {"$max": [config.MAX_USER_SIZE, size]}]}
    while True:
        document: Document | None = await collection.find_one_and_update(
            {**query, "$expr": fits}, update_dic, return_document=ReturnDocument.AFTER
        )
        if document is not None:
            return document
        if (stored := await collection.find_one(query, projection={"fits": exact})) is None:
            return None
        if not stored["fits"]:
            raise _make_size_error()
        fits = exact  # also where the document was inserted or changed since the update
