"""
Bodies, decorators and the two ways of writing an action.
"""

from __future__ import annotations

import asyncio
import datetime
import enum
import gc
import inspect
import json
import logging
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any
from unittest import mock

from tornado.ioloop import IOLoop
from tornado.testing import AsyncTestCase, gen_test

import indico.db.auth_db as AuthDB
from indico.core.http import bodies, encoding
from indico.core.http.bodies import MAX_DEPTH, MAX_FORM_FIELDS
from indico.core.http.encoding import import_if_installed
from indico.core.tasks import LATER, await_outcome, spawn
from indico.core.types import Described
from indico.error import IndicoError, InvalidJSON, InvalidValue, MissingField, MongoError, WrongFieldType
from indico.tests.mocks import USER_ID, USER_KEY
from indico.tests.mocks.request_mock import RequestHandler
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import (
    LOGGER,
    form_urlencoded_parse,
    mongo_callback,
    smart_parse,
    type_check,
    unpack,
)
from indico.utils.auth.auth_utils import auth

MEBIBYTE = 1024 * 1024  # bytes


class Colour(str, enum.Enum):  # noqa: UP042 - people write it
    RED = "red"
    BLUE = "blue"


SCREWED_UP = "we screwed up and have some debugging to do"


class BodyTest(StrictTest):
    """A test of bodies, each given as a str and as bytes, and parsed with and without orjson."""

    def both(self, body: str | bytes) -> Iterator[str | bytes]:
        for module in (encoding.orjson, None):
            with mock.patch.object(bodies, "orjson", module):
                yield body
                if isinstance(body, str):
                    yield body.encode("utf-8", "surrogatepass")

    def assert_parsed(self, body: str | bytes, expected: dict[str, Any]) -> None:
        for given in self.both(body):
            parsed = smart_parse(given)
            self.assertEqual(parsed, expected)
            self.assertEqual(str(parsed), str(expected))  # 1, 1.0 and True are equal, but not the same

    def assert_refused(self, body: str | bytes, reason: str) -> None:
        for given in self.both(body):
            with self.subTest(given[:60]), self.assertRaises(InvalidValue) as caught:
                smart_parse(given)
            self.assertEqual((caught.exception.message, caught.exception.code), (reason, 400))

    def assert_no_object(self, *bodies: str | bytes) -> None:
        for body in bodies:
            for given in self.both(body):
                with self.subTest(given[:60]), self.assertRaises(InvalidJSON) as caught:
                    smart_parse(given)
                self.assertEqual(caught.exception.message, "No JSON object could be decoded.")

    @contextmanager
    def assert_quick(self) -> Iterator[None]:
        """What is done within takes less than a second of this thread's time."""
        start = time.thread_time()
        yield
        self.assertLess(time.thread_time() - start, 1)


class OptionalTest(StrictTest):
    def test_a_module_that_is_not_installed_is_none(self) -> None:
        self.assertIs(import_if_installed("json"), json)
        self.assertIsNone(import_if_installed("indico.no_such_module"))


class JSONTest(BodyTest):
    def test_an_object_is_parsed(self) -> None:
        self.assert_parsed('{"a": [1, -2.5, "x", true, null, {}]}', {"a": [1, -2.5, "x", True, None, {}]})

    def test_an_empty_object_is_an_object(self) -> None:
        self.assert_parsed("{}", {})

    def test_whitespace_around_an_object_is_ignored(self) -> None:
        self.assert_parsed(' \t\r\n{"a": 1}\n ', {"a": 1})

    def test_text_beyond_ascii_is_read_as_utf_8(self) -> None:
        self.assert_parsed('{"é": "🦄"}', {"é": "🦄"})

    def test_a_duplicate_json_key_is_read_as_its_last_value(self) -> None:
        self.assert_parsed('{"a": 1, "b": 2, "a": 3}', {"a": 3, "b": 2})

    def test_json_that_is_no_object_is_refused(self) -> None:
        self.assert_no_object("[1]", '[{"a": 1}]', '"a"', '"a=b"', "7", "-1.5", "true", "null", "[]")

    def test_what_begins_like_json_is_never_read_as_a_form(self) -> None:
        self.assert_no_object("{", "{a=1", '{"a": 1', "[a=1", " {a=1}", "[]=1", '{"a=1&b":', "{}=1")

    def test_broken_json_is_refused(self) -> None:
        self.assert_no_object(
            "{a: 1}", "{'a': 1}", '{"a": 1,}', '{"a": 01}', '{"a": +1}', '{"a": .5}', '{"a"}'
        )

    def test_a_control_character_within_a_string_is_refused(self) -> None:
        self.assert_no_object('{"a": "\n"}', '{"a": "\0"}')

    def test_junk_after_an_object_is_refused(self) -> None:
        self.assert_no_object('{"a": 1}x', '{"a": 1}{"b": 2}', '{"a": 1}&b=2', '{"a": 1}\0')

    def test_whitespace_that_is_not_jsons_is_refused(self) -> None:
        self.assert_no_object('\v{"a": 1}', '\xa0{"a": 1}', '{"a": 1}\f', '{\u2003"a": 1}')


