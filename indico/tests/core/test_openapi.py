"""
JSON Schemas of types.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import uuid
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, NotRequired, TypeVar

from bson.objectid import ObjectId
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from indico.core.openapi import Mode, OpenAPIDocument
from indico.core.types import Described
from indico.db import Document, DocumentOf
from indico.tests.testutils.strict import StrictTest

if TYPE_CHECKING:
    from collections import OrderedDict

VALUE = {"$ref": "#/components/schemas/Value"}
STORED = {"$ref": "#/components/schemas/StoredValue"}
INTEGER = {"type": "integer", "format": "int64"}
MILLISECONDS = {"type": "integer", "description": "UTC milliseconds"}
T = TypeVar("T")


class Comment(TypedDict):
    text: str
    replies: list[Comment]
    stars: NotRequired[int]


def make_another() -> Any:
    class Comment(TypedDict):
        text: str

    return Comment


class Tea(BaseModel):
    leaf: Leaf


class Leaf(BaseModel):
    grams: int


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Parent(BaseModel):
    child: Child | None = None


@dataclass
class Child:
    parents: dict[str, Parent]


class Visit(BaseModel):
    at: datetime.datetime
    after: Visit | None = None


class Diary(BaseModel):
    visit: Visit


class Box(BaseModel, Generic[T]):
    content: T


class Cup(BaseModel):
    class Size(BaseModel):
        ounces: int

    size: Size


class Pot(BaseModel):
    class Size(BaseModel):
        liters: float

    size: Size


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    a: int


class Value(BaseModel):
    a: Any


@dataclass
class Point:
    x: int
    y: int = 0


Order = Annotated[Document, Described(title="An order"), DocumentOf({"leaf": (Leaf, True)}), "and more"]


class Ledger(TypedDict):
    orders: list[Order]
    anything: Any


class Held(BaseModel):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    identity: ObjectId = Field(alias="_id")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Lost(TypedDict):
    at: OrderedDict[str, int]


class OpenAPITest(StrictTest):
    def describe(self, kind: Any, mode: Mode = "validation") -> Any:
        """The schema of one type; those that it refers to are then in `self.schemas`."""
        return self.describe_all((kind, mode))[0]

    def describe_all(self, *types: tuple[Any, Mode]) -> list[Any]:
        document = OpenAPIDocument()
        described = [document.refer(kind, mode) for kind, mode in types]
        self.schemas = document.describe_types()
        return described


class TypesTest(OpenAPITest):
    def test_each_type_has_its_schema(self) -> None:
        kinds: list[tuple[Any, Any]] = [
            (Any, VALUE),
            (bool, {"type": "boolean"}),
            (int, INTEGER),
            (list, {"type": "array", "items": VALUE}),
            (list[bool], {"type": "array", "items": {"type": "boolean"}}),
            (dict, {"type": "object", "additionalProperties": VALUE}),
            (dict[str, bool], {"type": "object", "additionalProperties": {"type": "boolean"}}),
            (Literal["s", "m"], {"enum": ["s", "m"], "type": "string"}),
            (bool | None, {"anyOf": [{"type": "boolean"}, {"type": "null"}]}),
            (Annotated[str, Described(format="email"), "and more"], {"type": "string", "format": "email"}),
            (Annotated[str, Field(pattern="^a")], {"type": "string", "pattern": "^a"}),
            (Annotated[int, Field(gt=0)], {**INTEGER, "exclusiveMinimum": 0}),
            (datetime.date, {"type": "string", "format": "date"}),
            (uuid.UUID, {"type": "string", "format": "uuid"}),
            (Iterable[bool], {"type": "array", "items": {"type": "boolean"}}),
            (ObjectId, VALUE),
            (Held, {"$ref": "#/components/schemas/Held"}),
        ]
        for kind, schema in kinds:
            with self.subTest(kind):
                self.assertEqual(self.describe(kind), schema)

    def test_a_number_has_the_bounds_of_a_body(self) -> None:
        number = self.describe(float)
        self.assertEqual((number["minimum"], number["maximum"]), (-(2**63), 2**63 - 1))
        self.assertEqual(self.describe(Annotated[float, Field(ge=0)])["minimum"], 0)

    def test_what_comes_in_and_what_goes_out_may_differ(self) -> None:
        text, milliseconds = self.describe(datetime.datetime)["anyOf"]
        self.assertEqual(text, {"type": "string", "format": "date-time"})
        self.assertEqual({**milliseconds, **MILLISECONDS}, milliseconds)
        self.assertEqual(self.describe(datetime.datetime, "serialization"), MILLISECONDS)
        self.assertEqual(self.describe(decimal.Decimal, "serialization")["type"], "string")
        self.assertEqual(self.describe(bytes)["type"], "string")

    def test_what_one_annotation_adds_is_not_in_the_schema_of_another(self) -> None:
        noted = Field(json_schema_extra={"deprecated": True})
        for kind, schema in ((Any, VALUE), (datetime.datetime, MILLISECONDS)):
            types: Any = ((Annotated[kind, noted], "serialization"), (kind, "serialization"))
            self.assertEqual(self.describe_all(*types), [{**schema, "deprecated": True}, schema])

    def test_an_annotation_that_can_not_be_read_may_be_anything_that_goes_out(self) -> None:
        self.assertEqual(self.describe(Lost, "serialization"), VALUE)
        self.assertEqual(self.describe(AsyncIterator[int], "serialization"), VALUE)

    def test_a_class_that_a_model_holds_and_pydantic_does_not_know_may_be_anything(self) -> None:
        self.describe(Held, "serialization")
        self.assertEqual(self.schemas["Held"]["properties"], {"_id": {}})


class NamesTest(OpenAPITest):
    def test_a_typed_dict_is_kept_by_its_name_also_when_it_holds_itself(self) -> None:
        reference = {"$ref": "#/components/schemas/Comment"}
        self.assertEqual(self.describe(list[Comment]), {"type": "array", "items": reference})
        schema = self.schemas["Comment"]
        self.assertEqual(schema["properties"]["replies"], {"type": "array", "items": reference})
        self.assertEqual(schema["required"], ["text", "replies"])
        self.assertEqual(schema["patternProperties"], {"": VALUE})

    def test_a_model_may_hold_itself(self) -> None:
        reference = {"$ref": "#/components/schemas/Node"}
        self.assertEqual(self.describe(Node), reference)
        self.assertEqual(list(self.schemas["Node"]["properties"]), ["name", "children"])
        self.assertEqual(self.schemas["Node"]["properties"]["children"]["items"], reference)

    def test_models_may_hold_each_other_in_whatever_way(self) -> None:
        self.describe_all((Parent, "validation"), (Box[Box[Node]], "validation"))
        child = self.schemas["Child"]["properties"]["parents"]
        self.assertEqual(child["additionalProperties"], {"$ref": "#/components/schemas/Parent"})
        parent = self.schemas["Parent"]["properties"]["child"]
        self.assertEqual(parent["anyOf"][0], {"$ref": "#/components/schemas/Child"})
        self.assertIn("children", self.schemas["Node"]["properties"])

    def test_nested_models_of_one_name_stay_two_within_a_generic_one(self) -> None:
        cup, pot = self.describe_all((Box[Cup.Size], "validation"), (Box[list[Pot.Size]], "validation"))
        self.assertNotEqual(cup, pot)
        sizes = [list(schema["properties"]) for name, schema in self.schemas.items() if name.endswith("Size")]
        self.assertEqual(sorted(sizes), [["liters"], ["ounces"]])
        for name in self.schemas:
            self.assertRegex(name, r"^[a-zA-Z0-9._-]+$")

    def test_one_that_comes_in_as_it_goes_out_has_one_schema(self) -> None:
        described = self.describe_all((Strict, "validation"), (Strict, "serialization"))
        self.assertEqual(described, 2 * [{"$ref": "#/components/schemas/Strict"}])

    def test_one_that_comes_in_in_another_way_than_it_goes_out_has_two_schemas(self) -> None:
        described = self.describe_all((Diary, "validation"), (Diary, "serialization"))
        self.assertEqual(described[0], {"$ref": "#/components/schemas/Diary-Input"})
        self.assertEqual(described[1], {"$ref": "#/components/schemas/Diary-Output"})
        self.assertEqual(self.schemas["Visit-Output"]["properties"]["at"], MILLISECONDS)
        self.assertIn("anyOf", self.schemas["Visit-Input"]["properties"]["at"])

    def test_two_of_the_same_name_stay_two(self) -> None:
        kinds = (Comment, make_another(), Cup, Pot)
        described = self.describe_all(*((kind, "validation") for kind in kinds))
        self.assertNotEqual(described[0], described[1])
        cup, pot = (self.schemas[name]["properties"]["size"]["$ref"] for name in ("Cup", "Pot"))
        sizes = [self.schemas[reference.rpartition("/")[2]]["properties"] for reference in (cup, pot)]
        self.assertEqual([list(properties) for properties in sizes], [["ounces"], ["liters"]])

    def test_all_names_are_such_as_openapi_allows(self) -> None:
        kinds = [Box[int], Box[list[Leaf]], Box[Box[str]], make_another(), Comment, Cup, Pot, Colour]
        described = self.describe_all(*((kind, "validation") for kind in kinds))
        for name in self.schemas:
            self.assertRegex(name, r"^[a-zA-Z0-9._-]+$")
        self.assertEqual(len({str(schema) for schema in described}), len(kinds))

    def test_a_type_may_have_the_name_of_ours(self) -> None:
        theirs = self.schemas_of(self.describe(Value))
        ours = self.schemas_of(theirs["properties"]["a"])
        self.assertIn("maximum", ours)

    def test_generators_of_clients_find_nothing_recursive_in_what_may_be_anything(self) -> None:
        value = self.schemas_of(self.describe(Any))
        self.assertFalse({"type", "anyOf", "properties", "additionalProperties"} & value.keys())

    def schemas_of(self, reference: dict[str, str]) -> Any:
        return self.schemas[reference["$ref"].rpartition("/")[2]]

    def test_a_model_brings_those_that_it_holds(self) -> None:
        self.assertEqual(self.describe(Tea), {"$ref": "#/components/schemas/Tea"})
        leaf = self.schemas["Tea"]["properties"]["leaf"]
        self.assertEqual(leaf, {"$ref": "#/components/schemas/Leaf"})
        self.assertEqual(self.schemas["Leaf"]["required"], ["grams"])

    def test_a_model_says_which_other_keys_it_takes(self) -> None:
        self.describe(list[Tea | Strict | Point])
        self.assertEqual(self.schemas["Tea"]["patternProperties"], {"": VALUE})
        self.assertEqual(self.schemas["Point"]["patternProperties"], {"": VALUE})
        self.assertEqual(self.schemas["Point"]["required"], ["x"])
        self.assertIs(self.schemas["Strict"]["additionalProperties"], False)
        self.assertNotIn("patternProperties", self.schemas["Strict"])


class DocumentTest(OpenAPITest):
    schema = {"ours": (str, True), "name": (str, True), "tags": (list[bool], False), "any": (list, False)}

    def test_a_document_follows_its_schema(self) -> None:
        whole = self.describe(Annotated[Document, DocumentOf(self.schema)])
        self.assertEqual(list(whole["properties"]), ["_id", *self.schema])
        self.assertEqual(whole["required"], ["ours", "name"])
        self.assertEqual(whole["properties"]["tags"]["items"], {"type": "boolean"})
        self.assertEqual(whole["properties"]["any"]["items"], STORED)
        self.assertIn("propertyNames", self.schemas["StoredValue"])

    def test_it_may_be_a_part_without_some_fields(self) -> None:
        part = self.describe(Annotated[Document, DocumentOf(self.schema, part=True, refused=("ours",))])
        self.assertEqual(list(part["properties"]), ["name", "tags", "any"])
        self.assertEqual(part["required"], [])
        self.assertEqual(part["not"], {"anyOf": [{"required": ["ours"]}]})
        ignoring = self.describe(Annotated[Document, DocumentOf(self.schema, part=True, ignored=("ours",))])
        self.assertNotIn("ours", ignoring["properties"])
        self.assertNotIn("not", ignoring)

    def test_a_strict_part_has_a_field_and_no_others(self) -> None:
        part = self.describe(Annotated[Document, DocumentOf(self.schema, part=True, strict=True)])
        self.assertEqual((part["additionalProperties"], part["minProperties"]), (False, 1))
        self.assertNotIn("patternProperties", part)

    def test_one_within_another_type_is_the_same_whatever_else_describes_it(self) -> None:
        self.describe(Ledger)
        properties = self.schemas["Ledger"]["properties"]
        inner = properties["orders"]["items"]
        self.assertEqual(inner["properties"]["leaf"], {"$ref": "#/components/schemas/Leaf"})
        self.assertEqual(inner["title"], "An order")
        self.assertEqual(inner["patternProperties"], {"": STORED})
        self.assertEqual(properties["anything"], VALUE)
