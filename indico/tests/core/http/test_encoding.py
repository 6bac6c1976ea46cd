"""
What a response may hold: values of Python, values that MongoDB stores, and what the description says of them.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import re
import uuid
from collections import defaultdict
from typing import Any, NamedTuple
from unittest import mock

import pydantic
import pymongo
from bson import json_util
from bson.binary import USER_DEFINED_SUBTYPE, UUID_SUBTYPE, Binary
from bson.code import Code
from bson.datetime_ms import DatetimeMS
from bson.dbref import DBRef
from bson.decimal128 import Decimal128
from bson.int64 import Int64
from bson.max_key import MaxKey
from bson.min_key import MinKey
from bson.objectid import ObjectId
from bson.regex import Regex
from bson.timestamp import Timestamp
from tornado.testing import gen_test

from indico import db
from indico.batteries.openapi import describe_application
from indico.core.http import encoding
from indico.core.http.encoding import encode
from indico.db import mongo, user_db
from indico.error import InvalidValue, MongoError
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.tests.core.mongo.on_driver import OnDriver
from indico.tests.mocks import LOGIN_DATA, USER_ID
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import mongo_callback, type_check, unpack

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
ID = ObjectId("0123456789abcdef01234567")
DAY = datetime.date(2026, 1, 2)
NUMBER = uuid.UUID(int=7)


class Colour(enum.StrEnum):
    RED = "red"


class Birthday(enum.Enum):
    ADA = datetime.date(1815, 12, 10)


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Point:
    x: Any
    secret: dataclasses.InitVar[str] = ""


@dataclasses.dataclass
class Place:
    day: datetime.date
    prices: list[decimal.Decimal]


class Order(pydantic.BaseModel):
    price: decimal.Decimal
    day: datetime.date
    made: datetime.datetime = pydantic.Field(alias="madeAt")
    colours: set[Colour]
    image: bytes = b"a"
    parts: list[Order] = []
    until: datetime.datetime = EPOCH


PART = Order.model_validate({"price": 2, "day": DAY, "madeAt": 0, "colours": []})
ORDER = Order.model_validate({"price": "1.50", "day": DAY, "madeAt": 5, "colours": ["red"], "parts": [PART]})
ORDER_JSON = {
    "price": "1.50",
    "day": "2026-01-02",
    "madeAt": 5000,
    "colours": ["red"],
    "image": "YQ==",
    "parts": [
        {
            "price": "2",
            "day": "2026-01-02",
            "madeAt": 0,
            "colours": [],
            "image": "YQ==",
            "parts": [],
            "until": 0,
        }
    ],
    "until": 0,
}

# What a program may return, and what the client gets.
RETURNED: list[tuple[Any, Any]] = [
    (DAY, "2026-01-02"),
    (datetime.time(1, 2, 3), "01:02:03"),
    (decimal.Decimal("1.10"), "1.10"),
    (Colour.RED, "red"),
    (Birthday.ADA, "1815-12-10"),
    ({Colour.RED: 1}, {"red": 1}),
    ({1: 2, None: 3}, {"1": 2, "null": 3}),
    ({ID: 1, DAY: 2}, {str(ID): 1, "2026-01-02": 2}),
    ({4}, [4]),
    (frozenset([ID]), [str(ID)]),
    (Pair(DAY, (1, float("-inf"))), ["2026-01-02", [1, None]]),
    (Point(Point(NUMBER)), {"x": {"x": str(NUMBER)}}),
    (ORDER, ORDER_JSON),
    (defaultdict(list, a=[2**70]), {"a": [2**70]}),
    ("a lone \ud800", "a lone ?"),
]

# What MongoDB may store, and what the client gets.
SHORT_UUID = Binary(b"short", UUID_SUBTYPE)  # PyMongo before 4.20 can't read it
STORED: list[tuple[Any, Any]] = [
    (ID, str(ID)),
    (datetime.datetime(2026, 1, 2), 1_767_312_000_000),
    (DatetimeMS(2**60), 2**60),
    (Decimal128("1.50"), "1.50"),
    (Decimal128("NaN"), "NaN"),
    (Binary(b"\xff\0", USER_DEFINED_SUBTYPE), "/wA="),
    (Binary(NUMBER.bytes, UUID_SUBTYPE), str(NUMBER)),
    (SHORT_UUID, "c2hvcnQ="),
    (b"\0", "AA=="),
    (Int64(2**53 + 1), 2**53 + 1),
    (float("nan"), None),
    (float("inf"), None),
    (Timestamp(1, 2), {"$timestamp": {"t": 1, "i": 2}}),
    (Regex("^a", "i"), {"$regularExpression": {"pattern": "^a", "options": "i"}}),
    (Code("f()"), {"$code": "f()"}),
    (Code("f()", {"a": 1}), {"$code": "f()", "$scope": {"a": 1}}),
    (MinKey(), {"$minKey": 1}),
    (MaxKey(), {"$maxKey": 1}),
    (DBRef("user", 1), {"$ref": "user", "$id": 1}),
    ({"a": [{"b": Decimal128("2")}]}, {"a": [{"b": "2"}]}),
]
WITHOUT_JSON: list[tuple[Any, str]] = [
    (object(), "builtins.object can't be encoded as JSON: data"),
    ([{"a": 1}, {"a": [1, 1j]}], "builtins.complex can't be encoded as JSON: data[1].a[1]"),
    ({"when": datetime.timedelta(1)}, "datetime.timedelta can't be encoded as JSON: data.when"),
    (Point(object()), "builtins.object can't be encoded as JSON: data.x"),
    ({(1, 2): 3}, "a tuple can't be a key in JSON: data"),
]


class EncodeTest(StrictTest):
    def encode_in_both_ways(self, value: Any) -> list[Any]:
        """The value with orjson and without it."""
        found = [encode({"data": [value]})]
        with mock.patch.object(encoding, "orjson", None):
            found.append(encode({"data": [value]}))
        return [json.loads(text)["data"][0] for text in found]

    def test_values_of_python_and_of_mongodb_are_json(self) -> None:
        for value, expected in [*RETURNED, *STORED]:
            with self.subTest(value=value):
                self.assertEqual(self.encode_in_both_ways(value), [expected, expected])

    def test_other_bson_types_are_relaxed_extended_json(self) -> None:
        for value in (Timestamp(1, 2), re.compile("a", re.M), Code("f", {"a": ID}), DBRef("a", ID), MinKey()):
            with self.subTest(value=value):
                expected = json.loads(json_util.dumps(value, json_options=json_util.RELAXED_JSON_OPTIONS))
                self.assertEqual(self.encode_in_both_ways(value), [expected, expected])

    def test_any_other_value_is_a_type_error_that_names_the_type_and_its_path(self) -> None:
        for value, message in WITHOUT_JSON:
            for module in (encoding.orjson, None):
                with (
                    self.subTest(value=value),
                    mock.patch.object(encoding, "orjson", module),
                    self.assertRaisesRegex(TypeError, f"^{re.escape(message)}$"),
                ):
                    encode({"data": value})


class OrderHandler(IndicoHandler):
    @unpack("order")
    @type_check(Order)
    async def echo(self, order: Order) -> list[Order]:
        return [order]

    async def day(self, data: bytes) -> datetime.date:
        return DAY

    async def price(self, data: bytes) -> decimal.Decimal:
        return decimal.Decimal("1E+5")

    async def image(self, data: bytes) -> bytes:
        return b"\xff"

    async def colour(self, data: bytes) -> Colour:
        return Colour.RED

    async def time(self, data: bytes) -> datetime.time:
        return datetime.time(1, 2, 3)

    async def number(self, data: bytes) -> uuid.UUID:
        return NUMBER

    async def colours(self, data: bytes) -> set[Colour]:
        return {Colour.RED}

    async def place(self, data: bytes) -> Place:
        return Place(DAY, [decimal.Decimal(2)])

    async def broken(self, data: bytes) -> Any:
        return {"orders": [object()]}


class AnswerTest(ServerTest):
    routes = [(r"/order/(?P<action>[a-zA-Z]+)?", OrderHandler)]
    stores = False

    def describe(self, action: str) -> Any:
        document = describe_application(self._app)
        responses = document["paths"][f"/order/{action}"]["post"]["responses"]
        return responses["200"]["content"]["application/json"]["schema"]["properties"]["data"]

    def test_a_model_comes_back_as_it_went_in(self) -> None:
        order = {"price": "1.50", "day": "2026-01-02", "madeAt": 5000, "colours": ["red"], "image": "a"}
        expected = {**order, "image": "YQ==", "parts": [], "until": 0}
        self.assertEqual(self.post("order/echo", {"order": order}), {"status": 200, "data": [expected]})

    @slow
    def test_single_values_are_answers_and_the_description_says_what_they_become(self) -> None:
        for action, data, schema in (
            ("day", "2026-01-02", {"type": "string", "format": "date"}),
            ("price", "1E+5", {"type": "string", "format": "decimal"}),
            ("image", "/w==", {"type": "string", "contentEncoding": "base64"}),
            ("time", "01:02:03", {"type": "string", "format": "time"}),
            ("number", str(NUMBER), {"type": "string", "format": "uuid"}),
        ):
            with self.subTest(action):
                self.assertEqual(self.post(f"order/{action}", {}), {"status": 200, "data": data})
                self.assertEqual(self.describe(action), schema)

    def test_so_does_the_description_of_a_class_of_ones_own(self) -> None:
        schemas = describe_application(self._app)["components"]["schemas"]

        def find(schema: Any) -> Any:
            return schemas[schema["$ref"].rpartition("/")[2]]

        self.assertEqual(self.post("order/colour", {})["data"], "red")
        colour = find(self.describe("colour"))
        self.assertEqual((colour["type"], colour["enum"]), ("string", ["red"]))
        self.assertEqual(self.post("order/colours", {})["data"], ["red"])
        colours = self.describe("colours")
        self.assertEqual((colours["type"], find(colours["items"])), ("array", colour))
        self.assertEqual(self.post("order/place", {})["data"], {"day": "2026-01-02", "prices": ["2"]})
        place = find(self.describe("place"))
        self.assertEqual(place["required"], ["day", "prices"])
        self.assertEqual(place["properties"]["day"]["format"], "date")
        self.assertEqual(place["properties"]["prices"]["items"], {"type": "string", "format": "decimal"})

    def test_the_description_of_a_model_says_what_its_fields_become(self) -> None:
        schemas = describe_application(self._app)["components"]["schemas"]
        fields = schemas[self.describe("echo")["items"]["$ref"].rpartition("/")[2]]["properties"]
        self.assertEqual(fields["madeAt"]["type"], "integer")
        self.assertEqual(fields["price"], {"type": "string", "format": "decimal"})
        self.assertEqual(fields["image"]["contentEncoding"], "base64")
        self.assertEqual((fields["image"]["default"], fields["until"]["default"]), ("YQ==", 0))

    def test_what_has_no_json_is_a_500_and_the_log_names_type_and_path(self) -> None:
        with self.assertLogs("indico", "ERROR") as log:
            self.assertEqual(self.post("order/broken", {})["status"], 500)
        self.assertIn("builtins.object can't be encoded as JSON: data.orders[0]", log.output[0])


class StoredTest(OnDriver, ServerTest):
    """A user with all types that another program may have stored."""

    routes = [AuthRoute, UserRoute]
    stores = ("user",)

    def test_what_another_program_stored_keeps_no_user_from_anything(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        known = [pair for pair in STORED if pair[0] != SHORT_UUID or pymongo.version_tuple >= (4, 20)]
        stored = [value for value, _ in known]
        change = {"$set": {"values": stored, **{f"value{i}": value for i, value in enumerate(stored)}}}
        self.database.user.update_one({"user_id": USER_ID}, change)
        expected = [value for _, value in known]
        login = self.post("auth/login", LOGIN_DATA)["data"]["user"]
        update = self.post("user/update", {"update_user": {"name": "Ada"}})["data"]
        find = self.post("user/find", {})["data"]
        for name, user in {"login": login, "update": update, "find": find}.items():
            with self.subTest(name):
                self.assertEqual(user["values"], expected)
                self.assertEqual([user[f"value{number}"] for number in range(len(expected))], expected)


class StoredWithPyMongoTest(StoredTest):
    driver = "pymongo"


class StoredWithMongojetTest(StoredTest):
    driver = "mongojet"


@mongo
async def store(value: Any) -> None:
    await db.mongodb.things.insert_one({"a": [value]})


class StoringHandler(IndicoHandler):
    """Actions whose author forgot what BSON lacks."""

    VALUES = {"date": DAY, "decimal": decimal.Decimal(1), "set": {1}}

    @unpack("kind")
    async def later(self, kind: str) -> None:
        await user_db.update({"$set": {"day": self.VALUES[kind]}}, USER_ID)

    @unpack("kind")
    def callback(self, kind: str) -> None:
        @mongo_callback(self)
        def update_callback(user: Any) -> None:
            self.respond(user)

        user_db.update({"$set": {"day": self.VALUES[kind]}}, USER_ID, update_callback)


class StoringTest(ServerTest):
    routes = [(r"/storing/(?P<action>[a-zA-Z]+)?", StoringHandler)]
    stores = ("user",)

    def test_a_value_that_bson_lacks_is_a_500_and_the_log_names_its_type(self) -> None:
        self.database.user.insert_one({"user_id": USER_ID})
        for action in ("later", "callback"):
            for kind, name in (("date", "datetime.date"), ("decimal", "decimal.Decimal"), ("set", "set")):
                with self.subTest(action=action, kind=kind), self.assertLogs("indico", "ERROR") as log:
                    answer = self.post(f"storing/{action}", {"kind": kind})
                    self.assertEqual(answer["status"], 500)
                    self.assertNotIn(name, str(answer))
                    self.assertIn(name, log.output[0])
        self.assertNotIn("day", self.database.user.find_one({}) or {})


class StoreTest(OnDriver, MongoTest):
    """What a helper stores is checked as before: there is no encoder for BSON."""

    @gen_test
    async def test_a_value_that_bson_lacks_is_the_programs_mistake_and_its_type_is_named(self) -> None:
        for value, name in (
            (DAY, "datetime.date"),
            (decimal.Decimal(1), "decimal.Decimal"),
            (Birthday.ADA, "Birthday"),
            ({1}, "set"),
            (Point(1), "Point"),
            (ORDER, "Order"),
            ({1: 2}, "string keys"),
        ):
            with self.subTest(name), self.assertRaises(MongoError) as caught:
                await store(value)
            self.assertIn(name, str(caught.exception.__cause__))
        self.assertEqual(self.database.things.count_documents({}), 0)

    @slow
    @gen_test
    async def test_a_value_that_a_client_may_have_sent_is_an_invalid_value(self) -> None:
        for value in (2**64, "\ud800", {"a\0": 1}, "a" * 17 * 1024 * 1024):
            with self.assertRaises(InvalidValue):
                await store(value)

    @gen_test
    async def test_a_helper_of_users_refuses_a_date_too(self) -> None:
        await user_db.sync_user({"name": "Ada"}, USER_ID)
        with self.assertRaises(MongoError):
            await user_db.update({"$set": {"day": DAY}}, USER_ID)


class StoreWithPyMongoTest(StoreTest):
    driver = "pymongo"


class StoreWithMongojetTest(StoreTest):
    driver = "mongojet"
