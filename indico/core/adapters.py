"""
Types beyond JSON's own, checked by pydantic: a TypedDict, a date, an Enum, a model, ...

Imported only where such a type is used, because the import of pydantic takes a tenth of a second.
"""

from __future__ import annotations

import datetime
import functools
import re
from typing import Annotated, Any, cast, get_args, get_origin, get_type_hints

import pydantic_core
from pydantic import BaseModel, PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticKnownError, core_schema, to_json

from indico.core.types import UNIONS, Check, TypeMismatch, name_part, name_type
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
        raise TypeError(f"{name_type(kind)} is not a type that can be checked: {reason}") from error
    return adapter


def adapt_schema(schema: Any) -> Any:
    """
    pydantic's core schema, with `read_date` before each date in it, and a list for each Iterable: pydantic
    would check the members of an Iterable only when the action asks for them. TypedDicts and dataclasses drop
    the keys that they do not name, also in a model that allows others.
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
    config = schema.get("config") or {}
    if kind in ("typed-dict", "dataclass") and config.get("extra_fields_behavior") == "allow":
        own = getattr(schema["cls"], "__pydantic_config__", {})
        if own.get("extra") != "allow":  # it is the setting of the model around it
            adapted["config"] = {**config, "extra_fields_behavior": "ignore"}
            adapted.pop("extra_behavior", None)
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
    path, declared, label = "", kind, ""
    for part in error["loc"]:
        try:
            value = value[part]
        except (LookupError, TypeError):  # the value lacks it: it names the member of a union
            label = str(part)
        else:
            path += name_part(part)
            declared = find_member(declared, part, label)
    given = value if isinstance(error["input"], datetime.date) else error["input"]  # read_date made the date
    if error["type"] == "missing":
        return TypeMismatch(MissingField, path + name_part(error["loc"][-1]))
    if error["type"].endswith("_type"):
        name = error["type"].removesuffix("_type")
        found = error.get("ctx", {}).get("class_name") or NAMES.get(name, name)
        required = found if declared is None else name_type(declared)
        return TypeMismatch(lambda field: WrongFieldType(field, given, required), path)
    text = f"{shorten(given)}: {error['msg'][:LONGEST_MESSAGE]}"
    return TypeMismatch(lambda field: InvalidValue(f"Field {shorten(field)} - {text}"), path)


def find_member(kind: Any, part: str | int, label: str) -> Any:
    """
    The type that a type declares for one of its members, or None if that can't be told. `label` is pydantic's
    name for a member of a union.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return find_member(arguments[0], part, label)
    if origin in UNIONS:
        ordered = sorted(arguments, key=lambda member: label not in list_labels(member))
        found = (find_member(member, part, label) for member in ordered)
        return next((member for member in found if member is not None), None)
    fields = list_fields(kind)
    if part in fields:
        return fields[str(part)]
    if "root" in fields:
        return find_member(fields["root"], part, label)
    if isinstance(part, int) and origin is tuple and ... not in arguments:
        return arguments[part]
    return next(iter(arguments if isinstance(part, int) else arguments[1:]), None)


def list_fields(kind: Any) -> dict[str, Any]:
    """The types of the fields of a model, a TypedDict or a dataclass, by the names that clients use."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
    owner = get_origin(kind) or kind
    try:
        hints = get_type_hints(owner)
    except (NameError, TypeError):  # a class within a function, or no class
        return {}
    given = dict(zip(getattr(owner, "__parameters__", ()), get_args(kind)))
    for name, hint in hints.items():
        parameters = getattr(hint, "__parameters__", ())
        hints[name] = (
            hint[tuple(given.get(each, Any) for each in parameters)] if parameters else given.get(hint, hint)
        )
    return hints


def list_labels(kind: Any) -> list[str]:
    """What pydantic may call this member of a union: its name, or the tags in its fields."""
    return [name_type(kind), *(str(tag) for hint in list_fields(kind).values() for tag in get_args(hint))]
