"""
What makes an action read like a sentence: decorators, and the parsing of bodies.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import importlib
import inspect
import json
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qs

from indico.core.decorators import check_order, get_info, record, update_info
from indico.core.types import TypeMismatch, compile_type
from indico.error import InvalidJSON, InvalidValue, MissingField, shorten, to_answer

LOGGER = logging.getLogger("indico")
MAX_DEPTH = 100  # levels, as many as MongoDB documents for its own
MAX_CONTAINERS = 20_000  # dicts and lists in a body: many more take long to walk through
MAX_FORM_FIELDS = 1000

Action = Callable[..., Any]


def optional(name: str) -> Any:
    """The module of that name, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


orjson = optional("orjson")  # of the extra `fast`


# Running


class _Later:
    def __repr__(self) -> str:
        return "LATER"


LATER = _Later()  # the outcome of an action that will respond by itself
_running: set[asyncio.Task[Any]] = set()


def spawn(coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """Start a coroutine on the current event loop, which need not run yet, and keep it until it is done."""
    task = asyncio.get_event_loop().create_task(coroutine)
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


async def settle(outcome: Any) -> Any:
    """
    What a call of an action came to: an awaitable is awaited and its result counts, None included; None
    from a plain function becomes LATER.
    """
    if inspect.isawaitable(outcome):
        return await outcome
    return LATER if outcome is None else outcome


def mongo_callback(handler: Any) -> Callable[[Callable[[Any], Any]], Callable[..., None]]:
    """
    Turn `def f(result)` into the callback `(result, error)` of a database helper.

    An error becomes the handler's answer, and so does one that `f` raises: an IndicoError as it is,
    anything else as a ServerError. The handler needs no more than `respond(data, code)`.

        @mongo_callback(self)
        def find_callback(result):
            self.respond(result)
    """

    def decorator(function: Callable[[Any], Any]) -> Callable[..., None]:
        if inspect.iscoroutinefunction(function):
            raise TypeError("@mongo_callback takes a plain function; a coroutine can await the helper")

        @functools.wraps(function)
        def callback(result: Any, error: BaseException | None = None) -> None:
            try:
                if error is not None:
                    raise error
                function(result)
            except Exception as problem:
                answer = to_answer(problem)
                handler.respond(answer.message, answer.code)

        return callback

    return decorator


# Bodies


def _refuse(reason: str) -> Callable[[str], Any]:
    def refuse(text: str) -> Any:
        raise InvalidValue(f"{shorten(text)} {reason}")

    return refuse


_refuse_constant = _refuse("is not JSON")
_refuse_number = _refuse("is too large a number")


def _parse_int(text: str) -> int:
    # 20 characters hold every 64-bit integer, and longer texts are slow to convert.
    value = int(text) if len(text) <= 20 else 2**64
    return value if -(2**63) <= value < 2**63 else _refuse_number(text)


def _parse_float(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _refuse_number(text)


_DECODER = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_refuse_constant)
_LONG_NUMBER = re.compile("[0-9]{19}")  # may be beyond 64 bits
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def levels(value: Any) -> Iterator[list[Any]]:
    """The dicts and lists in a value, level by level, the outermost first."""
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        yield level
        level = [
            member
            for container in level
            for member in (container.values() if isinstance(container, dict) else container)
            if isinstance(member, (dict, list))
        ]


def check_shape(value: Any) -> None:
    """Raise InvalidValue for what is nested deeper than MongoDB stores, or has too many dicts and lists."""
    containers = 0
    for depth, level in enumerate(levels(value), 1):
        containers += len(level)
        if depth > MAX_DEPTH:
            raise InvalidValue(f"The value is nested deeper than {MAX_DEPTH} levels")
        if containers > MAX_CONTAINERS:
            raise InvalidValue(f"The value has more than {MAX_CONTAINERS} objects and lists")


def _decode(body: str | bytes) -> str:
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")  # so that the same is refused, for the same reason
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidValue("The body begins with a byte-order mark")
    if body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:2]:
        raise InvalidValue("The body is UTF-16 or UTF-32 but should be UTF-8")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValue("The body is not valid UTF-8") from error


def _parse_json(text: str) -> Any:
    # orjson is quicker, but takes a number that is too long for a float, and gives no reasons.
    if orjson is not None and not _LONG_NUMBER.search(text):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(text)
    return _DECODER.decode(text)


