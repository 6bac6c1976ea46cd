"""
What annotations say: the fields of a TypedDict, and which type is declared for a part of a value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, RootModel
from typing_extensions import TypedDict, is_typeddict

from indico.core.types import QUALIFIERS, UNIONS, name_type

# What a TypedDict has besides its name and its fields.
COPIED = (
    "__module__",
    "__doc__",
    "__total__",
    "__required_keys__",
    "__optional_keys__",
    "__pydantic_config__",
)

Path = tuple[str | int, ...]  # the keys and indexes that lead to a part of a value


def read_fields(kind: Any) -> dict[str, Any]:
    """The fields of a TypedDict or a dataclass and their types. Raises NameError for an unknown name."""
    origin = get_origin(kind) or kind
    arguments = dict(zip(getattr(origin, "__parameters__", ()), get_args(kind)))

    def fill_in(hint: Any) -> Any:
        if isinstance(hint, TypeVar):
            return arguments.get(hint, hint)
        parameters = getattr(hint, "__parameters__", ()) if get_args(hint) else ()
        return hint[tuple(map(fill_in, parameters))] if parameters else hint

    names = {**vars(origin), origin.__name__: origin}  # a class within a function may hold itself
    hints = get_type_hints(origin, localns=names, include_extras=True)
    return {name: fill_in(hint) for name, hint in hints.items()}


def replace_typed_dicts(kind: Any, replaced: dict[Any, Any]) -> Any:
    """
    The type, each TypedDict of `typing` replaced by one of `typing_extensions`: before Python 3.12 pydantic
    takes no other. A TypedDict may hold itself, so `replaced` has those that were met.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if is_typeddict(origin or kind) and type(origin or kind).__module__ == "typing":
        if kind not in replaced:
            replaced[kind] = copy_typed_dict(kind)
            replaced[kind].__annotations__ = {
                name: replace_typed_dicts(hint, replaced) for name, hint in read_fields(kind).items()
            }
        return replaced[kind]
    if str(origin).endswith(".ReadOnly"):  # pydantic would warn that it protects nothing
        return replace_typed_dicts(arguments[0], replaced)
    changed = tuple(replace_typed_dicts(argument, replaced) for argument in arguments)
    if all(one is other for one, other in zip(changed, arguments)):
        return kind
    if origin is Annotated:
        return Annotated[(changed[0], *kind.__metadata__)]
    if origin in UNIONS:
        return UNIONS[0][changed]
    return origin[changed if len(changed) > 1 else changed[0]]


def copy_typed_dict(kind: Any) -> Any:
    """The same TypedDict, without its fields, by `typing_extensions`."""
    origin = get_origin(kind) or kind
    made: Any = TypedDict(name_type(kind), {})  # type: ignore[misc]
    made.__qualname__ = origin.__qualname__.removesuffix(origin.__name__) + made.__name__
    for name, value in vars(origin).items():
        if name in COPIED:
            setattr(made, name, value)
    return made


def find_types(kind: Any, path: Path) -> Iterator[Any]:
    """The types that are declared for this part of a value, several where a union holds it."""
    origin, arguments = get_origin(kind), get_args(kind)
    if not path:
        yield kind
    elif origin in UNIONS:
        for member in arguments:
            yield from find_types(member, path)
    elif origin is Annotated or str(origin).endswith(QUALIFIERS):
        yield from find_types(arguments[0], path)
    elif isinstance(kind, type) and issubclass(kind, RootModel):
        yield from find_types(kind.model_fields["root"].annotation, path)
    else:
        for member in find_members(kind, path[0]):
            yield from find_types(member, path[1:])


def find_members(kind: Any, part: str | int) -> Iterator[Any]:
    origin, arguments = get_origin(kind), get_args(kind)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if part in (name, field.alias, field.validation_alias):
                yield field.annotation
    elif is_typeddict(origin or kind) or dataclasses.is_dataclass(origin or kind):
        yield from (hint for name, hint in read_fields(kind).items() if name == part)
    elif origin is tuple:
        yield arguments[0 if Ellipsis in arguments else int(part)]
    elif arguments and isinstance(origin, type) and issubclass(origin, Iterable):
        yield arguments[issubclass(origin, Mapping)]
