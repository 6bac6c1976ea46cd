"""
Documents for tests of a schema, which go on passing when the schema changes.
"""

from __future__ import annotations

from typing import Any

from indico.core.types import check_type, make_empty
from indico.db import Document, Schema
from indico.error import IndicoError

VALUES: list[Any] = [
    *("text", 7, 1.5, True, ["text"], [7], {"name": "text"}),
    *("2020-01-02", "2020-01-02T03:04:05Z", "12345678-1234-5678-1234-567812345678"),
]


def make_document(schema: Schema) -> Document:
    """Return a document with a value for each field."""
    return {field: make_value(kind) for field, (kind, _) in schema.items()}


def make_value(kind: Any) -> Any:
    """Return a value of this type as JSON has it: one of VALUES, or the type's empty value."""
    return next((value for value in VALUES if is_valid(value, kind)), None) or make_empty(kind)


def list_wrong_values(kind: Any) -> list[Any]:
    """Return values that are not of this type."""
    return [value for value in (*VALUES, None) if not is_valid(value, kind)]


def is_valid(value: Any, kind: Any) -> bool:
    try:
        check_type("value", value, kind)
    except IndicoError:
        return False
    return True
