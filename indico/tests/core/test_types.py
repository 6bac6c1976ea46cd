"""
Types in depth: what passes, and how what doesn't is named.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import subprocess
import sys
import time
import typing
import unittest
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NewType, Optional, TypeVar

import typing_extensions
from bson.objectid import ObjectId
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PastDatetime, RootModel, field_validator
from typing_extensions import TypedDict

from indico.core.types import Described, check_type, compile_type, make_empty
from indico.error import IndicoError
from indico.routes.handler import IndicoHandler
from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack


class Item(TypedDict):
    name: str
    count: int


class Order(TypedDict):
    items: list[Item]
    note: typing_extensions.NotRequired[str | None]


class Address(TypedDict, total=False):
    street: typing_extensions.Required[str]
    city: str


class Comment(TypedDict):
    text: str
    replies: list[Comment]


class Tea(BaseModel):
    kind: Literal["green", "black"]
    grams: int = Field(gt=0)
    notes: list[str] = []

    @field_validator("notes")
    @classmethod
    def check_notes(cls, notes: list[str]) -> list[str]:
        if len(notes) > 2:
            raise ValueError("two notes are enough")
        return notes


class Coffee(BaseModel):
    kind: Literal["arabica"]
    cups: int
    hot: bool = Field(alias="isHot", default=True)
    notes: dict[str, int] = {}


class Cupboard(BaseModel):
    rows: list[list[Tea | Coffee]]
    names: dict[str, list[Tea]] = Field(alias="byName", default={})
    pair: tuple[int, set[int] | None] = (0, None)


class Colour(str, enum.Enum):  # noqa: UP042 - people write it
    RED = "red"
    BLUE = "blue"


T = TypeVar("T")


class Pair(TypedDict, Generic[T]):
    one: T
    more: list[T]


class Closed(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    a: int


class Box(BaseModel, Generic[T]):
    content: T


class Tags(RootModel[list[str]]):
    pass


class Tree(BaseModel):
    child: Tree | int | None = None


class Visit(BaseModel):
    at: datetime.datetime
    past: PastDatetime
    type: str
    after: Visit | None = None
    default: dict[str, str] = {"type": "date"}


@dataclass
class Point:
    x: int


@dataclass
class Trip:
    at: datetime.datetime


def repeat(value: str) -> str:
    raise ValueError(value)


class TypeTest(StrictTest):
    def assert_taken(self, kind: Any, *values: Any) -> None:
        for value in values:
            with self.subTest(value):
                check_type("order", value, kind)

    def assert_refused(self, kind: Any, *expected: tuple[Any, str]) -> None:
        for value, message in expected:
            with self.subTest(value), self.assertRaises(IndicoError) as caught:
                check_type("order", value, kind)
            self.assertEqual((caught.exception.message, caught.exception.code), (message, 400))


class CollectionTest(TypeTest):
    def test_members_of_a_list_have_its_type(self) -> None:
        self.assert_taken(list[str], [], ["a", ""])
        self.assert_refused(
            list[str],
            (7, "Field order - 7 is type int but should be list[str]"),
            (["a", "b", 7], "Field order[2] - 7 is type int but should be str"),
        )

    def test_values_of_a_dict_have_its_type(self) -> None:
        self.assert_taken(dict[str, int], {}, {"a": 1})
        self.assert_refused(
            dict[str, int],
            ([], "Field order - [] is type list but should be dict[str, int]"),
            ({"a": 1, "b": True}, "Field order.b - True is type bool but should be int"),
        )

    def test_what_is_any_is_not_looked_at(self) -> None:
        self.assert_taken(dict[str, Any], {"a": [1, "x", None]})
        self.assert_refused(dict[str, Any], ([], "Field order - [] is type list but should be dict"))

    def test_a_long_key_is_cut(self) -> None:
        with self.assertRaises(IndicoError) as caught:
            check_type("order", {100_000 * "x": {"name": "a"}}, dict[str, Item])
        self.assertEqual(caught.exception.message, f"order.{100 * 'x'}....count field was not provided")


class ChoiceTest(TypeTest):
    def test_one_of_several_types_is_enough(self) -> None:
        self.assert_taken(int | None, 1, None)
        self.assert_taken(Optional[int], 1, None)  # noqa: UP045 - people write it
        self.assert_taken(typing.List, [1])  # noqa: UP006
        self.assert_taken(str | list[str], "a", ["a"])
        self.assert_refused(
            int | None,
            ("x", "Field order - x is type str but should be int | None"),
            (True, "Field order - True is type bool but should be int | None"),
        )

    def test_what_is_wrong_within_one_of_them_is_named(self) -> None:
        self.assert_refused(None | list[int], (["x"], "Field order[0] - x is type str but should be int"))

    def test_a_literal_is_one_of_its_values(self) -> None:
        self.assert_taken(Literal["s", 1], "s", 1)
        wrong: Any
        for wrong in ("m", True, 1.0, None, [], {}):
            name = type(wrong).__name__
            self.assert_refused(
                Literal["s", 1], (wrong, f"Field order - {wrong} is type {name} but should be 's' | 1")
            )


class TypedDictTest(TypeTest):
    def test_it_is_checked_in_depth(self) -> None:
        items = [{"name": "tea", "count": 2} for _ in range(4)]
        self.assert_taken(Order, {"items": items}, {"items": [], "note": None}, {"items": [], "more": 1})
        wrong = [*items[:3], {"name": "tea", "count": "x"}]
        self.assert_refused(
            Order,
            ([], "Field order - [] is type list but should be Order"),
            ({"items": wrong}, "Field order.items[3].count - x is type str but should be int"),
            ({"items": [], "note": 1}, "Field order.note - 1 is type int but should be str | None"),
        )

    def test_a_missing_key_is_named(self) -> None:
        self.assert_refused(
            Order,
            ({}, "order.items field was not provided"),
            ({"items": [{"name": "tea"}]}, "order.items[0].count field was not provided"),
        )

    def test_required_and_not_required_keys_may_be_mixed(self) -> None:
        self.assert_taken(Address, {"street": "a"})
        self.assert_refused(
            Address,
            ({}, "order.street field was not provided"),
            ({"street": "", "city": 1}, "Field order.city - 1 is type int but should be str"),
        )

    @unittest.skipIf(sys.version_info >= (3, 12), "pydantic takes it")
    def test_that_of_typing_is_refused_before_python_3_12(self) -> None:
        class Old(typing.TypedDict):
            a: int

        with self.assertRaisesRegex(
            TypeError,
            "^Old is not a type that can be checked: Please use `typing_extensions.TypedDict` instead of"
            " `typing.TypedDict` on Python < 3.12.",
        ):
            type_check(Old)

    def test_it_may_hold_itself(self) -> None:
        reply = {"text": "b", "replies": []}
        self.assert_taken(Comment, {"text": "a", "replies": [reply]})
        self.assert_refused(
            Comment,
            (
                {"text": "a", "replies": [reply, {"text": 1}]},
                "Field order.replies[1].text - 1 is type int but should be str",
            ),
        )

    def test_the_action_gets_a_plain_dict(self) -> None:
        @unpack("order")
        @type_check(Order)
        def action(handler: Any, order: Order) -> Any:
            return order

        order = action(None, '{"order": {"items": [{"name": "tea", "count": 2, "x": 1}], "y": 2}}')
        self.assertEqual(order, {"items": [{"name": "tea", "count": 2}]})
        self.assertIs(type(order), dict)

    def test_within_a_model_that_allows_other_keys_it_drops_them(self) -> None:
        class Open(TypedDict):
            __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
            a: int

        class Shelf(BaseModel):
            model_config = ConfigDict(extra="allow")
            item: Item
            more: list[Item | None]
            point: Point
            open: Open

        item = {"name": "tea", "count": 2}
        other = {**item, "roles": ["admin"]}
        value = {"item": other, "more": [other], "point": {"x": 1, "y": 2}, "open": {"a": 1, "b": 2}, "c": 3}
        made = compile_type(list[Shelf])([value])[0]
        self.assertEqual((made.item, made.more, made.c), (item, [item], 3))
        self.assertEqual(vars(made.point), {"x": 1})
        self.assertEqual(made.open, {"a": 1, "b": 2})

    def test_its_own_setting_for_other_keys_holds(self) -> None:
        self.assert_taken(Closed, {"a": 1})
        self.assert_refused(Closed, ({"a": 1, "b": 2}, "Field order.b - 2: Extra inputs are not permitted"))

    def test_it_may_be_part_of_any_other_type(self) -> None:
        few = Annotated[list[Item], Field(max_length=1)]
        item, wrong = {"name": "a", "count": 1, "more": 1}, {"name": "a"}
        kinds: list[tuple[Any, Any, Any, str]] = [
            (few, [item], [wrong], "[0]"),
            (few | Point, [item], [wrong], "[0]"),
            (dict[str, Item], {"a": item}, {"a": wrong}, ".a"),
            (tuple[int, Item], [1, item], [1, wrong], "[1]"),
        ]
        for kind, value, other, path in kinds:
            self.assertNotIn("more", str(compile_type(kind)(value)))
            self.assert_refused(kind, (other, f"order{path}.count field was not provided"))
        self.assert_refused(
            few,
            (
                [item, item],
                f"Field order - {[item, item]}: List should have at most 1 item after validation, not 2",
            ),
        )

    def test_one_within_a_function_may_hold_itself(self) -> None:
        class Local(TypedDict):
            inner: typing_extensions.NotRequired[Local]  # type: ignore[misc]

        @dataclass
        class Other:
            inner: Other | None = None

        for kind, name in ((Local, "dict"), (Other, "Other")):
            message = f"Field order.inner.inner - 1 is type int but should be {name}"
            self.assert_taken(kind, {"inner": {"inner": {}}})
            self.assert_refused(kind, ({"inner": {"inner": 1}}, message))

    def test_it_may_be_generic(self) -> None:
        self.assertEqual(compile_type(Pair[int])({"one": 1, "more": [2]}), {"one": 1, "more": [2]})
        self.assert_refused(
            Pair[int],
            ({"one": "x", "more": []}, "Field order.one - x is type str but should be int"),
            ({"one": 1, "more": 2}, "Field order.more - 2 is type int but should be list[int]"),
            ({"one": 1, "more": ["x"]}, "Field order.more[0] - x is type str but should be int"),
            (7, "Field order - 7 is type int but should be Pair[int]"),
        )
        self.assert_taken(Pair, {"one": "x", "more": []})
        self.assert_refused(
            list[Pair[str]], ([{"one": 1}], "Field order[0].one - 1 is type int but should be str")
        )


class ModelTest(TypeTest):
    def test_the_action_gets_the_model(self) -> None:
        @unpack("teas")
        @type_check(list[Tea])
        def action(handler: Any, teas: list[Tea]) -> list[Tea]:
            return teas

        self.assertEqual(
            action(None, '{"teas": [{"kind": "green", "grams": 5}]}'), [Tea(kind="green", grams=5)]
        )

    def test_what_is_wrong_is_named_as_elsewhere(self) -> None:
        good = {"kind": "green", "grams": 5}
        self.assert_refused(
            Tea,
            ({"kind": "green"}, "order.grams field was not provided"),
            ({**good, "grams": "5"}, "Field order.grams - 5 is type str but should be int"),
            ({**good, "grams": 0}, "Field order.grams - 0: Input should be greater than 0"),
            ({**good, "kind": "x"}, "Field order.kind - x: Input should be 'green' or 'black'"),
            ({**good, "notes": 7}, "Field order.notes - 7 is type int but should be list[str]"),
            ({**good, "notes": ["a", 1]}, "Field order.notes[1] - 1 is type int but should be str"),
            (
                {**good, "notes": ["a"] * 3},
                "Field order.notes - ['a', 'a', 'a']: Value error, two notes are enough",
            ),
            (7, "Field order - 7 is type int but should be Tea"),
        )

    def test_of_a_model_or_nothing_what_is_wrong_within_is_named(self) -> None:
        self.assert_taken(Tea | None, None)
        self.assert_refused(
            Tea | None,
            ({"kind": "green"}, "order.grams field was not provided"),
            (7, "Field order - 7 is type int but should be Tea | None"),
        )


class StrictnessTest(TypeTest):
    """Values as JSON has them: nothing is converted that is not written as the type is."""

    def assert_made(self, kind: Any, value: Any, made: Any) -> None:
        checked = compile_type(kind)(value)
        self.assertEqual((checked, type(checked)), (made, type(made)))

    def test_an_enum_is_its_value(self) -> None:
        self.assertIs(compile_type(Colour)("red"), Colour.RED)
        self.assertIs(compile_type(dict[str, Colour])({"a": "red"})["a"], Colour.RED)
        self.assert_made(Literal[Colour.RED], "red", Colour.RED)
        self.assert_refused(
            Colour,
            ("pink", "Field order - pink: Input should be 'red' or 'blue'"),
            (7, "Field order - 7: Input should be 'red' or 'blue'"),
        )

    def test_each_is_read_from_what_json_has_for_it(self) -> None:
        identity = uuid.UUID(int=7)
        for kind, value, made in (
            (datetime.date, "2020-02-29", datetime.date(2020, 2, 29)),
            (uuid.UUID, str(identity), identity),
            (decimal.Decimal, "1.50", decimal.Decimal("1.50")),
            (decimal.Decimal, 0.1, decimal.Decimal("0.1")),
            (set[int], [1, 2, 1], {1, 2}),
            (tuple[int, str], [1, "a"], (1, "a")),
            (dict[int, str], {"7": "a"}, {7: "a"}),
            (Point, {"x": 1, "more": 2}, Point(1)),
            (bytes, "é", "é".encode()),
            (Box[int], {"content": 1}, Box[int](content=1)),
            (Tags, ["a"], Tags(["a"])),
            (NewType("Count", int), 2**63 - 1, 2**63 - 1),
            (Annotated[int, Field(ge=-(2**63))], -(2**63), -(2**63)),
            (float | datetime.date, -0.0, -0.0),
            (float | datetime.date, 1.7976931348623157e308, 1.7976931348623157e308),
        ):
            with self.subTest(kind):
                self.assert_made(kind, value, made)

    def test_an_iterable_is_a_list_and_checked_before_the_action_runs(self) -> None:
        self.assert_made(Iterable[int], [1, 2], [1, 2])
        self.assert_refused(Iterable[int], ([1, "x"], "Field order[1] - x is type str but should be int"))

    def test_an_error_that_a_validator_raises_is_the_answer(self) -> None:
        def refuse(value: str) -> str:
            raise IndicoError("Sold out", 409)

        with self.assertRaisesRegex(IndicoError, "Sold out"):
            check_type("order", "x", Annotated[str, AfterValidator(refuse)])

    def test_nothing_else_is_taken_for_it(self) -> None:
        positive = Annotated[int, Field(gt=0)]
        self.assert_refused(
            positive,
            ("7", "Field order - 7 is type str but should be int"),
            (True, "Field order - True is type bool but should be int"),
            (1.0, "Field order - 1.0 is type float but should be int"),
            (None, "Field order - None is type NoneType but should be int"),
        )
        self.assert_refused(datetime.date, (7, "Field order - 7 is type int but should be date"))
        self.assert_refused(uuid.UUID, (7, "Field order - 7 is type int but should be UUID"))
        self.assert_refused(set[int], ({}, "Field order - {} is type dict but should be set[int]"))
        self.assert_refused(tuple[int, ...], ([1, "2"], "Field order[1] - 2 is type str but should be int"))

    def test_an_annotated_pattern_counts(self) -> None:
        name = Annotated[str, Described(examples=["ab"]), Field(pattern="^[a-z]+$")]
        self.assert_taken(name, "ab")
        self.assert_refused(
            name,
            ("A", "Field order - A: String should match pattern '^[a-z]+$'"),
            (7, "Field order - 7 is type int but should be str"),
        )

    def test_a_long_value_and_a_long_message_are_cut(self) -> None:
        for kind in (datetime.date, Annotated[str, AfterValidator(repeat)]):
            with self.assertRaises(IndicoError) as caught:
                check_type("order", 1_000_000 * "x", kind)
            self.assertIn(f" - {100 * 'x'}...: ", caught.exception.message)
            self.assertLess(len(caught.exception.message), 1300)

    def test_a_value_that_comes_from_code_need_not_be_json(self) -> None:
        now = datetime.datetime(2020, 1, 2, tzinfo=datetime.UTC)
        self.assert_taken(datetime.datetime, now)
        self.assert_taken(bytes, b"\xff")
        self.assert_taken(Tea, Tea(kind="green", grams=1))
        self.assert_refused(
            list[datetime.date],
            ([ObjectId(24 * "0")], f"Field order[0] - {24 * '0'} is type ObjectId but should be date"),
        )


class DatetimeTest(TypeTest):
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5, 678_000, tzinfo=datetime.UTC)
    milliseconds = 1_577_934_245_678

    def test_it_is_an_iso_text_or_utc_milliseconds(self) -> None:
        check = compile_type(datetime.datetime)
        for value in (self.milliseconds, "2020-01-02T03:04:05.678Z", "2020-01-02T04:04:05.678+01:00"):
            self.assertEqual(check(value), self.moment)
        self.assertEqual(check(-1), datetime.datetime(1969, 12, 31, 23, 59, 59, 999_000, datetime.UTC))

    def test_it_is_so_within_everything(self) -> None:
        visit = {"at": self.milliseconds, "past": self.milliseconds, "type": "1"}
        made = compile_type(dict[str, list[Visit]])({"a": [visit, {**visit, "after": visit}]})["a"][1]
        self.assertEqual([made.at, made.past, made.after.at, made.type], 3 * [self.moment] + ["1"])
        self.assertEqual(made.default, {"type": "date"})
        self.assertEqual(compile_type(Trip)({"at": self.milliseconds}), Trip(self.moment))
        self.assertEqual(compile_type(str | datetime.datetime)(self.milliseconds), self.moment)

    def test_a_number_in_quotes_is_none(self) -> None:
        for value in ("7", str(self.milliseconds), "-1.5", "86400"):
            self.assert_refused(
                datetime.datetime,
                (value, f"Field order - {value}: Input should be a valid datetime, it is a number"),
            )
            self.assert_refused(
                list[datetime.date],
                (
                    [value],
                    f"Field order[0] - {value}: Input should be a valid date in the format YYYY-MM-DD,"
                    " it is a number",
                ),
            )

    def test_another_value_is_refused(self) -> None:
        self.assert_refused(
            datetime.datetime | None,
            (1.5, "Field order - 1.5 is type float but should be datetime | None"),
            (True, "Field order - True is type bool but should be datetime | None"),
            (
                2**62,
                f"Field order - {2**62}: Input should be a valid datetime, of the years 1 to 9999",
            ),
            ("x", "Field order - x: Input should be a valid datetime, input is too short"),
        )
        visit = {"at": 0, "past": 32_503_680_000_000, "type": "1"}
        self.assert_refused(Visit, (visit, "Field order.past - 32503680000000: Input should be in the past"))


class PathTest(TypeTest):
    """Of pydantic's errors the first counts, and its path has what the value has."""

    def test_the_members_of_a_union_are_no_part_of_it(self) -> None:
        kind = list[Tea | Point]
        self.assert_refused(
            kind,
            ([{"kind": "green"}], "order[0].grams field was not provided"),
            ([{"kind": "green", "grams": "x"}], "Field order[0].grams - x is type str but should be int"),
            ([7], "Field order[0] - 7 is type int but should be Tea | Point"),
        )

    def test_the_tag_of_a_member_is_no_part_of_it(self) -> None:
        kind = Annotated[Tea | Coffee, Field(discriminator="kind")]
        self.assert_refused(
            kind,
            ({"kind": "arabica", "cups": "x"}, "Field order.cups - x is type str but should be int"),
            ({"kind": "green"}, "order.grams field was not provided"),
        )
        with self.assertRaisesRegex(IndicoError, "Field order - .*'x'.*: Input tag 'x' found using 'kind'"):
            check_type("order", {"kind": "x"}, kind)

    def test_a_wrong_key_is_named(self) -> None:
        with self.assertRaisesRegex(IndicoError, "Field order.x - x: Input should be a valid integer"):
            check_type("order", {"x": "a"}, dict[int, str])

    def test_a_field_is_named_as_the_client_writes_it(self) -> None:
        self.assert_refused(
            Coffee,
            (
                {"kind": "arabica", "cups": 1, "isHot": 1},
                "Field order.isHot - 1 is type int but should be bool",
            ),
        )

    def test_the_type_that_is_expected_is_named(self) -> None:
        for kind, value, message in (
            (Tags, [1], "order[0] - 1 is type int but should be str"),
            (Tags, 1, "order - 1 is type int but should be Tags"),
            (Box[list[int]], {"content": 1}, "order.content - 1 is type int but should be list[int]"),
            (Trip, {"at": 1.5}, "order.at - 1.5 is type float but should be datetime"),
            (Trip, 1, "order - 1 is type int but should be Trip"),
            (tuple[int, str], [1, 2], "order[1] - 2 is type int but should be str"),
            (tuple[int, ...], 1, "order - 1 is type int but should be tuple[int, ...]"),
            (list[Annotated[int, Field(gt=0)]], ["x"], "order[0] - x is type str but should be int"),
            (NewType("Count", Annotated[int, Field(gt=0)]), "x", "order - x is type str but should be Count"),
            (dict[str, Point], {"a": 1}, "order.a - 1 is type int but should be Point"),
            (list[Item], [1], "order[0] - 1 is type int but should be Item"),
            (list[uuid.UUID], [1], "order[0] - 1 is type int but should be UUID"),
        ):
            self.assert_refused(kind, (value, f"Field {message}"))

    def test_within_a_value_the_type_is_named_as_declared(self) -> None:
        tea, coffee = {"kind": "green", "grams": 1}, {"kind": "arabica", "cups": 1}
        tagged = Annotated[Tea | Coffee, Field(discriminator="kind")]
        for kind, value, message in (
            (Cupboard, {"rows": [[1]]}, "order.rows[0][0] - 1 is type int but should be Tea | Coffee"),
            (Cupboard, {"rows": [1]}, "order.rows[0] - 1 is type int but should be list[Tea | Coffee]"),
            (
                Cupboard,
                {"rows": [[{**tea, "notes": [1]}]]},
                "order.rows[0][0].notes[0] - 1 is type int but should be str",
            ),
            (
                Cupboard,
                {"rows": [], "byName": {"a": 1}},
                "order.byName.a - 1 is type int but should be list[Tea]",
            ),
            (
                Cupboard,
                {"rows": [], "byName": {"a": [1]}},
                "order.byName.a[0] - 1 is type int but should be Tea",
            ),
            (
                Cupboard,
                {"rows": [], "pair": [1, 2]},
                "order.pair[1] - 2 is type int but should be set[int] | None",
            ),
            (
                Cupboard,
                {"rows": [], "pair": [1, ["x"]]},
                "order.pair[1][0] - x is type str but should be int",
            ),
            (list[tagged], [{**tea, "notes": 1}], "order[0].notes - 1 is type int but should be list[str]"),
            (tagged, {**coffee, "notes": 1}, "order.notes - 1 is type int but should be dict[str, int]"),
            (
                list[Tea] | Point,
                [{**tea, "notes": 1}],
                "order[0].notes - 1 is type int but should be list[str]",
            ),
            (
                Box[Pair[Box[int]]],
                {"content": {"one": 1, "more": []}},
                "order.content.one - 1 is type int but should be Box[int]",
            ),
            (NewType("Teas", list[Tea]), [1], "order[0] - 1 is type int but should be Tea"),
            (list[Tags], [[1]], "order[0][0] - 1 is type int but should be str"),
        ):
            self.assert_refused(kind, (value, f"Field {message}"))

    def test_it_may_be_deep(self) -> None:
        value: Any = {"child": "x"}
        for _ in range(90):
            value = {"child": value}
        path = f"order{91 * '.child'}"
        self.assert_refused(
            Tree, (value, f"Field {path:.100}... - x is type str but should be Tree | int | None")
        )

    def test_very_many_errors_are_not_listed(self) -> None:
        began = time.monotonic()
        with self.assertRaisesRegex(IndicoError, r"^Field order - \[0, .*: more than 50000 values in it"):
            check_type("order", 200_000 * [0], list[Point])
        self.assertLess(time.monotonic() - began, 5)


