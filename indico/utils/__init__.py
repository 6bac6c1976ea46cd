"""
Decorators for actions and callbacks.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from indico.core import decorators
from indico.core.decorators import add_decorator, check_order, get_info
from indico.core.http.bodies import form_urlencoded_parse as form_urlencoded_parse
from indico.core.http.bodies import smart_parse as smart_parse
from indico.core.http.errors import to_error
from indico.core.http.upload_handler import read_body
from indico.core.http.uploads import Upload as Upload
from indico.core.log import LOGGER as LOGGER
from indico.core.types import TypeMismatch, compile_type
from indico.error import MissingField

Action = Callable[..., Any]


def mongo_callback(handler: Any) -> Callable[[Callable[[Any], Any]], Callable[..., None]]:
    """
    Turn `def f(result)` into the callback `(result, error)` of a database helper.

    An error becomes the response, and so does an exception that `f` raises: an IndicoError as it is, any
    other exception as a ServerError. An error that is not an exception, such as a string, is the data of a
    500. The handler needs only the method `respond(data, code)`.

        @mongo_callback(self)
        def find_callback(result):
            self.respond(result)
    """

    def decorator(function: Callable[[Any], Any]) -> Callable[..., None]:
        if inspect.iscoroutinefunction(function):
            raise TypeError("@mongo_callback takes a plain function; a coroutine can await the helper")

        @functools.wraps(function)
        def callback(result: Any, error: Any = None) -> None:
            if error is not None and not isinstance(error, BaseException):
                handler.respond(error, 500)
                return
            try:
                if error is not None:
                    raise error
                function(result)
            except Exception as problem:
                response = to_error(problem)
                handler.respond(response.message, response.code)

        return callback

    return decorator


def unpack(*names: str, **defaults: Any) -> Callable[[Action], Action]:
    """
    Parse the body and pass the named fields: `@unpack("a", "b")` makes `f(self, a, b)` an action.

    Keywords are optional fields with their defaults: `@unpack("title", pinned=False)`. They come after the
    others. Each request gets its own copy of a default. Raises the errors of `smart_parse`, MissingField for
    the first of `names` that is missing, and a 415 for a compressed body.
    """
    fields = (*names, *defaults)
    if not all(isinstance(name, str) for name in names) or len(set(fields)) < len(fields):
        raise TypeError('@unpack takes each name of a field once: @unpack("name", "email", pinned=False)')

    def decorator(function: Action) -> Action:
        check_order("unpack", function)
        decorators.check_fields(function, fields)
        info = get_info(function)
        decorators.check_defaults(dict(zip(fields, info.types or ())), defaults)

        def pass_fields(self: Any, parsed: dict[str, Any]) -> Any:
            for name in names:
                if name not in parsed:
                    raise MissingField(name)
            values = [parsed[name] for name in names]
            for name, default in defaults.items():
                values.append(parsed[name] if name in parsed else copy.deepcopy(default))
            return function(self, *values)

        action = functools.wraps(function)(read_body(pass_fields, info.types or ()))
        if info.types is not None:  # @type_check then uses these names in its errors
            decorators.set_info(function, replace(info, fields=fields))
        add_decorator("unpack", action, replace(info, fields=fields, defaults=defaults))
        return action

    return decorator


def type_check(*types: Any) -> Callable[[Action], Action]:
    """
    Check the type of each argument of an action: `@type_check(str, int)`. Without types, `@type_check()`
    uses the annotations of the function. `indico.core.types.compile_type` describes the types.

    Raises WrongFieldType, MissingField or InvalidValue for the first wrong value, with the path to it:
    `order.items[3].count`. Fields have the names that `@unpack` above gives them, or else those of the
    function's parameters.
    """
    for required in types:
        compile_type(required)  # a wrong type is a TypeError at import

    def decorator(function: Action) -> Action:
        check_order("type_check", function)
        parameters = tuple(inspect.signature(function).parameters)[1:]
        required = decorators.check_types(function, parameters, types)
        checks = [compile_type(kind) for kind in required]

        @functools.wraps(function)
        def checked(self: Any, *values: Any) -> Any:
            passed: list[Any] = []
            try:
                for check, value in zip(checks, values):
                    passed.append(check(value))
            except TypeMismatch as mismatch:
                names = get_info(checked).fields or parameters  # those of @unpack, if there is one
                raise mismatch.to_error(names[len(passed)]) from None
            return function(self, *passed)

        add_decorator("type_check", checked, replace(get_info(function), types=required))
        return checked

    return decorator
