"""
Compiles types, such as `list[str]`, `int | None` or a TypedDict, to functions that check values at any depth.
The types of JSON are checked here. All others are checked by pydantic, which is imported only for those.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from indico.core.http.uploads import Upload
from indico.error import IndicoError, WrongFieldType, shorten

Check = Callable[[Any], Any]  # returns the value as the action gets it, or raises a TypeMismatch

UNIONS = (Union, UnionType)
JSON_CLASSES = {Any, str, int, float, bool, NoneType, list, dict, Upload}


class TypeMismatch(Exception):
    """An error, and the path to the wrong value from the field, whose name is not known yet."""

    def __init__(self, make_error: Callable[[str], IndicoError], path: str = "") -> None:
        super().__init__()
        self.make_error = make_error
        self.path = path

    def to_error(self, field: str) -> IndicoError:
        return self.make_error(field + self.path)


class Description:
    """Metadata of an Annotated for the API's description. No value is checked against it."""


class Described(Description):
    """Keywords of JSON Schema for the API's description: `Annotated[str, Described(format="email")]`."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {**handler(schema), **self.keywords}


@functools.cache
def compile_type(kind: Any) -> Check:
    """
    Return a function that checks values at any depth. It returns the value, or raises a TypeMismatch.

    The types of JSON are str, int, float, bool, list, dict, None, Any, a Literal, list[X], dict[str, X], and
    unions of these. A bool is not an int. An int is a float. pydantic checks all other types, in its strict
    mode for JSON (a date is an ISO 8601 string), and converts the value. Raises TypeError for a type that
    can't be checked.
    """
    check = compile_json_type(kind)
    if check is not None:
        return check
    if kind is None or isinstance(kind, str) or inspect.isroutine(kind):  # pydantic would take these
        raise TypeError(f"{kind!r} is not a type that can be checked: write list[str], int | None, ...")
    from indico.core.adapters import compile_adapter

    return compile_adapter(kind)


def check_type(field: str, value: Any, required: Any) -> None:
    """Raise an error unless the value of this field has the type."""
    try:
        compile_type(required)(value)
    except TypeMismatch as mismatch:
        raise mismatch.to_error(field) from None


def name_type(kind: Any) -> str:
    """Return the name of a type for messages: `int | None`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is NoneType or kind is Ellipsis:
        return "None" if kind is NoneType else "..."
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    if origin is Annotated:
        return name_type(arguments[0])
    names = [name_type(argument) for argument in arguments]
    if origin in UNIONS:
        return " | ".join(names)
    name = str(getattr(origin or kind, "__name__", kind))
    return name if not arguments or arguments[-1] is Any else f"{name}[{', '.join(names)}]"


def make_empty(kind: Any) -> Any:
    """
    Return the type's empty value: "", 0, [], None if that is allowed, the first value of a Literal or an
    Enum. Raises TypeError for a type that has none.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or NoneType in arguments:
        return None
    if origin is Literal:
        return arguments[0]
    if origin is Annotated or origin in UNIONS:
        return make_empty(arguments[0])
    try:
        return next(iter(kind)) if isinstance(kind, enum.EnumMeta) else (origin or kind)()
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name_type(kind)} has no empty value") from error


def compile_json_type(kind: Any) -> Check | None:
    """The check of one of JSON's own types, or None for any other type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        described = all(isinstance(note, (Description, str)) for note in kind.__metadata__)
        return compile_json_type(arguments[0]) if described else None
    members: list[Any] = [] if origin is Literal else list(map(compile_json_type, arguments))
    if origin is Literal:
        is_own = not any(isinstance(choice, (bytes, enum.Enum)) for choice in arguments)
    elif origin is dict:
        is_own = arguments[:1] == (str,)
    else:
        is_own = kind in JSON_CLASSES or origin in (list, *UNIONS)
    if not is_own or None in members:
        return None

    def is_right(value: Any) -> bool:
        if origin is Literal:  # 1 and True are equal, but not the same
            return any(type(value) is type(choice) and value == choice for choice in arguments)
        if kind in (int, float):
            return isinstance(value, (int, kind)) and not isinstance(value, bool)
        return kind is Any or isinstance(value, origin or kind)

    def check(value: Any) -> Any:
        if type(value) is kind:
            return value
        within = None
        if origin in UNIONS:
            for check_member in members:
                try:
                    return check_member(value)
                except TypeMismatch as mismatch:
                    within = mismatch if mismatch.path else within
        if origin in UNIONS or not is_right(value):
            raise within or TypeMismatch(lambda path: WrongFieldType(path, value, name_type(kind)))
        if members:
            for part, member in enumerate(value) if origin is list else value.items():
                try:
                    members[-1](member)
                except TypeMismatch as mismatch:
                    mismatch.path = name_part(part) + mismatch.path
                    raise
        return value

    return check


def name_part(part: str | int) -> str:
    """A key or an index, as a path has it."""
    return f"[{part}]" if isinstance(part, int) else f".{shorten(part)}"
