"""
JSON Schemas of types, by pydantic's generator.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from pydantic.json_schema import CoreRef, GenerateJsonSchema

from indico.core.adapters import make_adapter
from indico.core.http.encoding import encode
from indico.core.mongo.updates import FIELD_NAME, MAX_FIELDS, DocumentOf

Schema = dict[str, Any]  # a JSON Schema

TEXT = {"type": "string"}
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}  # the numbers that MongoDB holds, and that bodies may
MILLISECONDS = {"type": "integer", "description": "UTC milliseconds"}
YEARS = {"minimum": -62_135_596_800_000, "maximum": 253_402_300_799_999}  # 1 to 9999, in UTC milliseconds
FIELD_NAMES = {"pattern": f"^{FIELD_NAME}$"}


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

    def encode_default(self, dft: Any) -> Any:
        if self.mode == "serialization":
            with suppress(TypeError):  # an answer can't hold it: pydantic warns
                return json.loads(encode(dft))
        return super().encode_default(dft)

    def any_schema(self, schema: Any) -> Schema:
        if self.stored not in self.values:
            name, reference = self.get_cache_defs_ref_schema(
                CoreRef("StoredValue" if self.stored else "Value")
            )
            self.values[self.stored] = reference
            self.definitions[name] = {
                "description": "Whatever JSON holds" + (", as MongoDB takes it" if self.stored else ""),
                **INT64,
                "items": reference,
                "if": {"type": "object"},  # generators of clients would take all values for objects
                "then": {"additionalProperties": reference},
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

    def decimal_schema(self, schema: Any) -> Schema:
        if self.mode == "serialization":
            return {**TEXT, "format": "decimal"}
        return super().decimal_schema(schema)

    def bytes_schema(self, schema: Any) -> Schema:
        if self.mode == "serialization":
            return {**TEXT, "contentEncoding": "base64"}
        return super().bytes_schema(schema)

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
        if document.strict:
            del described["patternProperties"]
            described.update(additionalProperties=False, minProperties=1)
        if document.refused:
            described["not"] = {"anyOf": [{"required": [field]} for field in document.refused]}
        return described
