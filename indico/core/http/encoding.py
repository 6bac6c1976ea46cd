"""
The JSON encoder of all responses.
"""

from __future__ import annotations

import datetime
import enum
import importlib
import json
import math
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bson.datetime_ms import DatetimeMS
from bson.objectid import ObjectId


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
    # Naive dates, as MongoDB returns them, are UTC. A list of documents has many dates, and this is three
    # times as fast as `timestamp()` and twice as fast as dividing timedeltas.
    since = date - (_UTC_EPOCH if date.tzinfo else _EPOCH)
    return since.days * 86_400_000 + since.seconds * 1000 + round(since.microseconds / 1000)


# The lookup by type is faster than `isinstance`. A list of documents has thousands of these values.
_ENCODERS: dict[type, Callable[[Any], Any]] = {
    ObjectId: lambda identity: identity.binary.hex(),
    datetime.datetime: _to_milliseconds,
    DatetimeMS: int,  # a date outside the years that Python supports
    uuid.UUID: str,
}


class JSONEncoder(json.JSONEncoder):
    """Encodes an ObjectId or UUID as a string, a date as UTC milliseconds, and an Enum as its value."""

    def default(self, o: Any) -> Any:
        try:
            return _ENCODERS[type(o)](o)
        except KeyError:
            pass
        for kind, encoder in _ENCODERS.items():
            if isinstance(o, kind):
                return encoder(o)
        if isinstance(o, enum.Enum):
            return o.value
        return super().default(o)


def encode(envelope: Any) -> bytes:
    """
    Encode the envelope as JSON in UTF-8, with the types that JSONEncoder supports. NaN and infinities become
    null. Raises TypeError for any other type.
    """
    if orjson is not None:
        with suppress(orjson.JSONEncodeError):  # the encoder below may still know it
            return bytes(orjson.dumps(envelope, _ENCODER.default, _OPTIONS))
    try:
        return _ENCODER.encode(envelope).encode()
    except ValueError:
        return _ENCODER.encode(_without_nan(envelope)).encode()


def _without_nan(value: Any) -> Any:
    """The value with None in place of NaN and infinities, as JavaScript's encoder does it."""
    if isinstance(value, dict):
        return {key: _without_nan(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(member) for member in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_ENCODER = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
# orjson leaves dates and dataclasses to JSONEncoder.
_OPTIONS = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS if orjson is not None else None