class NumberTest(BodyTest):
    def test_what_is_not_a_number_is_refused(self) -> None:
        for text in ("NaN", "Infinity", "-Infinity"):
            self.assert_refused(f'{{"a": [{text}]}}', f"{text} is not JSON")

    def test_a_number_beyond_a_float_is_refused(self) -> None:
        for text in ("1e400", "-1e400", "1.0E+999999999"):
            self.assert_refused(f'{{"a": {text}}}', f"{text} is too large a number")

    def test_the_largest_floats_are_kept(self) -> None:
        self.assert_parsed('{"a": 1.7e308, "b": -1.7e308}', {"a": 1.7e308, "b": -1.7e308})

    def test_an_integer_of_64_bits_is_kept(self) -> None:
        for value in (2**63 - 1, -(2**63), 0):
            self.assert_parsed(f'{{"a": {value}}}', {"a": value})

    def test_an_integer_beyond_64_bits_is_refused(self) -> None:
        for value in (2**63, -(2**63) - 1, 10**18 * 100, -(10**18) * 100, 2**64):
            self.assert_refused(f'{{"a": {value}}}', f"{value} is too large a number")

    def test_an_integer_of_100_000_digits_is_refused_at_once_and_not_repeated(self) -> None:
        body = f'{{"a": {100_000 * "7"}}}'
        reason = f"{100 * '7'}... is too large a number"
        with self.assert_quick():
            self.assert_refused(body, reason)


class EncodingTest(BodyTest):
    def test_half_of_a_surrogate_pair_is_refused(self) -> None:
        for text in (
            r"\ud800",
            r"\uDBFF",
            r"\udc00",
            r"\uDfFf",
            r"\ud800x\udc00",
            r"\udc00\ud800",
            r"\\\ud800",
        ):
            self.assert_refused(f'{{"a": ["{text}"]}}', "The body contains half of a surrogate pair")

    def test_half_of_a_surrogate_pair_in_a_name_is_refused(self) -> None:
        self.assert_refused(r'{"a": {"\ud800": 1}}', "The body contains half of a surrogate pair")

    def test_a_surrogate_pair_is_one_character(self) -> None:
        self.assert_parsed(r'{"a": "\ud83e\udd84", "\uD83E\uDD84": 1}', {"a": "🦄", "🦄": 1})

    def test_an_escaped_backslash_makes_no_surrogate(self) -> None:
        self.assert_parsed(r'{"a": "\\ud800"}', {"a": r"\ud800"})

    def test_a_surrogate_that_is_not_escaped_is_refused(self) -> None:
        self.assert_refused('{"a": "\ud800"}', "The body is not valid UTF-8")
        self.assert_refused("a=\udfff", "The body is not valid UTF-8")

    def test_a_byte_order_mark_is_refused(self) -> None:
        for text in ('{"a": 1}', "a=1", ""):
            self.assert_refused("\ufeff" + text, "The body begins with a byte-order mark")

    def test_utf_16_and_utf_32_are_refused_with_and_without_byte_order_mark(self) -> None:
        for codec in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"):
            for text in ('{"a": 1}', "a=1"):
                reason = "The body is UTF-16 or UTF-32 but should be UTF-8"
                self.assert_refused(text.encode(codec), reason)

    def test_the_other_byte_order_mark_of_utf_16_is_refused(self) -> None:
        body = b"\xfe\xff" + '{"a": 1}'.encode("utf-16-be")
        self.assert_refused(body, "The body is UTF-16 or UTF-32 but should be UTF-8")

    def test_invalid_utf_8_is_refused(self) -> None:
        for body in (b'{"a": "\xff"}', b"\xff", b"a=\xe9", b'{"a": "\xc0\x80"}', b'{"a": "\xed\xa0\x80"}'):
            self.assert_refused(body, "The body is not valid UTF-8")


class DepthTest(BodyTest):
    REASON = f"The value is nested deeper than {MAX_DEPTH} levels"

    def test_the_deepest_body_that_mongodb_stores_is_parsed(self) -> None:
        self.assert_parsed(100 * '{"a":' + "1" + 100 * "}", json.loads(100 * '{"a":' + "1" + 100 * "}"))
        self.assert_parsed(
            '{"a":' + 99 * "[" + 99 * "]" + "}", json.loads('{"a":' + 99 * "[" + 99 * "]" + "}")
        )

    def test_a_body_that_is_one_level_deeper_is_refused(self) -> None:
        self.assert_refused(101 * '{"a":' + "1" + 101 * "}", self.REASON)
        self.assert_refused('{"a":' + 100 * "[" + 100 * "]" + "}", self.REASON)

    def test_what_is_wide_but_not_deep_is_parsed(self) -> None:
        self.assert_parsed(f'{{"a": [{1000 * "[{}],"}0]}}', {"a": [*(1000 * [[{}]]), 0]})

    def test_brackets_within_a_string_are_no_levels(self) -> None:
        self.assert_parsed(f'{{"a": "{200 * "["}"}}', {"a": 200 * "["})

    def test_100_000_brackets_are_refused_at_once(self) -> None:
        for body in ('{"a":' + 100_000 * "[" + 100_000 * "]" + "}", 100_000 * '{"a":', 100_000 * "["):
            with self.assert_quick():
                self.assert_refused(body, self.REASON)


