"""
OpenAPI 3.1: what actions and pages take, and what they respond with.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from http.client import responses
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from indico.core.adapters import make_adapter
from indico.core.decorators import get_info
from indico.core.http.envelope import name_route
from indico.core.http.pages import PageHandler
from indico.core.http.upload_handler import takes_uploads
from indico.core.json_schema import TEXT, Generator

Schema = dict[str, Any]  # a JSON Schema
Mode = Literal["validation", "serialization"]  # of a type: what comes in, what goes out

MEANINGS = {
    200: "The result",
    202: "The work is accepted, and done later",
    400: "The body can't be used; `data` says why",
    401: "There is no key, or it is not valid",
    403: "The key does not have the role that this needs",
    413: "The body is too large",
    415: "The body is compressed",
    429: "Too many requests",
    500: "An unexpected error; the log has more",
    503: "The server needs something that is not available at the moment",
    504: "The request took too long",
}
SECURITY = {
    "indico_key": {"type": "apiKey", "in": "header", "name": "indico_key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
STREAMS = (AsyncGenerator, AsyncIterable, AsyncIterator)
STATUS = re.compile(r"^(\d{3}): (.+)\n?", re.MULTILINE)  # within a docstring


class OpenAPIDocument:
    """The paths of an OpenAPI document, and the types that they refer to: these are described all at once."""

    def __init__(self) -> None:
        self.paths: dict[str, dict[str, Any]] = {}
        self.tags: dict[str, str] = {}
        self.types: list[tuple[Any, Mode, Schema]] = []
        # Of the fields that an object does not name. By additionalProperties tools would make such fields.
        self.others = {"patternProperties": {"": self.refer(Any)}}

    def refer(self, kind: Any, mode: Mode = "validation") -> Schema:
        """The schema of a type, empty until `describe_types` is called."""
        schema: Schema = {}
        self.types.append((kind, mode, schema))
        return schema

    def add(self, path: str, function: Callable[..., Any], handler: Any, statuses: Iterable[int]) -> None:
        """Add an action or a page, unless its path has one. `statuses` don't follow from its decorators."""
        info = get_info(function)
        text = inspect.getdoc(function) or ""
        found = {int(status): meaning for status, meaning in STATUS.findall(text)}
        meanings = {**info.statuses, **found}
        summary, _, description = STATUS.sub("", text).strip().partition("\n\n")
        success, returned = info.response or (200, read_result(function))
        occurring = {success, 413, 500, 503, *statuses, *meanings}
        is_page = issubclass(handler, PageHandler)
        tag = "pages" if is_page else name_route(handler)
        self.tags.setdefault(tag, "Read by GET" if is_page else describe_route(handler))
        operation: dict[str, Any] = {
            "operationId": re.sub(r"\W+", "_", path).strip("_"),
            "tags": [tag],
            "summary": " ".join(summary.split()).rstrip("."),
            "description": description.strip(),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": TEXT}
                for name in re.findall(r"\{(\w+)\}", path)
            ]
            + [
                {"name": name, "in": "header", "description": description, "schema": TEXT}
                for name, description in info.headers.items()
            ],
        }
        if "auth" in info.decorators:
            operation["security"] = [{name: []} for name in SECURITY]
            occurring.add(401)
        if "allow" in info.decorators:
            occurring.add(403)
        if info.fields is not None:
            kinds = info.types or len(info.fields) * (Any,)
            properties = {field: self.refer(kind) for field, kind in zip(info.fields, kinds)}
            for field, default in info.defaults.items():
                properties[field]["default"] = to_jsonable_python(default)
            required = [field for field in info.fields if field not in info.defaults]
            body = {"type": "object", "properties": properties, "required": required, **self.others}
            media = "multipart/form-data" if any(map(takes_uploads, kinds)) else "application/json"
            operation["requestBody"] = {"required": True, "content": {media: {"schema": body}}}
            occurring |= {400, 415}
        is_stream = get_origin(returned) in STREAMS or inspect.isasyncgenfunction(inspect.unwrap(function))
        if is_stream:
            returned = next(iter(get_args(returned)), Any)
        result = self.refer(returned, "serialization")
        operation["responses"] = {
            str(status): describe_response(
                status, meanings.get(status), result if status == success else TEXT
            )
            for status in sorted(occurring)
        }
        if is_page and handler.content_type:
            operation["responses"]["200"]["content"] = {handler.content_type.partition(";")[0]: {}}
        if is_stream:
            describe_stream(operation["responses"]["200"])
        self.paths.setdefault(path, {}).setdefault("get" if is_page else "post", operation)

    def describe_types(self) -> dict[str, Schema]:
        """Fill in the schemas. Returns those that they refer to, for `components.schemas`."""
        adapters = []
        for index, (kind, mode, _) in enumerate(self.types):
            try:
                adapters.append((index, mode, make_adapter(kind)))
            except TypeError:  # a return annotation that pydantic does not know
                adapters.append((index, mode, make_adapter(Any)))
        described, rest = TypeAdapter.json_schemas(
            adapters, ref_template="#/components/schemas/{model}", schema_generator=Generator
        )
        for index, (_, mode, schema) in enumerate(self.types):
            schema.update(described[index, mode])
        definitions: dict[str, Schema] = rest["$defs"]
        for schema in definitions.values():
            if "properties" in schema and "additionalProperties" not in schema:
                schema.update(self.others)
        return definitions


def describe_route(handler: Any) -> str:
    """The first paragraph of the docstring of a handler, or else of its file."""
    text = handler.__doc__ or getattr(inspect.getmodule(handler), "__doc__", "") or ""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def read_result(function: Callable[..., Any]) -> Any:
    """The type that a function says it returns, or Any."""
    try:
        result = get_type_hints(function, include_extras=True).get("return", Any)
    except (AttributeError, NameError, TypeError):  # it is one that only a type checker can read
        return Any
    return Any if result is NoneType else result  # it calls `respond`


def describe_response(status: int, meaning: str | None, data: Schema) -> dict[str, Any]:
    """The response of this status, `{"status": ..., "data": ...}`."""
    properties = {"status": {"const": status}, "data": data}
    envelope = {"type": "object", "required": list(properties), "properties": properties}
    response: dict[str, Any] = {
        "description": meaning or MEANINGS.get(status) or responses.get(status, "Another answer"),
        "content": {"application/json": {"schema": envelope}},
    }
    if status in (429, 503):
        seconds = {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


def describe_stream(response: dict[str, Any]) -> None:
    """Make the response a stream: its envelope is then that of each event, and the schema is of an event."""
    [envelope] = response["content"].values()
    properties = {"status": {"type": "integer"}, "data": TEXT}
    error = {"type": "object", "required": list(properties), "properties": properties}
    events = []
    for name, data in (
        ("message", {"contentMediaType": "application/json", "contentSchema": envelope["schema"]}),
        ("error", {"contentMediaType": "application/json", "contentSchema": error}),
        ("end", {"const": "null"}),
    ):
        fields = {"event": {"const": name}, "data": {**TEXT, **data}}
        required = ["data"] if name == "message" else list(fields)  # a message has no name
        schema = {"type": "object", "required": required, "properties": fields, "additionalProperties": False}
        events.append(schema)
    response["content"] = {"text/event-stream": {"schema": {"anyOf": events}}}
