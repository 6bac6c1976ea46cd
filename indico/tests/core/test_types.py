"""
Types in depth: what passes, and how what doesn't is named.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Optional, TypedDict

import typing_extensions
from pydantic import BaseModel, Field, field_validator

from indico.core.types import check_type, make_empty
from indico.error import IndicoError
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


class House(Address):
    rooms: typing_extensions.ReadOnly[int]


class Extended(typing_extensions.TypedDict):
    a: int
    b: typing_extensions.NotRequired[int]


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
        self.assert_refused(House, ({"street": ""}, "order.rooms field was not provided"))

    def test_that_of_typing_extensions_is_one_too(self) -> None:
        self.assert_taken(Extended, {"a": 1})
        self.assert_refused(Extended, ({}, "order.a field was not provided"))

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
        self.assertEqual(order, {"items": [{"name": "tea", "count": 2, "x": 1}], "y": 2})
        self.assertIs(type(order), dict)


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
            ({**good, "grams": "5"}, "Field order.grams - 5 is type str but should be a valid integer"),
            ({**good, "grams": 0}, "Field order.grams - 0 is type int but should be greater than 0"),
            ({**good, "kind": "x"}, "Field order.kind - x is type str but should be 'green' or 'black'"),
            (
                {**good, "notes": ["a", 1]},
                "Field order.notes[1] - 1 is type int but should be a valid string",
            ),
            ({**good, "notes": ["a"] * 3}, "Field order.notes - Value error, two notes are enough"),
            (7, "Field order - 7 is type int but should be an object"),
        )

    def test_of_a_model_or_nothing_what_is_wrong_within_is_named(self) -> None:
        self.assert_taken(Tea | None, None)
        self.assert_refused(
            Tea | None,
            ({"kind": "green"}, "order.grams field was not provided"),
            (7, "Field order - 7 is type int but should be Tea | None"),
        )


class MisuseTest(StrictTest):
    def test_what_can_not_be_checked_complains_at_import(self) -> None:
        class Local(TypedDict):
            unknown: Nowhere  # type: ignore[name-defined]  # noqa: F821

        for wrong in (set[int], tuple[int, str], dict[int, str], list["int"], Local, list[Local], 7):
            with self.subTest(wrong), self.assertRaises(TypeError):
                type_check(wrong)

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
            (int | str, 0),
            (Literal["s", "m"], "s"),
            (Annotated[list[int], "x"], []),
            (Order, {}),
        ]
        for kind, empty in kinds:
            with self.subTest(kind):
                self.assertEqual(make_empty(kind), empty)