class FormTest(BodyTest):
    def test_the_fields_of_a_form_are_strings(self) -> None:
        self.assert_parsed("a=1&b=true&c=null", {"a": "1", "b": "true", "c": "null"})

    def test_a_blank_value_is_kept(self) -> None:
        self.assert_parsed("a=&b=1", {"a": "", "b": "1"})

    def test_a_repeated_field_is_read_as_its_last_value(self) -> None:
        self.assert_parsed("a=1&b=2&a=3&b=", {"a": "3", "b": ""})

    def test_percent_and_plus_are_decoded_once(self) -> None:
        self.assert_parsed("a%26b=%3D+%2B%2541&c==", {"a&b": "= +%41", "c": "="})

    def test_percent_encoded_and_raw_utf_8_are_the_same(self) -> None:
        self.assert_parsed("%C3%A9=%F0%9F%A6%84&é2=🦄", {"é": "🦄", "é2": "🦄"})

    def test_a_form_may_hold_json_that_stays_text(self) -> None:
        self.assert_parsed('a={"b": 1}', {"a": '{"b": 1}'})

    def test_an_integer_in_a_form_has_no_bounds(self) -> None:
        self.assert_parsed(f"a={2**64}", {"a": str(2**64)})

    def test_percent_encoded_bytes_that_are_no_utf_8_are_refused(self) -> None:
        for body in ("a=%ff", "%C3=1", "a=%ED%A0%80"):
            self.assert_refused(body, "The body is not valid UTF-8")

    def test_as_many_fields_as_are_allowed_are_parsed(self) -> None:
        fields = {f"f{number}": "x" for number in range(MAX_FORM_FIELDS)}
        self.assert_parsed("&".join(f"{name}={value}" for name, value in fields.items()), fields)

    def test_more_fields_are_refused(self) -> None:
        self.assert_no_object("&".join(["a=1"] * (MAX_FORM_FIELDS + 1)))

    def test_what_is_no_form_is_refused(self) -> None:
        self.assert_no_object("a", "a=1&b", "a=1&&b=2", "a=1&", "&a=1", "&", "hello world")

    def test_an_empty_body_is_refused(self) -> None:
        self.assert_no_object("", " ", "\r\n\t \n")

    def test_a_form_is_parsed_by_itself_too(self) -> None:
        for body in ("a=1&a=2&b=", b"a=1&a=2&b="):
            self.assertEqual(form_urlencoded_parse(body), {"a": "2", "b": ""})

    def test_by_itself_the_parser_of_forms_refuses_what_is_none(self) -> None:
        for body in ("", b"", '{"a": 1}', b"a"):
            with self.subTest(body), self.assertRaises(InvalidJSON):
                form_urlencoded_parse(body)

    def test_by_itself_the_parser_of_forms_names_the_reason(self) -> None:
        for body in (b"a=\xff", "a=%ff", "a=\ud800"):
            with self.subTest(ascii(body)), self.assertRaises(InvalidValue) as caught:
                form_urlencoded_parse(body)
            self.assertEqual(caught.exception.message, "The body is not valid UTF-8")


