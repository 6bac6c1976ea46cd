"""
JSON Schemas of types for an OpenAPI 3.1 document, by pydantic's generator.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from bson.objectid import ObjectId
from pydantic import ConfigDict, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from indico.core.adapters import make_adapter
from indico.core.mongo.updates import FIELD_NAME, MAX_FIELDS, DocumentOf
from indico.core.operations import Mode, Schema

Key = TypeVar("Key")

PREFIX = "#/components/schemas/"
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}  # the numbers that MongoDB holds, and that bodies may
DATETIME = {
    "minimum": -62_135_596_800_000,
    "maximum": 253_402_300_799_999,
}  # UTC milliseconds, years 1 to 9999
ANY = {"type": "any"}  # in pydantic's core schemas
FIELD_NAMES = {"pattern": f"^{FIELD_NAME}$"}
VALUE = "*Value"  # stand for the schema of what may be anything, until it has its name
STORED_VALUE = "*StoredValue"  # and, if it is to be stored, fits into a document


def describe_types(types: Mapping[Key, tuple[Any, Mode]]) -> tuple[dict[Key, Schema], dict[str, Schema]]:
    """The schema of each type, and those that the schemas refer to, for `components.schemas`."""
    adapters = [(key, mode, make_list_adapter(kind, mode)) for key, (kind, mode) in types.items()]
    schemas, rest = TypeAdapter.json_schemas(
        adapters, ref_template=PREFIX + "{model}", schema_generator=Generator
    )
    definitions = rest.get("$defs", {})
    for name in (VALUE, STORED_VALUE):
        definitions[name] = describe_value(name)
    names = name_definitions(definitions)
    described = {names.get(name, name): rename(schema, names) for name, schema in definitions.items()}
    return {key: rename(schemas[key, mode]["items"], names) for key, mode, _ in adapters}, described


def make_list_adapter(kind: Any, mode: Mode = "validation") -> TypeAdapter[Any]:
    # Of a list, because pydantic takes no settings for a model. These let any class be part of a response.
    try:
        return make_adapter(list[kind], ConfigDict(arbitrary_types_allowed=True))
    except TypeError:
        if mode == "validation":
            raise
        return make_adapter(list[Any])  # an annotation that nothing is checked by may be anything


def refer(name: str) -> Schema:
    return {"x-ref": PREFIX + name}  # the generator knows no "$ref" but its own


def describe_value(name: str) -> Schema:
    stored = name == STORED_VALUE
    return {
        "description": "Whatever JSON holds" + (", as MongoDB takes it" if stored else ""),
        "type": ["string", "number", "boolean", "null", "array", "object"],
        **INT64,
        "items": refer(name),
        "additionalProperties": refer(name),
        "examples": ["anything"],
        **({"propertyNames": FIELD_NAMES} if stored else {}),
    }


def name_definitions(definitions: dict[str, Schema]) -> dict[str, str]:
    """
    New names for definitions: ours get theirs, and where what comes in and what goes out are the same,
    though pydantic told them apart because each refers to itself, they share one.
    """
    names = {}
    for name in (VALUE, STORED_VALUE):
        names[name] = name[1:]
        while names[name] in definitions:
            names[name] += "_"
    both = {name[:-6] for name in definitions if name.endswith("-Input")}
    both = {name for name in both if f"{name}-Output" in definitions and name not in definitions}
    different = both
    while different:
        shared = {f"{name}-{mode}": name for name in both for mode in ("Input", "Output")}
        different = {
            name
            for name in both
            if rename(definitions[f"{name}-Input"], shared) != rename(definitions[f"{name}-Output"], shared)
        }
        both = both - different
    return {**names, **shared} if both else names


def rename(value: Any, names: dict[str, str]) -> Any:
    """A schema that refers to definitions by their new names."""
    if isinstance(value, dict):
        return {"$ref" if key == "x-ref" else key: rename(member, names) for key, member in value.items()}
    if isinstance(value, list):
        return [rename(member, names) for member in value]
    if isinstance(value, str) and value.startswith(PREFIX):
        name = value.removeprefix(PREFIX)
        return PREFIX + names.get(name, name)
    return value


class Generator(GenerateJsonSchema):
    """pydantic's generator, told what this server does: 64 bits, milliseconds, documents by their schema."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default", "skipped-discriminator"}
    stored = False  # whether what is described is part of a document

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}

    def any_schema(self, schema: Any) -> Schema:
        return refer(STORED_VALUE if self.stored else VALUE)

    def int_schema(self, schema: Any) -> Schema:
        return {**super().int_schema(schema), "format": "int64"}

    def float_schema(self, schema: Any) -> Schema:
        return {"format": "double", **INT64, "examples": [1.5], **super().float_schema(schema)}

    def datetime_schema(self, schema: Any) -> Schema:
        milliseconds = {"type": "integer", "description": "UTC milliseconds"}
        if self.mode == "serialization":
            return milliseconds
        return {"anyOf": [super().datetime_schema(schema), {**milliseconds, **DATETIME}]}

    def bytes_schema(self, schema: Any) -> Schema:
        encoded = self.mode == "serialization"
        return {"type": "string", "contentEncoding": "base64"} if encoded else super().bytes_schema(schema)

    def is_instance_schema(self, schema: Any) -> Schema:
        if schema["cls"] is ObjectId:
            return {"type": "string", "description": "an ObjectId, in hex"}
        return super().is_instance_schema(schema)

    def list_schema(self, schema: Any) -> Schema:
        return super().list_schema(cast(Any, {"items_schema": ANY, **schema}))

    def dict_schema(self, schema: Any) -> Schema:
        document = schema.get("metadata", {}).get("document")
        if document is not None:
            return self.document_schema(document)
        given = {"keys_schema": {"type": "str"}, "values_schema": ANY, **schema}
        return super().dict_schema(cast(Any, given))

    def typed_dict_schema(self, schema: Any) -> Schema:
        return self.open(super().typed_dict_schema(schema))

    def model_schema(self, schema: Any) -> Schema:
        return self.open(super().model_schema(schema))

    def dataclass_schema(self, schema: Any) -> Schema:
        return self.open(super().dataclass_schema(schema))

    def open(self, described: Schema) -> Schema:
        """Say what values the keys may have that an object does not name, unless it may have no others."""
        # By patternProperties, because of additionalProperties tools make fields that are not there.
        if described.get("type") != "object" or "additionalProperties" in described:
            return described
        return {**described, "patternProperties": {"": self.any_schema({})}}

    def document_schema(self, document: DocumentOf) -> Schema:
        ours = (*document.ignored, *document.refused)
        fields = {field: kind for field, kind in document.schema.items() if field not in ours}
        if not document.part:
            fields = {"_id": (ObjectId, False), **fields}
        before, self.stored = self.stored, True
        properties = {
            field: self.generate_inner(make_list_adapter(kind).core_schema)["items"]
            for field, (kind, _) in fields.items()
        }
        required = [field for field, (_, required) in fields.items() if required and not document.part]
        described: Schema = {
            "type": "object",
            "properties": properties,
            "required": required,
            "patternProperties": {"": self.any_schema({})},
            "propertyNames": FIELD_NAMES,
        }
        self.stored = before
        if document.part:
            described["maxProperties"] = MAX_FIELDS
        if document.refused:
            described["not"] = {"anyOf": [{"required": [field]} for field in document.refused]}
        return described