def smart_parse(body: str | bytes) -> dict[str, Any]:
    """
    The object that a body holds, whatever its Content-Type says: JSON, or a form.

    What begins with a brace, a bracket or a quote is JSON and nothing else. Of two equal keys the last
    wins. Raises InvalidJSON for what is no object, and InvalidValue, which names the reason, for what JSON
    lets through but MongoDB or the next client would choke on: NaN and infinities, integers beyond 64
    bits, lone surrogates, byte-order marks, encodings other than UTF-8, and more than MAX_DEPTH levels.
    """
    text = _decode(body).strip(" \t\r\n")
    if not text.startswith(("{", "[", '"')):
        return form_urlencoded_parse(text)
    try:
        data = _parse_json(text)
    except RecursionError as error:
        raise InvalidValue(f"The value is nested deeper than {MAX_DEPTH} levels") from error
    except ValueError as error:
        raise InvalidJSON() from error
    if not isinstance(data, dict):
        raise InvalidJSON()
    if text.count("{") + text.count("[") > MAX_DEPTH:
        check_shape(data)
    if _SURROGATE.search(text):
        try:
            json.dumps(data, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidValue("The body holds half of a surrogate pair") from error
    return data


def form_urlencoded_parse(body: str | bytes) -> dict[str, Any]:
    """
    The fields of an `application/x-www-form-urlencoded` body, each a string; of two equal ones the last
    wins. Raises InvalidJSON for what is no form or has more than MAX_FORM_FIELDS fields.
    """
    text = _decode(body)
    # Of an empty text the Pythons think differently, and much that is no percent-encoding takes long.
    if not text or re.search("%(?![0-9a-fA-F]{2})", text):
        raise InvalidJSON()
    try:
        fields = parse_qs(
            text,
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_FORM_FIELDS,
        )
    except UnicodeDecodeError as error:
        raise InvalidValue("The body is not valid UTF-8") from error
    except ValueError as error:
        raise InvalidJSON() from error
    return {name: values[-1] for name, values in fields.items()}


# Checking


def check_type(field: str, value: Any, required: Any) -> None:
    """Raise WrongFieldType, or MissingField for a key in it, unless the value is of the type."""
    try:
        compile_type(required)(value)
    except TypeMismatch as mismatch:
        raise mismatch.to_error(field) from None


def unpack(*names: str, **defaults: Any) -> Callable[[Action], Action]:
    """
    Parse the body and pass the named fields on: `@unpack("a", "b")` makes `f(self, a, b)` an action.

    Fields named by keyword may be missing, and then have that value: `@unpack("title", pinned=False)`. They
    come after the others. Each request gets a copy of a default of its own. Raises what `smart_parse`
    raises, and MissingField for the first name, as declared, that the body lacks.
    """
    fields = (*names, *defaults)
    if not all(isinstance(name, str) for name in names) or len(set(fields)) < len(fields):
        raise TypeError(
            '@unpack takes the names of fields, each once: @unpack("name", "email", pinned=False)'
        )

    def decorator(function: Action) -> Action:
        check_order("unpack", function)
        inspect.signature(function).bind(None, *fields)  # a TypeError at import, not at the first request
        info = get_info(function)
        for kind, name in zip(info.types or (), fields):
            if name in defaults:
                _check_default(name, defaults[name], kind)

        @functools.wraps(function)
        def action(self: Any, data: str | bytes) -> Any:
            parsed = smart_parse(data)
            for name in names:
                if name not in parsed:
                    raise MissingField(name)
            values = [parsed[name] for name in names]
            for name, default in defaults.items():
                values.append(parsed[name] if name in parsed else copy.deepcopy(default))
            return function(self, *values)

        if info.types is not None:  # so that @type_check names them as they are named here
            update_info(function, replace(info, fields=fields))
        record("unpack", function, action, fields=fields, defaults=defaults)
        return action

    return decorator


def _check_default(name: str, default: Any, kind: Any) -> None:
    try:
        compile_type(kind)(default)
    except TypeMismatch as mismatch:
        raise TypeError(f"The default of {name} can't be used: {mismatch.to_error(name).message}") from None


def type_check(*types: Any) -> Callable[[Action], Action]:
    """
    Hold the arguments of an action to types, one for each, and raise WrongFieldType for the first that is
    of another, with the path to what is wrong within it: `order.items[3].count`. See
    `indico.core.types.compile_type` for what may be a type. Fields are named as `@unpack` above names
    them, or else after the function's parameters.
    """
    checks = [compile_type(required) for required in types]

    def decorator(function: Action) -> Action:
        check_order("type_check", function)
        parameters = tuple(inspect.signature(function).parameters)[1:]
        if len(parameters) != len(types):
            raise TypeError(
                f"@type_check has {len(types)} types for the {len(parameters)} arguments of"
                f" {function.__qualname__}"
            )

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

        record("type_check", function, checked, types=types)
        return checked

    return decorator