class LargeBodyTest(BodyTest):
    def fill(self, start: str, piece: str, end: str = "") -> bytes:
        """A body of a mebibyte, filled with as many pieces as it takes."""
        return (start + piece * ((MEBIBYTE - len(start + end)) // len(piece.encode())) + end).encode()

    @slow
    def test_a_mebibyte_is_parsed_within_a_second(self) -> None:
        for start, piece, end in (
            ('{"a": "', "x", '"}'),
            ('{"a": "', "é", '"}'),
            ('{"a": "', r"\n", '"}'),
            ('{"a": "', r"\ud83e\udd84", '"}'),
            ('{"a": "', r"\\ud800", '"}'),
            ('{"a": "', "[", '"}'),
            ('{"a": [', "1,", "1]}"),
            ('{"a": [', "1.5,", "1]}"),
            ('{"a": 0.', "7", "}"),
            ("{", '"a": 1,', '"a": 2}'),
            ('{"a": 1', " ", "}"),
            ("a=", "x", ""),
            ("a=", "+", ""),
            ("a=", "%41", ""),
            ("a=", "%C3%A9", ""),
            ("a=", "=", ""),
        ):
            body = self.fill(start, piece, end)
            with self.subTest(start + piece), self.assert_quick():
                self.assertEqual(list(smart_parse(body)), ["a"])

    @slow
    def test_a_mebibyte_is_refused_within_a_second(self) -> None:
        for start, piece, end in (
            ("", "[", ""),
            ("", '{"a":', ""),
            ('{"a": [', "[", ""),
            ('{"a": ', "7", "}"),
            ('{"a": 1e', "7", "}"),
            ('{"a": 0.', "7", "e999}"),
            ('{"a": "', r"\ud800", '"}'),
            ('{"a": "', "\\", ""),
            ('{"a": [', "1,", ""),
            ('{"a": [', "[],", "1]}"),
            ('{"a": [', "{},", "1]}"),
            ('{"', "x", ""),
            ("", " ", ""),
            ("", "x", ""),
            ("", "%", ""),
            ("", "&", ""),
            ("", "a=1&", ""),
            ("", "a&", ""),
            ("a=", "%", ""),
            ("a=", "%ff", ""),
            ("", "\0", ""),
        ):
            body = self.fill(start, piece, end)
            with self.subTest(start + piece), self.assert_quick():
                with self.assertRaises(IndicoError) as caught:
                    smart_parse(body)
                self.assertLess(len(caught.exception.message), 200)

    def test_more_objects_and_lists_than_the_limit_are_refused_with_their_number(self) -> None:
        within = '{"a": [' + 19_997 * "[]," + "{}]}"
        self.assertEqual(len(smart_parse(within)["a"]), 19_998)
        with self.assertRaisesRegex(InvalidValue, "more than 20000 objects and lists"):
            smart_parse(within.replace("{}]}", "{},[]]}"))

    def test_brackets_in_a_text_are_no_lists(self) -> None:
        self.assertEqual(smart_parse('{"a": "' + 50_000 * "[{" + '"}'), {"a": 50_000 * "[{"})


class UnpackTest(StrictTest):
    def test_the_named_fields_are_passed_on_in_the_declared_order(self) -> None:
        @unpack("b", "a")
        def action(handler: Any, first: int, second: int) -> tuple[Any, int, int]:
            return handler, first, second

        handler = RequestHandler()
        self.assertEqual(action(handler, '{"a": 1, "b": 2, "c": 3}'), (handler, 2, 1))

    def test_a_form_is_unpacked_as_well(self) -> None:
        @unpack("a")
        def action(handler: Any, value: str) -> str:
            return value

        self.assertEqual(action(None, b"a=1&a=%C3%A9"), "é")

    def test_a_field_that_is_null_is_there(self) -> None:
        @unpack("a")
        def action(handler: Any, value: Any) -> Any:
            return [value]

        self.assertEqual(action(None, '{"a": null}'), [None])

    def test_the_first_missing_field_is_named_in_the_declared_order(self) -> None:
        @unpack("access_token", "oauth_id", "user")
        def action(handler: Any, access_token: str, oauth_id: str, user: Any) -> None:
            self.fail("it ran")

        for body, missing in (
            ("{}", "access_token"),
            ('{"user": {}}', "access_token"),
            ('{"user": {}, "access_token": ""}', "oauth_id"),
            ('{"oauth_id": "", "access_token": ""}', "user"),
        ):
            with self.assertRaises(MissingField) as caught:
                action(None, body)
            self.assertEqual(caught.exception.message, f"{missing} field was not provided")

    def test_what_the_parser_refuses_is_raised_to_the_caller(self) -> None:
        @unpack("a")
        def action(handler: Any, a: Any) -> None:
            self.fail("it ran")

        with self.assertRaises(InvalidJSON):
            action(None, b"[]")
        with self.assertRaises(InvalidValue):
            action(None, '{"a": NaN}')

    def test_what_a_plain_function_raises_is_raised_to_the_caller(self) -> None:
        @unpack("a")
        def action(handler: Any, a: Any) -> None:
            raise KeyError(a)

        with self.assertRaises(KeyError):
            action(None, "a=1")

    def test_a_parameter_with_a_default_need_not_be_named(self) -> None:
        @unpack("a")
        def action(handler: Any, a: str, b: str = "default") -> tuple[str, str]:
            return a, b

        self.assertEqual(action(None, "a=1&b=2"), ("1", "default"))

    def test_name_docstring_and_signature_are_kept(self) -> None:
        def action(handler: Any, a: int, b: str = "x") -> None:
            """What it does."""

        unpacked = unpack("a", "b")(type_check(int, str)(action))
        self.assertEqual(unpacked.__name__, "action")
        self.assertEqual(unpacked.__doc__, "What it does.")
        self.assertEqual(inspect.signature(unpacked), inspect.signature(action))

    def test_without_parentheses_it_complains_at_import(self) -> None:
        with self.assertRaises(TypeError):
            unpack(lambda handler: None)  # type: ignore[arg-type]

    def test_a_doubled_name_complains_at_import(self) -> None:
        with self.assertRaises(TypeError):
            unpack("a", "b", "a")

    def test_another_number_of_names_than_parameters_complains_at_import(self) -> None:
        def action(handler: Any, a: int, b: int) -> None: ...

        for names in ((), ("a",), ("a", "b", "c")):
            passed = ", ".join(names) or "nothing"
            message = f'^@unpack passes {passed} to .*action: write @unpack\\("a", "b"\\)$'
            for function in (action, type_check(int, int)(action)):
                with self.subTest(names), self.assertRaisesRegex(TypeError, message):
                    unpack(*names)(function)

    def test_a_name_that_is_a_parameter_at_another_position_complains_at_import(self) -> None:
        def action(handler: Any, title: str, body: str, note: Any) -> None: ...

        checked = type_check()(action)
        for names, defaults in (
            (("body", "title", "note"), {}),
            (("title", "note", "text"), {}),
            (("title", "note"), {"body": ""}),
        ):
            for function in (action, checked):
                with self.subTest(names), self.assertRaises(TypeError) as raised:
                    unpack(*names, **defaults)(function)
                passed = ", ".join((*names, *defaults))
                self.assertEqual(
                    str(raised.exception),
                    f"@unpack passes {passed} to {action.__qualname__}:"
                    ' write @unpack("title", "body", "note")',
                )

    def test_a_name_that_is_no_parameter_may_stand_anywhere(self) -> None:
        @unpack("from", "class", "note")
        def action(handler: Any, sender: str, kind: str, note: str) -> list[str]:
            return [sender, kind, note]

        self.assertEqual(action(None, "note=3&class=2&from=1"), ["1", "2", "3"])

    def test_the_rest_of_the_names_may_go_to_one_parameter(self) -> None:
        @unpack("a", "b", "c")
        def action(handler: Any, a: str, *others: str) -> Any:
            return a, others

        self.assertEqual(action(None, "a=1&b=2&c=3"), ("1", ("2", "3")))

    def test_above_auth_it_complains_at_import(self) -> None:
        def action(handler: Any, a: int) -> None: ...

        with self.assertRaisesRegex(TypeError, "@unpack goes below @auth"):
            unpack("a")(auth(action))
        with self.assertRaisesRegex(TypeError, "@unpack goes below @auth"):
            unpack("a")(auth(type_check(int)(action)))


class DefaultTest(StrictTest):
    def test_a_missing_field_has_its_default(self) -> None:
        @unpack("title", "body", pinned=False, note=None)
        @type_check(str, str, bool, str | None)
        def action(handler: Any, title: str, body: str, pinned: bool, note: str | None) -> Any:
            return title, body, pinned, note

        self.assertEqual(action(None, "title=a&body=b"), ("a", "b", False, None))
        self.assertEqual(
            action(None, '{"note": "c", "pinned": true, "body": "b", "title": "a"}'), ("a", "b", True, "c")
        )
        with self.assertRaisesRegex(MissingField, "body field was not provided"):
            action(None, '{"title": "a", "pinned": true}')

    def test_a_field_that_is_there_is_checked(self) -> None:
        @unpack("title", pinned=False)
        @type_check(str, bool)
        def action(handler: Any, title: str, fixed: bool) -> None:
            self.fail("it ran")

        for given, shown in (("null", "None is type NoneType"), ("0", "0 is type int")):
            with self.assertRaises(WrongFieldType) as caught:
                action(None, f'{{"title": "a", "pinned": {given}}}')
            self.assertEqual(caught.exception.message, f"Field pinned - {shown} but should be bool")

    def test_all_fields_may_have_one(self) -> None:
        @unpack(a=1, names=2)
        def action(handler: Any, a: Any, names: Any) -> Any:
            return a, names

        self.assertEqual(action(None, "{}"), (1, 2))
        self.assertEqual(action(None, '{"names": 3}'), (1, 3))

    def test_what_a_request_does_to_a_default_no_other_request_sees(self) -> None:
        def action(handler: Any, tags: list[list[int]]) -> Any:
            tags.append([2])
            tags[0].append(3)
            return tags

        for function in (action, type_check(list)(action), type_check(list[list[int]])(action)):
            given = [[1]]
            unpacked = unpack(tags=given)(function)
            for _ in range(3):
                self.assertEqual(unpacked(None, "{}"), [[1, 3], [2]])
            self.assertEqual(given, [[1]])

    def test_a_default_may_be_of_a_type_that_json_lacks(self) -> None:
        class Colour(enum.Enum):
            RED = "red"

        @unpack(colour=Colour.RED, day=datetime.date(2020, 1, 2))
        @type_check(Colour, datetime.date)
        def action(handler: Any, colour: Colour, day: datetime.date) -> Any:
            return colour, day

        self.assertEqual(action(None, "{}"), (Colour.RED, datetime.date(2020, 1, 2)))

    def test_a_default_of_another_type_complains_at_import(self) -> None:
        def action(handler: Any, title: str, pinned: bool) -> None: ...

        checked = type_check(str, bool)(action)
        with self.assertRaisesRegex(
            TypeError, "The default of pinned .* - no is type str but should be bool"
        ):
            unpack("title", pinned="no")(checked)

    def test_a_name_with_and_without_one_complains_at_import(self) -> None:
        with self.assertRaises(TypeError):
            unpack("a", "b", a=1)

    def test_another_number_of_names_than_parameters_complains_at_import(self) -> None:
        def action(handler: Any, a: int, b: int) -> None: ...

        for defaults in ({}, {"b": 1, "c": 2}):
            with self.subTest(defaults), self.assertRaises(TypeError):
                unpack("a", **defaults)(action)


class TypeCheckTest(StrictTest):
    def message(self, action: Callable[..., Any], *values: Any) -> str:
        """What an action that must not run says of its values."""
        with self.assertRaises(WrongFieldType) as caught:
            action(None, *values)
        self.assertEqual(caught.exception.code, 400)
        return caught.exception.message

    def takes(self, value: Any, required: type) -> bool:
        """Whether a value passes for one of the required type, which then reaches the action as it is."""

        @type_check(required)
        def action(handler: Any, field: Any) -> Any:
            return field

        try:
            self.assertIs(action(None, value), value)
        except WrongFieldType:
            return False
        return True

    def test_values_of_the_types_are_passed_on(self) -> None:
        values: list[Any] = ["x", "", 1, -1.5, True, False, {}, {"a": 1}, [], None]
        for value in values:
            self.assertTrue(self.takes(value, type(value)))

    def test_values_of_other_types_are_refused(self) -> None:
        values: list[Any] = ["x", 1, True, {}, [], None]
        for value in values:
            for other in values:
                if other is not value:
                    self.assertFalse(self.takes(value, type(other)), (value, type(other)))

    def test_a_bool_is_no_number(self) -> None:
        self.assertFalse(self.takes(True, int))
        self.assertFalse(self.takes(False, float))

    def test_an_int_passes_for_a_float_but_not_the_other_way_round(self) -> None:
        self.assertTrue(self.takes(1, float))
        self.assertFalse(self.takes(1.0, int))

    def test_a_long_value_is_cut(self) -> None:
        @type_check(str)
        def action(handler: Any, field: str) -> None:
            self.fail("it ran")

        message = self.message(action, [1_000_000 * "x"])
        self.assertTrue(message.startswith("Field field - ['xxx"))
        self.assertTrue(message.endswith("x... is type list but should be str"))
        self.assertLess(len(message), 200)

    def test_under_unpack_fields_are_named_as_unpack_names_them(self) -> None:
        @unpack("access_token", "oauth_id")
        @type_check(str, str)
        def action(handler: Any, token: str, facebook_id: str) -> None:
            self.fail("it ran")

        self.assertEqual(
            self.message(action, '{"access_token": "", "oauth_id": 7}'),
            "Field oauth_id - 7 is type int but should be str",
        )

    def test_alone_fields_are_named_after_the_parameters(self) -> None:
        @type_check(str, dict)
        def action(handler: Any, token: str, user: dict[str, Any]) -> None:
            self.fail("it ran")

        self.assertEqual(self.message(action, "x", [1]), "Field user - [1] is type list but should be dict")

    def test_the_first_wrong_field_is_named_in_the_declared_order(self) -> None:
        @unpack("b", "a")
        @type_check(str, str)
        def action(handler: Any, b: str, a: str) -> None:
            self.fail("it ran")

        self.assertIn("Field b - 1 ", self.message(action, '{"a": 1, "b": 1}'))

    def test_a_missing_field_comes_before_a_wrong_type(self) -> None:
        @unpack("a", "b")
        @type_check(str, str)
        def action(handler: Any, a: str, b: str) -> None:
            self.fail("it ran")

        with self.assertRaises(MissingField):
            action(None, '{"a": 7}')

    def test_name_docstring_and_signature_are_kept(self) -> None:
        def action(handler: Any, a: int) -> None:
            """What it does."""

        checked = type_check(int)(action)
        self.assertEqual((checked.__name__, checked.__doc__), ("action", "What it does."))
        self.assertEqual(inspect.signature(checked), inspect.signature(action))

    def test_what_is_no_type_complains_at_import(self) -> None:
        for wrong in ("str", None, lambda handler: None, (int, str)):
            with self.subTest(wrong), self.assertRaises(TypeError):
                type_check(wrong)

    def test_another_number_of_types_than_parameters_complains_at_import(self) -> None:
        def action(handler: Any, a: int, b: int) -> None: ...

        for types in ((int,), (int, int, int)):
            with self.subTest(types), self.assertRaisesRegex(TypeError, "2 arguments of .*action"):
                type_check(*types)(action)

    def test_without_types_it_takes_the_annotations(self) -> None:
        @unpack("name", "tags", colour=Colour.RED)
        @type_check()
        def action(
            handler: Any, name: Annotated[str, Described(examples=["Ada"])], tags: list[int], colour: Colour
        ) -> Any:
            return name, tags, colour

        self.assertEqual(
            action(None, '{"name": "a", "tags": [1], "colour": "blue"}'), ("a", [1], Colour.BLUE)
        )
        self.assertEqual(
            self.message(action, '{"name": 1, "tags": []}'), "Field name - 1 is type int but should be str"
        )
        self.assertIn("Field tags[0] - x ", self.message(action, '{"name": "", "tags": ["x"]}'))

    def test_without_types_and_annotations_it_complains_at_import(self) -> None:
        def action(handler, a, b: int, c=None): ...  # type: ignore[no-untyped-def]

        with self.assertRaisesRegex(
            TypeError, r"the types of .*action from its annotations: write one for a, c$"
        ):
            type_check()(action)

        def other(handler: Any, a: Unknown) -> None: ...  # type: ignore[name-defined]  # noqa: F821

        with self.assertRaisesRegex(TypeError, "the annotations of .*other: name 'Unknown' is not defined"):
            type_check()(other)

    def test_above_unpack_or_auth_it_complains_at_import(self) -> None:
        for above in (unpack("a"), auth):

            def action(handler: Any, a: int) -> None: ...

            with self.assertRaisesRegex(TypeError, "@type_check goes below"):
                type_check(int)(above(action))

    def test_above_another_it_complains_at_import(self) -> None:
        def action(handler: Any, a: int) -> None: ...

        with self.assertRaisesRegex(TypeError, "@type_check stands above .*action twice"):
            type_check(int)(type_check(int)(action))


class LoopTest(StrictTest, AsyncTestCase):
    """A test with an event loop, and without a database."""


class CoroutineActionTest(LoopTest):
    @gen_test
    async def test_unpack_and_type_check_stand_above_a_coroutine_too(self) -> None:
        @unpack("a", "b")
        @type_check(int, str)
        async def action(handler: Any, a: int, b: str) -> Any:
            await asyncio.sleep(0)
            return a, b

        self.assertEqual(await action(None, '{"a": 1, "b": "x"}'), (1, "x"))

    def test_above_a_coroutine_too_they_raise_at_once(self) -> None:
        @unpack("a")
        @type_check(int)
        async def action(handler: Any, a: int) -> None:
            self.fail("it ran")

        with self.assertRaises(MissingField):
            action(None, "{}")
        with self.assertRaises(WrongFieldType):
            action(None, '{"a": "x"}')


class MongoCallbackTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        self.handler = RequestHandler()

    def assert_answer(self, code: int, data: Any) -> None:
        self.assertEqual((self.handler.code, self.handler.data), (code, data))

    def test_a_result_is_passed_on(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.handler.respond({"found": result})

        callback({"name": "Ada"}, None)
        self.assert_answer(200, {"found": {"name": "Ada"}})

    def test_a_result_of_none_is_passed_on_too(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.handler.respond([result])

        callback(None)
        self.assert_answer(200, [None])

    def test_an_error_becomes_its_answer_and_the_function_does_not_run(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.fail("it ran")

        callback(None, InvalidValue("too deep"))
        self.assert_answer(400, "too deep")

    def test_an_error_that_is_no_exception_is_the_data_of_a_500(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.fail("it ran")

        for error in ("no such table", "", {"code": 7}):
            callback(None, error)
            self.assert_answer(500, error)

    def test_an_error_of_mongodb_becomes_its_answer_and_its_cause_is_logged(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.fail("it ran")

        error = MongoError("The database rejected the operation")
        error.__cause__ = OSError("disk full")
        with self.assertLogs(LOGGER, logging.WARNING) as logs:
            callback(None, error)
        self.assert_answer(500, "The database rejected the operation")
        self.assertIn("disk full", logs.output[0])

    def test_any_other_error_becomes_a_server_error_and_is_logged(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            self.fail("it ran")

        with self.assertLogs(LOGGER, logging.ERROR) as logs:
            callback(None, OSError("disk full"))
        self.assert_answer(500, SCREWED_UP)
        self.assertIn("OSError: disk full", logs.output[0])

    def test_an_indico_error_raised_inside_becomes_its_answer(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            raise MissingField("name")

        callback({}, None)
        self.assert_answer(400, "name field was not provided")

    def test_anything_else_raised_inside_becomes_a_server_error_and_is_logged(self) -> None:
        @mongo_callback(self.handler)
        def callback(result: Any) -> None:
            result["name"]

        with self.assertLogs(LOGGER, logging.ERROR) as logs:
            callback({}, None)
        self.assert_answer(500, SCREWED_UP)
        self.assertIn("KeyError: 'name'", logs.output[0])

    def test_a_handler_needs_no_more_than_respond(self) -> None:
        answers = []

        class Handler:
            __slots__ = ()

            def respond(self, data: Any, code: int) -> None:
                answers.append((code, data))

        @mongo_callback(Handler())
        def callback(result: Any) -> None:
            raise result

        with self.assertLogs(LOGGER, logging.ERROR):
            callback(KeyError("a"), None)
        callback(MissingField("a"), None)
        callback(None, MissingField("b"))
        self.assertEqual(
            answers,
            [(500, SCREWED_UP), (400, "a field was not provided"), (400, "b field was not provided")],
        )

    def test_name_and_docstring_are_kept(self) -> None:
        @mongo_callback(self.handler)
        def update_callback(result: Any) -> None:
            """What it does."""

        self.assertEqual(update_callback.__name__, "update_callback")
        self.assertEqual(update_callback.__doc__, "What it does.")

    def test_a_coroutine_function_complains_at_import(self) -> None:
        async def callback(result: Any) -> None: ...

        with self.assertRaisesRegex(TypeError, "plain function"):
            mongo_callback(self.handler)(callback)


class MongoCallbackOfHelperTest(MongoTest):
    def test_a_helper_calls_it_back_with_its_result(self) -> None:
        handler = RequestHandler()

        @mongo_callback(handler)
        def saved(result: bool) -> None:
            handler.respond(result)
            self.stop()

        AuthDB.save_key(USER_KEY, USER_ID, saved)
        self.wait()
        self.assertEqual((handler.code, handler.data), (200, True))


class SettleTest(LoopTest):
    @gen_test
    async def test_the_result_of_an_awaitable_counts(self) -> None:
        async def action() -> int:
            return 7

        self.assertEqual(await await_outcome(action()), 7)
        self.assertEqual(await await_outcome(spawn(action())), 7)

    @gen_test
    async def test_an_awaitable_that_comes_to_none_is_none(self) -> None:
        async def action() -> None: ...

        self.assertIsNone(await await_outcome(action()))

    @gen_test
    async def test_the_result_of_a_plain_function_counts(self) -> None:
        outcomes: list[Any] = [0, "", False, [], {"a": 1}]
        for outcome in outcomes:
            self.assertIs(await await_outcome(outcome), outcome)

    @gen_test
    async def test_none_from_a_plain_function_is_later(self) -> None:
        self.assertIs(await await_outcome(None), LATER)

    @gen_test
    async def test_what_an_awaitable_raises_is_raised(self) -> None:
        async def action() -> None:
            raise MissingField("a")

        with self.assertRaises(MissingField):
            await await_outcome(action())

    def test_later_says_its_name(self) -> None:
        self.assertEqual(repr(LATER), "LATER")


class SpawnTest(LoopTest):
    def test_a_coroutine_may_be_spawned_before_the_loop_runs(self) -> None:
        async def work() -> None:
            self.stop("done")

        spawn(work())
        self.assertEqual(self.wait(), "done")

    def test_a_coroutine_may_be_spawned_before_there_is_a_loop(self) -> None:
        async def work() -> None:
            IOLoop.current().stop()

        self.addCleanup(asyncio.set_event_loop, self.io_loop.asyncio_loop)  # type: ignore[attr-defined]
        asyncio.set_event_loop(None)
        task = spawn(work())
        loop = IOLoop.current()
        self.addCleanup(loop.close)
        loop.start()
        self.assertTrue(task.done())

    @gen_test
    async def test_a_task_ends_with_the_result_or_the_error(self) -> None:
        async def work(error: Exception | None) -> str:
            if error is not None:
                raise error
            return "done"

        self.assertEqual(await spawn(work(None)), "done")
        with self.assertRaises(KeyError):
            await spawn(work(KeyError()))

    @gen_test
    async def test_a_task_that_nobody_holds_lives_until_it_is_done(self) -> None:
        async def work() -> None:
            reached.set()
            never_mind = asyncio.get_running_loop().create_future()
            wake.append(weakref.ref(never_mind))
            await never_mind
            done.set()

        reached, done = asyncio.Event(), asyncio.Event()
        wake: list[weakref.ref[asyncio.Future[None]]] = []
        spawn(work())
        await reached.wait()
        gc.collect()
        future = wake[0]()
        assert future is not None
        future.set_result(None)
        await done.wait()

    @gen_test
    async def test_a_task_that_is_done_is_let_go(self) -> None:
        async def work() -> None: ...

        task = spawn(work())
        await task
        await asyncio.sleep(0)
        reference = weakref.ref(task)
        del task
        gc.collect()
        self.assertIsNone(reference())
