"""
Operations of an OpenAPI document: what an action or a page takes, and the responses that it may have.
"""

from __future__ import annotations

import http.client
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_type_hints

from indico.core.decorators import get_info

Schema = dict[str, Any]  # a JSON Schema
Mode = Literal["validation", "serialization"]  # of a type: what comes in, what goes out

MEANINGS = {
    200: "What was asked for",
    400: "The body can't be taken; `data` says why",
    401: "No key, or one that opens nothing",
    413: "The body is too large",
    429: "Too many requests for now",
    500: "Nobody expected this; the log says more",
    503: "Something that the server needs can't be had at the moment",
    504: "It took too long",
}
SECURITY = {
    "indico_key": {"type": "apiKey", "in": "header", "name": "indico_key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
STATUS = re.compile(r"^(\d{3}): (.+)\n?", re.MULTILINE)  # within a docstring


@dataclass(frozen=True)
class Operation:
    path: str
    method: str
    function: Callable[..., Any]
    tag: str
    tag_description: str
    content_type: str = ""  # of a page that does not answer with envelopes
    statuses: tuple[int, ...] = ()  # that it may have besides those that follow from its decorators


def list_types(operation: Operation) -> dict[str, tuple[Any, Mode]]:
    """The types of the body's fields, each by its name, and that of the answer by the name ""."""
    info = get_info(operation.function)
    fields = info.fields or ()
    kinds = info.types or (Any,) * len(fields)
    return {
        **{field: (kind, "validation") for field, kind in zip(fields, kinds)},
        "": (read_answer(operation.function), "serialization"),
    }


def read_answer(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns, or Any."""
    try:
        answer = get_type_hints(function, include_extras=True).get("return", Any)
    except (AttributeError, NameError, TypeError):  # it is one that only a type checker can read
        return Any
    return Any if answer is NoneType else answer  # it calls `respond`


def describe_operation(
    operation: Operation, schemas: dict[str, Schema], others: Schema, shared: dict[str, Any]
) -> dict[str, Any]:
    """
    The operation, by the schemas of what `list_types` lists; `others` is that of a field that is not read.
    Responses that many operations have are put into `shared`, for `components.responses`.
    """
    info = get_info(operation.function)
    summary, description, meanings = read_docstring(operation.function)
    statuses = {413, 500, 503, *operation.statuses}
    statuses |= {400} if info.fields is not None else set()
    statuses |= {401} if "auth" in info.decorators else set()
    success = describe_envelope(200, schemas[""], meanings.pop(200, None))
    if operation.content_type:
        success["content"] = {operation.content_type.partition(";")[0]: {}}
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", operation.path).strip("_"),
        "tags": [operation.tag],
        "summary": summary,
        "description": description,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", operation.path)
        ],
        "responses": {"200": success, **describe_errors(statuses, meanings, shared)},
    }
    if "auth" in info.decorators:
        described["security"] = [{name: []} for name in SECURITY]
    if info.fields is not None:
        from pydantic_core import to_jsonable_python

        defaults = {field: {"default": to_jsonable_python(value)} for field, value in info.defaults.items()}
        schema = {
            "type": "object",
            "properties": {field: {**schemas[field], **defaults.get(field, {})} for field in info.fields},
            "required": [field for field in info.fields if field not in info.defaults],
            "patternProperties": {"": others},
        }
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def read_docstring(function: Callable[..., Any]) -> tuple[str, str, dict[int, str]]:
    """Its first paragraph, the others, and what lines such as `401: Facebook ...` say of statuses."""
    text = inspect.getdoc(function) or ""
    meanings = {int(status): meaning for status, meaning in STATUS.findall(text)}
    summary, _, description = STATUS.sub("", text).strip().partition("\n\n")
    return " ".join(summary.split()).rstrip("."), description.strip(), meanings


def describe_envelope(status: int, data: Schema, meaning: str | None) -> dict[str, Any]:
    """The response of this status, `{"status": ..., "data": ...}`; without a meaning, the usual one."""
    envelope = {
        "type": "object",
        "required": ["status", "data"],
        "properties": {"status": {"const": status}, "data": data},
    }
    usual = MEANINGS.get(status) or http.client.responses.get(status, "Another answer")
    return {"description": meaning or usual, "content": {"application/json": {"schema": envelope}}}


def describe_errors(
    statuses: Iterable[int], meanings: dict[int, str], shared: dict[str, Any]
) -> dict[str, Any]:
    """The responses of these statuses, and of those that have a meaning of their own, by status."""
    described: dict[str, Any] = {}
    for status in sorted({*statuses, *meanings}):
        meaning = meanings.get(status)
        response = describe_envelope(status, {"type": "string"}, meaning)
        if status in (429, 503):
            retry = {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
            response["headers"] = {"Retry-After": retry}
        if meaning is None:
            shared[str(status)] = response
            response = {"$ref": f"#/components/responses/{status}"}
        described[str(status)] = response
    return described