class PaintHandler(IndicoHandler):
    @unpack("trees", "colour", "day", price=decimal.Decimal("1.5"), at=None)
    @type_check(list[Tree], Colour, datetime.date, decimal.Decimal, datetime.datetime | None)
    async def mix(self, trees: list[Tree], colour: Colour, day: Any, price: Any, at: Any) -> list[str]:
        return [type(trees[0].child).__name__, colour.name, day.isoformat(), str(price), str(at)]


class ServedTest(ServerTest):
    routes = [(r"/paint/(?P<action>[a-zA-Z]+)?", PaintHandler)]
    stores = False
    body = {"trees": [{"child": {"child": 7}}], "colour": "red", "day": "2020-02-29"}

    def test_an_action_gets_what_pydantic_makes_of_a_body(self) -> None:
        answer = self.post("paint/mix", self.body)
        self.assertEqual(answer, {"status": 200, "data": ["Tree", "RED", "2020-02-29", "1.5", "None"]})
        answer = self.post("paint/mix", {**self.body, "price": "0.10", "at": 0})
        self.assertEqual(answer["data"][3:], ["0.10", "1970-01-01 00:00:00+00:00"])

    def test_what_is_wrong_in_a_body_is_a_400(self) -> None:
        for change, message in (
            (
                {"trees": [{"child": {"child": "x"}}]},
                "Field trees[0].child.child - x is type str but should be Tree | int | None",
            ),
            ({"colour": "pink"}, "Field colour - pink: Input should be 'red' or 'blue'"),
            ({"day": 7}, "Field day - 7 is type int but should be date"),
            ({"price": True}, "Field price - True is type bool but should be Decimal"),
            ({"at": "7"}, "Field at - 7: Input should be a valid datetime, it is a number"),
        ):
            answer = self.post("paint/mix", {**self.body, **change})
            self.assertEqual(answer, {"status": 400, "data": message})


