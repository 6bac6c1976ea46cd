"""
What the decorators of an action say of it, and the order in which they stand.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

ORDER = ("auth", "allow", "limit", "idempotent", "job", "unpack", "type_check")  # from the top
ATTRIBUTE = "action_info"  # of a decorated function


@dataclass(frozen=True)
class ActionInfo:
    decorators: tuple[str, ...] = ()  # their names, from the top
    fields: tuple[str, ...] | None = None  # of the body, as @unpack passes them on
    defaults: Mapping[str, Any] = field(default_factory=dict)  # of the fields that may be missing
    types: tuple[Any, ...] | None = None  # of the arguments, as @type_check checks them


def get_info(function: Callable[..., Any]) -> ActionInfo:
    """What the decorators of a function say of it. A function without any has an empty ActionInfo."""
    info = getattr(function, ATTRIBUTE, None)
    return info if isinstance(info, ActionInfo) else ActionInfo()


def check_order(name: str, function: Callable[..., Any]) -> None:
    """Raise TypeError if the decorator of this name may not stand right above those that `function` has."""
    above = get_info(function).decorators[:1]
    if above == (name,):
        raise TypeError(f"@{name} stands above {function.__qualname__} twice")
    if above and ORDER.index(name) > ORDER.index(above[0]):
        order = " ".join(f"@{decorator}" for decorator in ORDER)
        raise TypeError(f"@{name} goes below @{above[0]}; from the top: {order}")


def record(name: str, function: Callable[..., Any], wrapper: Callable[..., Any], **said: Any) -> None:
    """Note on the wrapper that it is this decorator's, and what else it says: fields of ActionInfo."""
    info = get_info(function)
    update_info(wrapper, dataclasses.replace(info, decorators=(name, *info.decorators), **said))


def update_info(function: Callable[..., Any], info: ActionInfo) -> None:
    setattr(function, ATTRIBUTE, info)
