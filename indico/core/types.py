"""
Types as people write them, `list[str]`, `int | None` or a TypedDict, made into functions that check a value
in depth: JSON's own types here, all others by pydantic, which is imported only for those.
"""

from __future__ import annotations

import enum
import functools
import inspect
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from indico.core.http.uploads import Upload
from indico.error import IndicoError, WrongFieldType, shorten

Check = Callable[[Any], Any]  # returns the value as the action gets it, or raises a TypeMismatch

UNIONS = (Union, UnionType)


class TypeMismatch(Exception):
    """What is wrong with a value, and the path to it from the field, whose name is not known yet."""

    def __init__(self, make_error: Callable[[str], IndicoError], path: str = "") -> None:
        super().__init__()
        self.make_error = make_error
        self.path = path

    def to_error(self, field: str) -> IndicoError:
        return self.make_error(field + self.path)


class Description:
    """What an Annotated holds for the API's description alone: no value is checked against it."""


class Described(Description):
    """Keywords of JSON Schema for the API's description: `Annotated[str, Described(format="email")]`."""

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> dict[str, Any]:
        return {**handler(schema), **self.keywords}


@functools.cache
def compile_type(kind: Any) -> Check:
    """
    A function that checks values in depth: it returns the value, or raises a TypeMismatch.

    JSON's own types are str, int, float, bool, list, dict and Any, a Literal, list[X], dict[str, X], and
    several of these with bars between, None among them. A bool is no int, an int is a float. Any other type
    is pydantic's: it is strict, reads values as JSON has them (a date is an ISO text), and returns what it
    makes of them. Raises TypeError for what it can't check.
    """
    check = compile_json_type(kind)
    if check is not None:
        return check
    if kind is None or isinstance(kind, str) or inspect.isroutine(kind):  # pydantic would take these
        raise TypeError(f"{kind!r} is no type to check by: write list[str], dict[str, int], int | None, ...")
    from indico.core.adapters import compile_adapter

    return compile_adapter(kind)


def check_type(field: str, value: Any, required: Any) -> None:
    """Raise what is wrong with the value of this field, unless it is of the type."""
    try:
        compile_type(required)(value)
    except TypeMismatch as mismatch:
        raise mismatch.to_error(field) from None


def name_type(kind: Any) -> str:
    """The type as messages have it: `int | None`."""
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
    The type's empty value: "", 0, [], None where it is allowed, the first value of a Literal or an Enum.
    Raises TypeError for a type that has none.
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


# The checks of JSON's own types


def compile_json_type(kind: Any) -> Check | None:
    """The check of one of JSON's own types, or None for any other type."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if any(kind is known for known in (str, int, float, bool, NoneType, list, dict, Upload)):
        return _compile_class(kind)
    if origin is Annotated:
        described = all(isinstance(note, (Description, str)) for note in kind.__metadata__)
        return compile_json_type(arguments[0]) if described else None
    if origin is Literal:
        ours = not any(isinstance(choice, (bytes, enum.Enum)) for choice in arguments)
        return _compile_literal(kind, arguments) if ours else None
    checks = [check for check in map(compile_json_type, arguments) if check is not None]
    if len(checks) < len(arguments):
        return None
    if origin in UNIONS:
        return _compile_union(kind, checks)
    if origin is list and arguments:
        return _compile_list(kind, checks[0])
    if origin is dict and arguments and arguments[0] is str:
        return _compile_dict(kind, checks[1])
    return None


def _refuse(value: Any, kind: Any) -> NoReturn:
    raise TypeMismatch(lambda path: WrongFieldType(path, value, name_type(kind)))


def _compile_class(kind: type) -> Check:
    def check(value: Any) -> Any:
        if kind is float and type(value) is int:
            return value
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            _refuse(value, kind)
        return value

    return check


def _compile_literal(kind: Any, choices: tuple[Any, ...]) -> Check:
    typed = {(type(choice), choice) for choice in choices}  # 1 and True are equal, but not the same

    def check(value: Any) -> Any:
        if not isinstance(value, (str, int, NoneType)) or (type(value), value) not in typed:
            _refuse(value, kind)
        return value

    return check


def _compile_union(kind: Any, checks: list[Check]) -> Check:
    def check(value: Any) -> Any:
        within = None
        for check_member in checks:
            try:
                return check_member(value)
            except TypeMismatch as mismatch:
                within = mismatch if mismatch.path else within
        if within is not None:
            raise within
        return _refuse(value, kind)

    return check


def _compile_list(kind: Any, check_member: Check) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, list):
            _refuse(value, kind)
        checked: list[Any] = []
        try:
            for member in value:
                checked.append(check_member(member))
        except TypeMismatch as mismatch:
            mismatch.path = f"[{len(checked)}]{mismatch.path}"
            raise
        return checked

    return check


def _compile_dict(kind: Any, check_member: Check) -> Check:
    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, kind)
        checked: dict[Any, Any] = {}
        for name, member in value.items():
            try:
                checked[name] = check_member(member)
            except TypeMismatch as mismatch:
                mismatch.path = f".{shorten(name)}{mismatch.path}"
                raise
        return checked

    return check
