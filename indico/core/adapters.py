"""
Types beyond JSON's own, checked by pydantic: a TypedDict, a date, an Enum, a model, ...

Imported only where such a type is used, because the import of pydantic takes a tenth of a second.
"""

from __future__ import annotations

import datetime
import functools
import operator
import re
from contextlib import suppress
from typing import Any, Literal

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import (
    PydanticCustomError,
    PydanticKnownError,
    PydanticSerializationError,
    SchemaError,
    SchemaValidator,
    core_schema,
    to_json,
)

from indico.core.annotations import Path, find_types, replace_typed_dicts
from indico.core.mismatch import TypeMismatch
from indico.core.types import Check, name_type
from indico.error import InvalidValue, MissingField, WrongFieldType, shorten

MAX_ERRORS = 50_000  # in one value: pydantic takes a third of a second to list so many
MAX_STEPS = 10_000  # of the search for an error's place, which a client can make long
LONGEST_MESSAGE = 1000  # characters: a validator's message may repeat the value
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
DATE, DATETIME = TypeAdapter(datetime.date), TypeAdapter(datetime.datetime)


def compile_adapter(kind: Any) -> Check:
    """See `indico.core.types.compile_type`. A datetime is an ISO text, or an int: UTC milliseconds."""
    validator = make_validator(make_adapter(kind))

    def check(value: Any) -> Any:
        try:
            try:
                text = to_json(value)  # because pydantic, if strict, takes a text for a date only from JSON
            except PydanticSerializationError:  # the value comes from code, not from a client
                return validator.validate_python(value, strict=True)
            return validator.validate_json(text, strict=True)
        except ValidationError as error:
            raise read_error(kind, value, error) from None

    return check


def make_adapter(kind: Any, config: ConfigDict | None = None) -> TypeAdapter[Any]:
    """pydantic's adapter of a type. Raises TypeError for a type that pydantic can't check."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(replace_typed_dicts(kind, {}), config=config)
        adapter.rebuild(raise_errors=True)
    except (NameError, PydanticUserError, SchemaError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{name_type(kind)} is no type to check by: {reason}") from error
    return adapter


# Dates


def make_validator(adapter: TypeAdapter[Any]) -> Any:
    """The adapter, or a validator of the same type that reads dates as the functions below do."""
    schema = adapt_schema(adapter.core_schema)
    if schema == adapter.core_schema:
        return adapter
    return SchemaValidator(schema, _use_prebuilt=False)  # otherwise models keep the validators they have


def adapt_schema(schema: Any) -> Any:
    """
    pydantic's core schema, with a function of ours before each date in it, and a list for each Iterable:
    pydantic would check the members of that one only when the action asks for them.
    """
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(adapt_schema, schema))
    if not isinstance(schema, dict):
        return schema
    kind = schema["type"] if isinstance(schema.get("type"), str) else ""  # a field may be named "type"
    replaced = {
        key: member if (kind, key) == ("default", "default") else adapt_schema(member)
        for key, member in schema.items()
    }
    if kind == "generator":
        replaced["type"] = "list"
    reader = {"date": read_date, "datetime": read_datetime}.get(kind)
    return replaced if reader is None else core_schema.no_info_before_validator_function(reader, replaced)


def read_date(value: Any) -> Any:
    return parse_text(value, "date_parsing", DATE)


def read_datetime(value: Any) -> Any:
    if type(value) is not int:
        return parse_text(value, "datetime_parsing", DATETIME)
    try:
        return EPOCH + datetime.timedelta(milliseconds=value)
    except OverflowError:
        message = "Input should be a datetime of the years 1 to 9999"
        raise PydanticCustomError("datetime_range", message) from None


def parse_text(
    value: Any, error: Literal["date_parsing", "datetime_parsing"], adapter: TypeAdapter[Any]
) -> Any:
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[-+]?[0-9.]+", value):  # pydantic takes it for a timestamp, of seconds or milliseconds
        raise PydanticKnownError(error, {"error": "it is a number"})
    return adapter.validate_json(to_json(value), strict=True)


# What is wrong with a value


def find_path(value: Any, error: Any) -> Path:
    """
    Where in the value an error is: the keys and indexes of its `loc` that the value has. The others are
    pydantic's, such as the name of a union's member.
    """
    parts = error["loc"][:-1] if error["type"] == "missing" else error["loc"]
    failed: set[tuple[int, int]] = set()

    def search(inner: Any, place: int) -> Path | None:
        if place == len(parts):
            return () if inner == error["input"] else None
        if (place, id(inner)) in failed or len(failed) > MAX_STEPS:
            return None
        path = None
        if has_part(inner, parts[place]):
            path = search(inner[parts[place]], place + 1)
            path = None if path is None else (parts[place], *path)
        if path is None:  # this part is the name of a union's member
            path = search(inner, place + 1)
        if path is None:
            failed.add((place, id(inner)))
        return path

    found = search(value, 0)
    return follow(value, parts) if found is None else found


def follow(value: Any, parts: Path) -> Path:
    path: Path = ()
    for part in parts:
        if has_part(value, part):
            path, value = (*path, part), value[part]
    return path


def has_part(value: Any, part: str | int) -> bool:
    if isinstance(value, dict):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def write_path(path: Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{shorten(part)}" for part in path)


def read_error(kind: Any, value: Any, errors: ValidationError) -> TypeMismatch:
    """What messages say of the first of pydantic's errors."""
    if errors.error_count() > MAX_ERRORS:
        text = f"{shorten(value)}: more than {MAX_ERRORS} values in it are wrong"
        return TypeMismatch(lambda field: InvalidValue(f"Field {shorten(field)} - {text}"))
    error = errors.errors(include_url=False, include_context=False)[0]
    path, given = find_path(value, error), error["input"]
    if isinstance(given, datetime.date):  # read_date and read_datetime made it
        given = functools.reduce(operator.getitem, path, value)
    place, message = write_path(path), error["msg"][:LONGEST_MESSAGE]
    if error["type"] == "missing":
        return TypeMismatch(MissingField, place + write_path(error["loc"][-1:]))
    if error["type"].endswith("_type"):
        required = message.removeprefix("Input should be ")
        with suppress(NameError):  # a dataclass within a function may use names that only its model finds
            required = next(map(name_type, find_types(kind, path)), required)
        return TypeMismatch(lambda field: WrongFieldType(field, given, required), place)
    return TypeMismatch(
        lambda field: InvalidValue(f"Field {shorten(field)} - {shorten(given)}: {message}"), place
    )
