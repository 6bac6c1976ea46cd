"""
The actions of a handler: the public functions that a subclass of the application's base handler defines.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from indico.core.decorators import check_name, get_info
from indico.core.http.envelope import name_request
from indico.core.http.streams import StreamHandler
from indico.core.log import LOGGER

CALLED_BY_TORNADO = (
    *("__init__", "initialize", "prepare", "data_received", "post", "on_finish", "on_connection_close"),
    *("clear", "set_default_headers", "write", "flush", "finish", "compute_etag", "decode_argument"),
    *("check_xsrf_cookie", "send_error", "write_error", "log_exception", "set_status", "set_header"),
)


class ActionHandler(StreamHandler):
    """A handler with actions. Its direct subclass is the base of the application's handlers."""

    _base: ClassVar[type[ActionHandler]]
    _inherited: ClassVar[frozenset[str]]  # names that the base has, so they are not actions

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Raise TypeError for an action that no client can call."""
        super().__init_subclass__(**keywords)
        if ActionHandler in cls.__bases__:
            cls._base, cls._inherited = cls, frozenset(dir(cls))
        for name, function in cls._list_members().items():
            if get_info(function).decorators or name in ("delete", "patch", "put"):
                check_name(cls.__name__.removesuffix("Handler"), name, cls._inherited.__contains__)

    @classmethod
    def _list_members(cls) -> dict[str, Any]:
        """Return what the classes below the base define."""
        kinds = [kind for kind in reversed(cls.__mro__) if not issubclass(cls._base, kind)]
        return {name: member for kind in kinds for name, member in vars(kind).items()}

    @classmethod
    def get_action(cls, name: str) -> Callable[..., Any] | None:
        """Return the action of that name: a public function that the base did not have from the start."""
        if name in cls._inherited or name.startswith("_"):
            return None
        # This reads the class's own attributes, because getattr would turn a static method into a function.
        for kind in cls.__mro__:
            if name in vars(kind):
                function = vars(kind)[name]
                return function if inspect.isfunction(function) else None
        return None

    @classmethod
    def list_actions(cls) -> dict[str, Callable[..., Any]]:
        """Return the actions by their names, in the order in which they are written."""
        actions = {name: cls.get_action(name) for name in cls._list_members()}
        return {name: function for name, function in actions.items() if function is not None}

    @classmethod
    @functools.cache
    def overrides_nothing(cls) -> bool:
        """Whether the class overrides no method that Tornado calls. Only then can a handler be lazy."""
        return all(getattr(cls, name) is getattr(cls._base, name) for name in CALLED_BY_TORNADO)

    def start(self) -> None:
        """Run the action of a lazy handler. For other handlers, Tornado calls `post`."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        post: Any = self.post
        try:
            await post(**self.path_kwargs)
        except Exception:  # `post` could not send an error response
            LOGGER.exception("The response to %s can't be sent", name_request(self))
            self._end()
            self.request.connection.close()  # type: ignore[union-attr] # of our own server
