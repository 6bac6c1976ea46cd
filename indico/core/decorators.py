"""
What the decorators of an action say of it, and the order in which they stand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

ORDER = ("auth", "allow", "limit", "idempotent", "job", "unpack", "type_check")  # from the top
ATTRIBUTE = "action_info"  # of a decorated function


@dataclass(frozen=True)
class ActionInfo:
    """Each decorator keeps what those below it say, and adds its own."""

    decorators: tuple[str, ...] = ()  # their names, from the top
    fields: tuple[str, ...] | None = None  # of the body, as @unpack passes them on
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the fields that may be missing
    types: tuple[Any, ...] | None = None  # of the arguments, as @type_check checks them


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