class ImportTest(StrictTest):
    @slow
    def test_our_own_routes_need_no_pydantic(self) -> None:
        script = "import sys, indico.server; indico.server.make_app(); print('pydantic' in sys.modules)"
        shown = subprocess.check_output([sys.executable, "-c", script], env=make_environment({}), text=True)
        self.assertEqual(shown.strip(), "False")


class MisuseTest(StrictTest):
    def test_what_can_not_be_checked_complains_at_import(self) -> None:
        class Local(TypedDict):
            unknown: Nowhere  # type: ignore[name-defined]  # noqa: F821

        class Model(BaseModel):
            unknown: Nowhere  # type: ignore[name-defined]  # noqa: F821

        for wrong in (
            *(ObjectId, set[ObjectId], list["Nowhere"], dict[str, "Nowhere"], Local, list[Local], Model),  # type: ignore[name-defined]  # noqa: F821
            *(7, None, "int", print, lambda value: value, Annotated[str, Field(pattern="(")]),
        ):
            with self.subTest(wrong), self.assertRaises(TypeError):
                type_check(wrong)

    def test_the_name_that_is_not_found_is_named(self) -> None:
        class Local(TypedDict):
            unknown: Nowhere  # type: ignore[name-defined]  # noqa: F821

        with self.assertRaisesRegex(
            TypeError, "^Local is not a type that can be checked: name 'Nowhere' is not defined"
        ):
            type_check(Local)

    def test_what_annotated_adds_is_for_others(self) -> None:
        check_type("a", "x", Annotated[str, "anything"])
        with self.assertRaisesRegex(IndicoError, "should be str | None"):
            check_type("a", 1, Annotated[str, "anything"] | None)


class EmptyTest(StrictTest):
    def test_each_type_has_an_empty_value(self) -> None:
        kinds: list[tuple[Any, Any]] = [
            (str, ""),
            (list[str], []),
            (dict[str, int], {}),
            (int | None, None),
            (Any, None),
            (int | str, 0),
            (Literal["s", "m"], "s"),
            (Annotated[list[int], "x"], []),
            (Order, {}),
            (Colour, Colour.RED),
            (decimal.Decimal, decimal.Decimal()),
        ]
        for kind, empty in kinds:
            with self.subTest(kind):
                self.assertEqual(make_empty(kind), empty)

    def test_a_type_without_one_says_so(self) -> None:
        for kind in (datetime.date, Tea, uuid.UUID):
            with self.subTest(kind), self.assertRaisesRegex(TypeError, f"{kind.__name__} has no empty value"):
                make_empty(kind)
