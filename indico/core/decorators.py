"""
What the decorators of an action say of it, and checks of how they are used.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, get_type_hints

from indico.core.types import check_type
from indico.error import IndicoError

ORDER = ("auth", "allow", "limit", "idempotent", "job", "unpack", "type_check")  # from the top
ATTRIBUTE = "action_info"  # of a decorated function


@dataclass(frozen=True)
class ActionInfo:
    """Each decorator keeps what those below it say, and adds its own."""

    decorators: tuple[str, ...] = ()  # their names, from the top
    fields: tuple[str, ...] | None = None  # of the body, as @unpack passes them on
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the fields that may be missing
    types: tuple[Any, ...] | None = None  # of the arguments, as @type_check checks them
    statuses: Mapping[int, str] = field(default_factory=dict)  # additional ones, and their meanings
    headers: Mapping[str, str] = field(default_factory=dict)  # of the request, and their descriptions
    response: tuple[int, Any] | None = None  # status and type, if they are not 200 and the action's


def get_info(function: Callable[..., Any]) -> ActionInfo:
    """What the decorators of a function say of it. A function without any has an empty ActionInfo."""
    info = getattr(function, ATTRIBUTE, None)
    return info if isinstance(info, ActionInfo) else ActionInfo()


def check_order(name: str, function: Callable[..., Any]) -> None:
    """Raise TypeError unless the decorator of this name may stand above those that the function has."""
    top = next(iter(get_info(function).decorators), None)
    if top == name:
        raise TypeError(f"@{name} stands above {function.__qualname__} twice")
    if top is not None and ORDER.index(name) > ORDER.index(top):
        order = " ".join(f"@{decorator}" for decorator in ORDER)
        raise TypeError(f"@{name} goes below @{top}; from the top: {order}")


def add_decorator(name: str, wrapper: Callable[..., Any], info: ActionInfo) -> None:
    """Record that this decorator made the wrapper, and `info` of what it stands above."""
    set_info(wrapper, replace(info, decorators=(name, *info.decorators)))


def set_info(function: Callable[..., Any], info: ActionInfo) -> None:
    setattr(function, ATTRIBUTE, info)


def check_fields(function: Callable[..., Any], fields: tuple[str, ...]) -> None:
    """Raise TypeError unless the function takes these fields, each by its own parameter."""
    signature = inspect.signature(function)
    names = list(signature.parameters)[1:]
    try:
        signature.bind(None, *fields)
        fits = all(name == field or field not in names for name, field in zip(names, fields))
    except TypeError:
        fits = False
    if not fits:
        passed, wanted = ", ".join(fields), ", ".join(f'"{name}"' for name in names)
        raise TypeError(
            f"@unpack passes {passed or 'nothing'} to {function.__qualname__}: write @unpack({wanted})"
        )


def check_defaults(types: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Raise TypeError for a default that does not have the type of its field."""
    for name in types.keys() & defaults.keys():
        try:
            check_type(name, defaults[name], types[name])
        except IndicoError as error:
            raise TypeError(f"The default of {name} can't be used: {error.message}") from None


def check_types(
    function: Callable[..., Any], parameters: tuple[str, ...], types: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Return the types of these parameters: `types`, or if that is empty, the annotations."""
    if not types:
        try:
            annotations = get_type_hints(function, include_extras=True)
        except NameError as error:
            raise TypeError(
                f"@type_check() can't read the annotations of {function.__qualname__}: {error}"
            ) from error
        missing = [name for name in parameters if name not in annotations]
        if missing:
            raise TypeError(
                f"@type_check() takes the types of {function.__qualname__} from its annotations: write one"
                f" for {', '.join(missing)}"
            )
        types = tuple(annotations[name] for name in parameters)
    if len(parameters) != len(types):
        raise TypeError(
            f"@type_check has {len(types)} types for the {len(parameters)} arguments of"
            f" {function.__qualname__}"
        )
    return types


def check_name(route: str, name: str, is_taken: Callable[[str], bool]) -> None:
    """Raise TypeError unless clients can call an action of this name. `is_taken` finds the other methods."""
    if re.fullmatch("[a-zA-Z]+", name) and not is_taken(name):
        return
    first, *others = re.findall("[a-zA-Z]+", name) or ["action"]
    better = first + "".join(word.capitalize() for word in others)
    raise TypeError(
        f"No client can call {route}Handler.{name}: the name of an action consists of the letters a-z, and is"
        " no method of IndicoHandler or Tornado. Rename it, for example to"
        f" {better + route if is_taken(better) else better}."
    )
