"""
Parsers for request bodies: JSON and forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs

from indico.core.http.encoding import orjson
from indico.error import IndicoError, InvalidJSON, InvalidValue, shorten

MAX_DEPTH = 100  # levels of nesting; MongoDB documents the same limit
MAX_CONTAINERS = 20_000  # dicts and lists in a body
MAX_FORM_FIELDS = 1000


def _make_rejecter(reason: str) -> Callable[[str], Any]:
    def reject(text: str) -> Any:
        raise InvalidValue(f"{shorten(text)} {reason}")

    return reject


_reject_constant = _make_rejecter("is not JSON")
_reject_number = _make_rejecter("is too large a number")


def _parse_int(text: str) -> int:
    # 20 characters hold every 64-bit integer. Longer strings are slow to convert.
    value = int(text) if len(text) <= 20 else 2**64
    return value if -(2**63) <= value < 2**63 else _reject_number(text)


def _parse_float(text: str) -> float:
    value = float(text)
    return value if abs(value) != float("inf") else _reject_number(text)


_DECODER = json.JSONDecoder(parse_int=_parse_int, parse_float=_parse_float, parse_constant=_reject_constant)
# Numbers that may need more than 64 bits, and escapes that may be half of a surrogate pair.
_UNUSUAL = re.compile(rb"[0-9]{19}|\\u[dD][89a-fA-F]")


def iter_levels(value: Any) -> Iterator[list[Any]]:
    """Yield the dicts and lists in a value, one level of nesting at a time, the outermost first."""
    level = [value] if isinstance(value, (dict, list)) else []
    while level:
        yield level
        level = [
            member
            for container in level
            for member in (container.values() if isinstance(container, dict) else container)
            if isinstance(member, (dict, list))
        ]


def check_levels(value: Any) -> Iterator[list[Any]]:
    """Yield the levels of a value. Raises InvalidValue above MAX_DEPTH levels or MAX_CONTAINERS."""
    containers = 0
    for depth, level in enumerate(iter_levels(value), 1):
        containers += len(level)
        if depth > MAX_DEPTH:
            raise InvalidValue(f"The value is nested deeper than {MAX_DEPTH} levels")
        if containers > MAX_CONTAINERS:
            raise InvalidValue(f"The value has more than {MAX_CONTAINERS} objects and lists")
        yield level


def _decode(body: str | bytes) -> str:
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")  # strings and bytes get the same errors
    if body.startswith(b"\xef\xbb\xbf"):
        raise InvalidValue("The body begins with a byte-order mark")
    if body.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in body[:2]:
        raise InvalidValue("The body is UTF-16 or UTF-32 but should be UTF-8")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidValue("The body is not valid UTF-8") from error


def _parse_quickly(body: bytes) -> Any:
    """Return the value of usual JSON. For everything else return None."""
    if orjson is None or _UNUSUAL.search(body):
        return None
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:  # it does not name the reason
        return None


def _parse_carefully(body: bytes) -> Any:
    text = _decode(body).strip(" \t\r\n")
    if not text.startswith(("{", "[", '"')):
        return form_urlencoded_parse(text)
    try:
        data = _DECODER.decode(text)
        if _UNUSUAL.search(body):
            json.dumps(data, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise InvalidValue(f"The value is nested deeper than {MAX_DEPTH} levels") from error
    except UnicodeEncodeError as error:
        raise InvalidValue("The body contains half of a surrogate pair") from error
    except ValueError as error:
        raise InvalidJSON() from error
    return data


def check_encoding(headers: Mapping[str, str]) -> None:
    """Raise a 415 if the body is compressed."""
    encoding = headers.get("Content-Encoding", "identity")
    if encoding.lower() not in ("identity", ""):
        raise IndicoError(f"A body with the Content-Encoding {shorten(encoding)} can't be read", 415)


def smart_parse(body: str | bytes) -> dict[str, Any]:
    """
    Parse a body as JSON or as a form, regardless of its Content-Type.

    A body that begins with a brace, a bracket or a quote is JSON. If a key appears twice, the last value is
    used. Raises InvalidJSON if the body is not an object. Some JSON parsers accept values that MongoDB or
    other clients can't read. Raises InvalidValue with the reason for these: NaN and infinities, integers over
    64 bits, lone surrogates, byte-order marks, encodings other than UTF-8, and more than MAX_DEPTH levels.
    """
    if isinstance(body, str):
        body = body.encode("utf-8", "surrogatepass")  # strings and bytes get the same errors
    data = _parse_quickly(body)
    if data is None:
        data = _parse_carefully(body)
    if not isinstance(data, dict):
        raise InvalidJSON()
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH:
        for _ in check_levels(data):
            pass
    return data


def form_urlencoded_parse(body: str | bytes) -> dict[str, Any]:
    """
    Parse an `application/x-www-form-urlencoded` body. All values are strings. If a field appears twice, the
    last value is used. Raises InvalidJSON if the body is not a form or has more than MAX_FORM_FIELDS fields.
    """
    text = _decode(body)
    # Versions of Python parse the empty string differently. Many invalid percent-encodings are slow to parse.
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
