"""
The JSON encoder of all responses. docs/routes lists what each type becomes.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import functools
import importlib
import json
import math
import re
import uuid
from collections.abc import Callable
from contextlib import suppress
from operator import attrgetter
from types import NoneType
from typing import Any

from bson import json_util
from bson.binary import UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp

from indico.error import shorten


def import_if_installed(name: str) -> Any:
    """Import a module. Return None if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


orjson = import_if_installed("orjson")  # part of the extra `fast`

_EPOCH = datetime.datetime(1970, 1, 1)
_UTC_EPOCH = _EPOCH.replace(tzinfo=datetime.UTC)


def _to_milliseconds(date: datetime.datetime) -> int:
    since = date - (_UTC_EPOCH if date.tzinfo else _EPOCH)  # naive dates, as MongoDB returns them, are UTC
    return since.days * 86_400_000 + since.seconds * 1000 + (since.microseconds + 500) // 1000


def _encode_bytes(value: bytes) -> str:
    if isinstance(value, Binary) and value.subtype == UUID_SUBTYPE and len(value) == 16:
        return str(uuid.UUID(bytes=bytes(value)))
    return base64.b64encode(value).decode()


def _read_fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


# The first class that a type is, or inherits from, counts. A converter may return a value that needs another.
_CONVERTERS: list[tuple[type | tuple[type, ...], Callable[[Any], Any]]] = [
    (enum.Enum, attrgetter("value")),
    (
        (Code, DBRef, MaxKey, MinKey, Regex, re.Pattern, Timestamp),
        functools.partial(json_util.default, json_options=json_util.RELAXED_JSON_OPTIONS),
    ),
    (datetime.datetime, _to_milliseconds),
    (DatetimeMS, int),  # a date outside the years that Python supports
    ((datetime.date, datetime.time), lambda value: value.isoformat()),
    ((ObjectId, uuid.UUID, Decimal128, decimal.Decimal), str),
    (bytes, _encode_bytes),
    # Without their subclasses:
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (dict, dict),
    ((list, tuple, set, frozenset), list),
]


@functools.lru_cache(1000)
def _find_converter(kind: type) -> Callable[[Any], Any] | None:
    for known, converter in _CONVERTERS:
        if issubclass(kind, known):
            return converter
    if hasattr(kind, "model_dump"):  # a pydantic model; its aliases are in the API's description too
        return lambda model: model.model_dump(by_alias=True)
    return _read_fields if dataclasses.is_dataclass(kind) else None


def convert(value: Any) -> Any:
    """
    Return a simpler value in place of one that JSON lacks. Raises TypeError if there is none. Members of a
    container are left as they are.
    """
    # A list of documents has thousands of values of these types. docs/performance compares the ways.
    kind: type = type(value)
    if kind is ObjectId:
        return value.__str__()
    if kind is datetime.datetime:
        since = value - (_UTC_EPOCH if value.tzinfo else _EPOCH)
        return since.days * 86_400_000 + since.seconds * 1000 + (since.microseconds + 500) // 1000
    converter = _find_converter(kind)
    if converter is None:
        raise TypeError(f"{kind.__module__}.{kind.__qualname__} can't be encoded as JSON")
    return converter(value)


class JSONEncoder(json.JSONEncoder):
    """Encodes an ObjectId as a string, a date as UTC milliseconds, and so on. See docs/routes."""

    def default(self, o: Any) -> Any:
        return convert(o)


def encode(envelope: Any) -> bytes:
    """
    Encode the envelope as JSON in UTF-8. NaN and infinities become null. Raises a TypeError that names the
    type and its path in the envelope, if JSON has nothing for a value.
    """
    if orjson is not None:
        with suppress(orjson.JSONEncodeError):  # the slower encoder below may still know it
            return bytes(orjson.dumps(envelope, convert, _OPTIONS))
    return _ENCODER.encode(_to_plain(envelope, "")).encode(errors="replace")


def _to_plain(value: Any, path: str) -> Any:
    """Return the value with JSON's own types alone."""
    while type(value) not in _PLAIN:
        try:
            value = convert(value)
        except TypeError as error:
            raise TypeError(f"{error}: {path.removeprefix('.')}") from None
    if isinstance(value, dict):
        return {
            _to_key(key, path): _to_plain(member, f"{path}.{shorten(key)}") for key, member in value.items()
        }
    if isinstance(value, list):
        return [_to_plain(member, f"{path}[{index}]") for index, member in enumerate(value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _to_key(key: Any, path: str) -> Any:
    plain = _to_plain(key, path)
    if isinstance(plain, (dict, list)):
        raise TypeError(f"a {type(key).__name__} can't be a key in JSON: {path.removeprefix('.')}")
    return plain


_PLAIN = {str, int, float, bool, NoneType, dict, list}
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
# orjson leaves dates, dataclasses and subclasses to `convert`.
_OPTIONS = (
    orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS | orjson.OPT_PASSTHROUGH_SUBCLASS
    if orjson is not None
    else None
)
