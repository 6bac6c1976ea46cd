"""
Types as people write them, `list[str]`, `int | None` or a TypedDict, made into functions that check a value
in depth.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from indico.error import IndicoError, InvalidValue, MissingField, WrongFieldType, shorten

Check = Callable[[Any], Any]  # returns the value as the action gets it, or raises a Problem


class Described:
    """
    JSON Schema's keywords for the API's description, by which nothing is checked: `Annotated[str,
    Described(format="email")]`.
    """

    def __init__(self, **keywords: Any) -> None:
        self.keywords = keywords


class Problem(Exception):
    """What is wrong with a value, and where within it."""

    def __init__(self, make_error: Callable[[str], IndicoError], path: str = "", deep: bool = False) -> None:
        super().__init__()
        self.make_error = make_error
        self.path = path
        self.deep = deep  # the value itself is of the type, and something within it is not

    def within(self, part: str) -> Problem:
        return Problem(self.make_error, part + self.path, deep=True)

    def to_error(self, field: str) -> IndicoError:
        return self.make_error(field + self.path)


@functools.cache
def compile_type(kind: Any) -> Check:
    """
    A function that checks values in depth: it returns the value, or raises a Problem.

    `kind` is a class, Any, a Literal, a list or dict of these, several of them with bars between, a
    TypedDict or a pydantic model; what an Annotated adds is for others. A bool is no int, an int is a
    float. A TypedDict leaves keys that it does not know alone. A model is strict, and the value becomes an
    instance of it. Raises TypeError for any other kind.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return lambda value: value
    if origin is Annotated:
        return compile_type(arguments[0])
    if origin in (Union, UnionType):
        return _compile_union(kind, arguments)
    if origin is Literal:
        return _compile_literal(kind, arguments)
    if origin is list and arguments:
        return _compile_list(kind, arguments[0])
    if origin is dict and arguments[:1] == (str,):
        return _compile_dict(kind, arguments[1])
    if is_typed_dict(kind):
        return _compile_typed_dict(kind)
    if is_model(kind):
        return _compile_model(kind)
    if isinstance(kind, type) and origin is None:
        return _compile_class(kind)
    raise TypeError(f"{kind!r} is no type to check by: write list[str], dict[str, int], int | None, ...")


def is_typed_dict(kind: Any) -> bool:
    """Also one of typing_extensions, which `typing.is_typeddict` does not know on Python 3.10."""
    return isinstance(kind, type) and issubclass(kind, dict) and hasattr(kind, "__total__")


def is_model(kind: Any) -> bool:
    """Whether it is a pydantic model; pydantic need not be there to tell."""
    return isinstance(kind, type) and hasattr(kind, "model_validate_json")


def read_typed_dict(kind: Any) -> dict[str, tuple[Any, bool]]:
    """The keys of a TypedDict as in a Schema: (type, required). Raises TypeError for a name it can't find."""
    try:
        hints = get_type_hints(kind, include_extras=True)
    except NameError as error:
        raise TypeError(f"{kind.__name__} can't be read: {error}") from error
    shape = {}
    for key, hint in hints.items():
        required = key in kind.__required_keys__
        # A file with `from __future__ import annotations` hides these from Python itself (PEP 655).
        while (name := str(get_origin(hint)).rpartition(".")[2]) in ("Required", "NotRequired", "ReadOnly"):
            required = required if name == "ReadOnly" else name == "Required"
            hint = get_args(hint)[0]
        shape[key] = (hint, required)
    return shape


def name_type(kind: Any) -> str:
    """The type as messages have it: `int | None`."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is NoneType:
        return "None"
    if origin is Annotated:
        return name_type(arguments[0])
    if origin is Literal:
        return " | ".join(map(repr, arguments))
    names = [name_type(argument) for argument in arguments]
    if origin in (Union, UnionType):
        return " | ".join(names)
    if origin is None or arguments[-1] is Any:
        return str((origin or kind).__name__)
    return f"{origin.__name__}[{', '.join(names)}]"


def make_empty(kind: Any) -> Any:
    """The type's empty value: "", 0, [], None where it may be; of a Literal the first."""
    origin, arguments = get_origin(kind), get_args(kind)
    if NoneType in arguments:
        return None
    if origin is Literal:
        return arguments[0]
    if origin in (Annotated, Union, UnionType):
        return make_empty(arguments[0])
    return (origin or kind)()


def _refuse(value: Any, kind: Any) -> NoReturn:
    raise Problem(lambda path: WrongFieldType(path, value, name_type(kind)))


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


def _compile_union(kind: Any, kinds: tuple[Any, ...]) -> Check:
    checks = [compile_type(member) for member in kinds]

    def check(value: Any) -> Any:
        deep = None
        for check_member in checks:
            try:
                return check_member(value)
            except Problem as problem:
                if problem.deep:
                    deep = problem
        if deep is not None:
            raise deep
        return _refuse(value, kind)

    return check


def _compile_list(kind: Any, member_kind: Any) -> Check:
    check_member = compile_type(member_kind)

    def check(value: Any) -> Any:
        if not isinstance(value, list):
            _refuse(value, kind)
        checked: list[Any] = []
        try:
            for member in value:
                checked.append(check_member(member))
        except Problem as problem:
            raise problem.within(f"[{len(checked)}]") from None
        return checked

    return check


def _compile_dict(kind: Any, member_kind: Any) -> Check:
    check_member = compile_type(member_kind)

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, kind)
        return {name: _check_key(check_member, name, member) for name, member in value.items()}

    return check


def _check_key(check: Check, name: Any, member: Any) -> Any:
    try:
        return check(member)
    except Problem as problem:
        raise problem.within(f".{shorten(name)}") from None


_shapes: dict[Any, dict[str, tuple[Check, bool]]] = {}  # of TypedDicts, which may hold themselves


def _compile_typed_dict(kind: Any) -> Check:
    if kind not in _shapes:
        members = read_typed_dict(kind)
        shape = _shapes[kind] = {}
        shape.update({key: (compile_type(member), required) for key, (member, required) in members.items()})
    shape = _shapes[kind]

    def check(value: Any) -> Any:
        if not isinstance(value, dict):
            _refuse(value, kind)
        checked = dict(value)
        for key, (check_member, required) in shape.items():
            if key in value:
                checked[key] = _check_key(check_member, key, value[key])
            elif required:
                raise Problem(MissingField, f".{key}", deep=True)
        return checked

    return check


def _compile_model(kind: Any) -> Check:
    def check(value: Any) -> Any:
        try:
            # By way of JSON, in which a date is a string also where all else is strict.
            return kind.model_validate_json(json.dumps(value), strict=True)
        except ValueError as error:
            raise _read_model_error(error) from None

    return check


def _read_model_error(error: Any) -> Problem:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    message = first["msg"]
    deep = first["type"] != "model_type"
    if first["type"] == "missing":
        return Problem(MissingField, path, deep)
    if message.startswith("Input should be "):
        required = message.removeprefix("Input should be ")
        return Problem(lambda path: WrongFieldType(path, first["input"], required), path, deep)
    return Problem(lambda path: InvalidValue(f"Field {shorten(path)} - {shorten(message)}"), path, deep)


def check_type(field: str, value: Any, required: Any) -> None:
    """Raise WrongFieldType, or MissingField for a key in it, unless the value is of the type."""
    try:
        compile_type(required)(value)
    except Problem as problem:
        raise problem.to_error(field) from None
