"""
Types beyond JSON's own, checked by pydantic: a TypedDict, a date, an Enum, a model, ...

Imported only where such a type is used, because the import of pydantic takes a tenth of a second.
"""

from __future__ import annotations

import datetime
import functools
import re
from contextlib import suppress
from typing import Any, cast

import pydantic_core
from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError, core_schema, to_json

from indico.core.types import Check, TypeMismatch, name_type
from indico.error import InvalidValue, MissingField, WrongFieldType, shorten

MAX_ERRORS = 50_000  # in one value: pydantic takes a third of a second to list so many
LONGEST_MESSAGE = 1000  # characters: a validator's message may repeat the value
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
PARSERS: dict[str, Any] = {"date": TypeAdapter(datetime.date), "datetime": TypeAdapter(datetime.datetime)}
# The names of types that pydantic's errors name in another way.
NAMES = {"decimal": "Decimal", "string": "str", "time_delta": "timedelta", "uuid": "UUID"}


def compile_adapter(kind: Any) -> Check:
    """See `indico.core.types.compile_type`. A datetime is an ISO text, or an int: UTC milliseconds."""
    schema = adapt_schema(make_adapter(kind).core_schema)
    # Otherwise models keep the validators that they have.
    validator = pydantic_core.SchemaValidator(schema, _use_prebuilt=False)

    def check(value: Any) -> Any:
        try:
            try:
                text = to_json(value)  # because pydantic, if strict, takes a text for a date only from JSON
            except pydantic_core.PydanticSerializationError:  # the value comes from code, not from a client
                return validator.validate_python(value, strict=True)
            return validator.validate_json(text, strict=True)
        except ValidationError as error:
            raise read_error(kind, value, error) from None

    return check


def make_adapter(kind: Any) -> TypeAdapter[Any]:
    """pydantic's adapter of a type. Raises TypeError for a type that pydantic can't check."""
    try:
        adapter = TypeAdapter(kind)
        adapter.rebuild(raise_errors=True)
    except (NameError, PydanticUserError, pydantic_core.SchemaError) as error:
        reason = str(error).partition("\n")[0]
        raise TypeError(f"{name_type(kind)} is no type to check by: {reason}") from error
    return adapter


def adapt_schema(schema: Any) -> Any:
    """
    pydantic's core schema, with `read_date` before each date in it, and a list for each Iterable: pydantic
    would check the members of an Iterable only when the action asks for them.
    """
    if isinstance(schema, (list, tuple)):
        return type(schema)(map(adapt_schema, schema))
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")  # not always a string: a field may be named "type"
    adapted = {
        key: member if (kind, key) == ("default", "default") else adapt_schema(member)
        for key, member in schema.items()
    }
    if kind == "generator":
        adapted["type"] = "list"
    if kind not in ("date", "datetime"):
        return adapted
    reader = functools.partial(read_date, kind)
    return core_schema.no_info_before_validator_function(reader, cast(Any, adapted))


def read_date(kind: str, value: Any) -> Any:
    """The date that a text or a number stands for. All other values are left to pydantic."""
    if kind == "datetime" and type(value) is int:
        try:
            return EPOCH + datetime.timedelta(milliseconds=value)
        except OverflowError:
            raise PydanticKnownError("datetime_parsing", {"error": "of the years 1 to 9999"}) from None
    if not isinstance(value, str):
        return value
    if re.fullmatch(r"[-+]?[0-9.]+", value):  # pydantic takes it for a timestamp, of seconds or milliseconds
        raise PydanticKnownError(cast(Any, f"{kind}_parsing"), {"error": "it is a number"})
    return PARSERS[kind].validate_json(to_json(value), strict=True)


def read_error(kind: Any, value: Any, errors: ValidationError) -> TypeMismatch:
    """What messages say of the first of pydantic's errors."""
    if errors.error_count() > MAX_ERRORS:
        text = f"{shorten(value)}: more than {MAX_ERRORS} values in it are wrong"
        return TypeMismatch(lambda field: InvalidValue(f"Field {shorten(field)} - {text}"))
    error = errors.errors(include_url=False)[0]
    path = ""
    for part in error["loc"]:
        with suppress(LookupError, TypeError):  # the value lacks it: it names the member of a union
            value = value[part]
            path += name_part(part)
    given = value if isinstance(error["input"], datetime.date) else error["input"]  # read_date made the date
    if error["type"] == "missing":
        return TypeMismatch(MissingField, path + name_part(error["loc"][-1]))
    if error["type"].endswith("_type"):
        name = error["type"].removesuffix("_type")
        declared = error.get("ctx", {}).get("class_name") or NAMES.get(name, name)
        required = declared if path else name_type(kind)
        return TypeMismatch(lambda field: WrongFieldType(field, given, required), path)
    text = f"{shorten(given)}: {error['msg'][:LONGEST_MESSAGE]}"
    return TypeMismatch(lambda field: InvalidValue(f"Field {shorten(field)} - {text}"), path)


def name_part(part: str | int) -> str:
    return f"[{part}]" if isinstance(part, int) else f".{shorten(part)}"
