"""
OpenAPI 3.1: what actions and pages take and respond with, and JSON Schemas of types, by pydantic's generator.
"""

from __future__ import annotations

import http.client
import inspect
import re
from collections.abc import Callable, Iterable
from types import NoneType
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import CoreRef, GenerateJsonSchema
from pydantic_core import to_jsonable_python

from indico.core.adapters import make_adapter
from indico.core.decorators import get_info
from indico.core.http.envelope import name_route
from indico.core.http.pages import PageHandler
from indico.core.mongo.updates import FIELD_NAME, MAX_FIELDS, DocumentOf

Schema = dict[str, Any]  # a JSON Schema
Mode = Literal["validation", "serialization"]  # of a type: what comes in, what goes out

SECURITY = {
    "indico_key": {"type": "apiKey", "in": "header", "name": "indico_key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
STATUS = re.compile(r"^(\d{3}): (.+)\n?", re.MULTILINE)  # within a docstring
TEXT = {"type": "string"}
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}  # the numbers that MongoDB holds, and that bodies may
MILLISECONDS = {"type": "integer", "description": "UTC milliseconds"}
YEARS = {"minimum": -62_135_596_800_000, "maximum": 253_402_300_799_999}  # 1 to 9999, in UTC milliseconds
FIELD_NAMES = {"pattern": f"^{FIELD_NAME}$"}


class OpenAPIDocument:
    """The paths of an OpenAPI document, and the types that they refer to: these are described all at once."""

    def __init__(self) -> None:
        self.paths: dict[str, dict[str, Any]] = {}
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
        meanings = {int(status): meaning for status, meaning in STATUS.findall(text)}
        summary, _, description = STATUS.sub("", text).strip().partition("\n\n")
        occurring = {200, 413, 500, 503, *statuses, *meanings}
        is_page = issubclass(handler, PageHandler)
        operation: dict[str, Any] = {
            "operationId": re.sub(r"\W+", "_", path).strip("_"),
            "tags": ["pages" if is_page else name_route(handler)],
            "summary": " ".join(summary.split()).rstrip("."),
            "description": description.strip(),
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": TEXT}
                for name in re.findall(r"\{(\w+)\}", path)
            ],
        }
        if "auth" in info.decorators:
            operation["security"] = [{name: []} for name in SECURITY]
            occurring.add(401)
        if info.fields is not None:
            kinds = info.types or len(info.fields) * (Any,)
            properties = {field: self.refer(kind) for field, kind in zip(info.fields, kinds)}
            for field, default in info.defaults.items():
                properties[field]["default"] = to_jsonable_python(default)
            required = [field for field in info.fields if field not in info.defaults]
            body = {"type": "object", "properties": properties, "required": required, **self.others}
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
            occurring.add(400)
        result = self.refer(read_result(function), "serialization")
        operation["responses"] = {
            str(status): describe_response(status, meanings.get(status), result if status == 200 else TEXT)
            for status in sorted(occurring)
        }
        if is_page and handler.content_type:
            operation["responses"]["200"]["content"] = {handler.content_type.partition(";")[0]: {}}
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
        "description": meaning or http.client.responses.get(status, "Another answer"),
        "content": {"application/json": {"schema": envelope}},
    }
    if status in (429, 503):
        seconds = {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
        response["headers"] = {"Retry-After": seconds}
    return response


class Generator(GenerateJsonSchema):
    """pydantic's generator, told what this server does: 64 bits, milliseconds, documents by their schema."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stored = False  # whether what is described is part of a document
        self.values: dict[bool, Schema] = {}  # references to what may be anything, by `stored`

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}

    def any_schema(self, schema: Any) -> Schema:
        if self.stored not in self.values:
            name, reference = self.get_cache_defs_ref_schema(
                CoreRef("StoredValue" if self.stored else "Value")
            )
            self.values[self.stored] = reference
            self.definitions[name] = {
                "description": "Whatever JSON holds" + (", as MongoDB takes it" if self.stored else ""),
                "type": ["string", "number", "boolean", "null", "array", "object"],
                **INT64,
                "items": reference,
                "additionalProperties": reference,
                "examples": ["anything"],
                **({"propertyNames": FIELD_NAMES} if self.stored else {}),
            }
        return {**self.values[self.stored]}  # pydantic may add to what it gets

    def int_schema(self, schema: Any) -> Schema:
        return {**super().int_schema(schema), "format": "int64"}

    def float_schema(self, schema: Any) -> Schema:
        return {"format": "double", **INT64, "examples": [1.5], **super().float_schema(schema)}

    def datetime_schema(self, schema: Any) -> Schema:
        if self.mode == "serialization":
            return {**MILLISECONDS}
        return {"anyOf": [super().datetime_schema(schema), {**MILLISECONDS, **YEARS}]}

    def dict_schema(self, schema: Any) -> Schema:
        document = schema.get("metadata", {}).get("document")
        if document is not None:
            return self.document_schema(document)
        if schema.get("keys_schema") == {"type": "any"}:
            schema = {**schema, "keys_schema": {"type": "str"}}
        return super().dict_schema(schema)

    def document_schema(self, document: DocumentOf) -> Schema:
        hidden = (*document.ignored, *document.refused)
        fields = {field: kind for field, kind in document.schema.items() if field not in hidden}
        before, self.stored = self.stored, True
        properties: Schema = {} if document.part else {"_id": {**TEXT, "description": "an ObjectId, in hex"}}
        for field, (kind, _) in fields.items():
            properties[field] = self.generate_inner(make_adapter(kind).core_schema)
        described: Schema = {
            "type": "object",
            "properties": properties,
            "required": [field for field, (_, required) in fields.items() if required and not document.part],
            "patternProperties": {"": self.any_schema({})},
            "propertyNames": FIELD_NAMES,
        }
        self.stored = before
        if document.part:
            described["maxProperties"] = MAX_FIELDS
        if document.refused:
            described["not"] = {"anyOf": [{"required": [field]} for field in document.refused]}
        return described
