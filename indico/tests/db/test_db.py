"""
The seam to MongoDB: what every helper has in common.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any
from unittest import mock

from bson.objectid import ObjectId
from pymongo.errors import WriteConcernError
from tornado.testing import AsyncTestCase, bind_unused_port, gen_test

import indico.db
from indico import config
from indico.core.mongo.drivers import make_client
from indico.db import current_time, index, mongo, mongo_obj, parse_id, user_db
from indico.error import InvalidValue, MongoError, Unavailable, WrongFieldType
from indico.tests.mocks import USER, USER_ID
from indico.tests.testutils.mongo import DatabaseTest, MongoTest, start_mongodb
from indico.tests.testutils.strict import StrictTest


@mongo
async def insert(document: dict[str, Any]) -> Any:
    result = await indico.db.mongodb.things.insert_one(document)
    return result.inserted_id


@mongo
async def find_all(query: dict[str, Any]) -> Any:
    return await indico.db.mongodb.things.find(query).to_list(None)


@mongo
async def command(name: str) -> Any:
    return await indico.db.mongodb.command(name)


@mongo
@mongo_obj(
    {"size": (int, True), "ratio": (float, False), "tags": (list[str], False)},
    ignore=("ours",),
    operators=True,
)
async def checked(update_dic: dict[str, Any]) -> Any:
    return update_dic


@mongo
@mongo_obj({"size": (int, True)}, ignore=("ours",))
async def checked_fields(fields: dict[str, Any]) -> Any:
    return fields


class WritingTest(MongoTest):
    """The two ways of calling a helper."""

    stores = False

    @gen_test
    async def test_without_a_callback_a_helper_is_awaited(self) -> None:
        inserted = await insert({"a": 1})
        self.assertEqual(await find_all({}), [{"_id": inserted, "a": 1}])

    def test_with_a_callback_a_helper_works_before_the_loop_runs(self) -> None:
        self.assertIsNone(insert({"a": 1}, self.callback))
        inserted, _ = self.wait()
        find_all({}, self.callback)
        self.assertEqual(self.wait(), ([{"_id": inserted, "a": 1}], None))

    def test_a_callback_gets_the_result_and_none(self) -> None:
        find_all({}, lambda *arguments: self.stop(arguments))
        self.assertEqual(self.wait(), ([], None))

    def test_a_callback_gets_none_and_the_error_for_what_can_not_be_encoded(self) -> None:
        of_a_client = (2**64, "\ud800", {"\0": 1})
        of_the_program = (object(), {1, 2}, {"a": {1: "no string"}})
        for values, kind in ((of_a_client, InvalidValue), (of_the_program, MongoError)):
            for value in values:
                insert({"a": value}, lambda *arguments: self.stop(arguments))
                result, error = self.wait()
                self.assertIsNone(result)
                self.assertIsInstance(error, kind)
        self.assertEqual(list(self.database.things.find()), [])

    def test_a_callback_gets_any_other_error_as_it_is(self) -> None:
        find_all("no query", lambda *arguments: self.stop(arguments))
        result, error = self.wait()
        self.assertIsNone(result)
        self.assertIsInstance(error, TypeError)

    def test_a_callback_that_fails_is_logged(self) -> None:
        def fail(result: Any, error: Any) -> None:
            self.stop()
            raise ValueError("in the callback")

        with self.assertLogs("indico", "ERROR") as log:
            find_all({}, fail)
            self.wait()
            self.io_loop.run_sync(lambda: asyncio.sleep(0))
        self.assertIn("in the callback", log.output[0])

    def test_a_callback_runs_on_the_loops_own_thread(self) -> None:
        find_all({}, lambda *_: self.stop(threading.current_thread()))
        self.assertIs(self.wait(), threading.current_thread())

    @gen_test
    async def test_a_callers_dict_never_changes_and_may_be_changed(self) -> None:
        document: dict[str, Any] = {"a": [{"b": 1}], "c": {"d": 2}}
        call = insert(document)
        document["a"][0]["b"] = 3
        document["c"].clear()
        inserted = await call
        self.assertEqual(document, {"a": [{"b": 3}], "c": {}})
        self.assertEqual(await find_all({}), [{"_id": inserted, "a": [{"b": 1}], "c": {"d": 2}}])

    @gen_test
    async def test_a_helper_takes_keywords_and_copies_them_too(self) -> None:
        document = {"a": 1}
        await insert(document=document)
        self.assertEqual(document, {"a": 1})

    def test_a_helper_keeps_its_name_and_docstring(self) -> None:
        self.assertEqual(getattr(user_db.find_user, "__name__", None), "find_user")
        self.assertIn("whole user", str(user_db.find_user.__doc__))


class ErrorTest(MongoTest):
    stores = False

    @gen_test
    async def test_a_document_that_is_too_large_is_an_invalid_value(self) -> None:
        with self.assertRaises(InvalidValue):
            await insert({"a": 17 * 1024 * 1024 * "a"})

    @gen_test
    async def test_a_document_that_is_too_deep_is_an_invalid_value(self) -> None:
        document: dict[str, Any] = {}
        for _ in range(400):
            document = {"a": document}
        with self.assertRaises(InvalidValue):
            await insert(document)

    @gen_test
    async def test_what_mongodb_refuses_is_a_mongo_error_that_hides_the_cause(self) -> None:
        with self.assertRaises(MongoError) as caught:
            await command("nonsense")
        self.assertNotIn("nonsense", caught.exception.message)
        self.assertIn("nonsense", str(caught.exception.__cause__))

    @gen_test
    async def test_what_the_driver_refuses_is_a_mongo_error_too(self) -> None:
        @mongo
        async def write_nothing() -> Any:
            return await indico.db.mongodb.things.bulk_write([])

        with self.assertRaises(MongoError):
            await write_nothing()

    @gen_test
    async def test_a_duplicate_is_a_mongo_error(self) -> None:
        await insert({"_id": 1})
        with self.assertRaises(MongoError):
            await insert({"_id": 1})

    @gen_test
    async def test_a_slow_answer_is_unavailable_within_the_timeout(self) -> None:
        @mongo
        async def sleep() -> Any:
            return await indico.db.mongodb.things.find_one({"$where": "sleep(2000) || true"})

        await insert({"a": 1})
        self.addCleanup(setattr, config, "MONGODB_TIMEOUT", config.MONGODB_TIMEOUT)
        config.MONGODB_TIMEOUT = 0.1
        began = current_time()
        with self.assertRaises(Unavailable):
            await sleep()
        self.assertLess(current_time() - began, 1000)

    @gen_test
    async def test_what_is_given_up_is_left_alone_and_ends_by_itself(self) -> None:
        given_up, ended = asyncio.Event(), asyncio.Event()

        @mongo
        async def insert_late() -> None:
            await given_up.wait()
            await indico.db.mongodb.things.insert_one({"a": 1})
            ended.set()

        self.addCleanup(setattr, config, "MONGODB_TIMEOUT", config.MONGODB_TIMEOUT)
        config.MONGODB_TIMEOUT = 0.01
        with self.assertRaises(Unavailable):
            await insert_late()
        given_up.set()
        await ended.wait()
        self.assertEqual(self.database.things.count_documents({}), 1)

    @gen_test
    async def test_what_mongodb_itself_gave_up_in_time_is_unavailable(self) -> None:
        @mongo
        async def sleep() -> Any:
            query = {"$where": "sleep(100) || true"}
            return await indico.db.mongodb.things.find_one(query, max_time_ms=10)

        await insert({"a": 1})
        with self.assertRaises(Unavailable):
            await sleep()

    @gen_test
    async def test_a_write_that_a_mongodb_on_its_way_out_does_not_confirm_is_unavailable(self) -> None:
        @mongo
        async def write() -> None:
            raise WriteConcernError("The storage catalog is being closed.", 91)

        with self.assertRaises(Unavailable):
            await write()

    def test_an_unreachable_mongodb_is_unavailable(self) -> None:
        # It takes connections and says nothing: of one that is refused just when the client is closed,
        # PyMongo leaves the socket open.
        listening, port = bind_unused_port()
        self.addCleanup(listening.close)

        async def ask() -> None:
            await indico.db.close()
            indico.db.connect(f"mongodb://127.0.0.1:{port}/?serverSelectionTimeoutMS=50")
            with self.assertRaises(Unavailable):
                await find_all({})

        self.io_loop.run_sync(ask)


class ConnectionTest(DatabaseTest, AsyncTestCase):
    def tearDown(self) -> None:
        self.io_loop.run_sync(indico.db.close)
        super().tearDown()

    @gen_test
    async def test_the_first_use_connects(self) -> None:
        await insert({"a": 1})
        self.assertEqual(self.database.things.count_documents({}), 1)
        self.assertEqual(indico.db.mongodb.name, self.database.name)
        self.assertIs(indico.db.mongodb.client, indico.db.CLIENT)

    @gen_test
    async def test_indexes_connect_too(self) -> None:
        await indico.db.ensure_indexes()
        self.assertIn("user_id_1", self.database.user.index_information())

    @gen_test
    async def test_closing_twice_does_no_harm_and_the_next_use_connects_again(self) -> None:
        await insert({"a": 1})
        client = indico.db.CLIENT
        await indico.db.close()
        await indico.db.close()
        await insert({"a": 2})
        self.assertIsNot(indico.db.CLIENT, client)

    @gen_test
    async def test_assigning_client_and_mongodb_redirects_every_helper(self) -> None:
        indico.db.connect()
        first = indico.db.CLIENT
        other = f"test_redirected_{ObjectId()}"
        self.addCleanup(start_mongodb().drop_database, other)
        indico.db.CLIENT = make_client(config.MONGODB, ())
        indico.db.mongodb = indico.db.CLIENT[other]
        closing = first.close()
        if closing is not None:
            await closing
        await user_db.sync_user(USER, USER_ID)
        self.assertEqual(self.database.list_collection_names(), [])
        self.assertEqual(start_mongodb()[other].user.count_documents({}), 1)

    @gen_test
    async def test_a_client_whose_close_is_a_coroutine_is_closed(self) -> None:
        client = mock.Mock(close=mock.AsyncMock())
        await indico.db.close()
        indico.db.CLIENT = client
        await indico.db.close()
        client.close.assert_awaited_once()

    @gen_test
    async def test_both_drivers_serve_the_same_helpers(self) -> None:
        self.addCleanup(setattr, config, "MONGODB_DRIVER", config.MONGODB_DRIVER)
        for driver, database in (("motor", "AgnosticDatabase"), ("pymongo", "AsyncDatabase")):
            await indico.db.close()
            config.MONGODB_DRIVER = driver
            inserted = await insert({"driver": driver})
            self.assertEqual(await find_all({"driver": driver}), [{"_id": inserted, "driver": driver}])
            bases = [base.__name__ for base in type(indico.db.mongodb).__mro__]
            self.assertIn(database, bases)

    @gen_test
    async def test_a_collection_may_be_called_as_something_else_of_the_database(self) -> None:
        index("client", "email")
        indico.db.connect()
        await indico.db.ensure_indexes()
        self.assertIn("email_1", self.database["client"].index_information())
        self.assertIs(indico.db.mongodb.client, indico.db.CLIENT)

    def test_writes_are_for_the_majority_and_journalled_unless_the_uri_says_otherwise(self) -> None:
        indico.db.connect()
        self.assertEqual(indico.db.CLIENT.write_concern.document, {"w": "majority", "j": True})
        for scheme in ("mongodb", "mongodb+srv"):
            self.io_loop.run_sync(indico.db.close)
            indico.db.connect(f"{scheme}://cluster.example.com/?W=1&journal=false")
            self.assertEqual(indico.db.CLIENT.write_concern.document, {"w": 1, "j": False})

    def test_reads_are_of_what_a_majority_has_unless_the_uri_says_otherwise(self) -> None:
        for query, level in (
            ("", "majority"),
            ("?w=majority", "majority"),
            ("?readConcernLevel=local", "local"),
            ("?readconcernlevel=linearizable", "linearizable"),
            ("?w=1", None),  # a client would not find what it has just written
        ):
            indico.db.connect(f"mongodb://cluster.example.com/{query}")
            self.assertEqual(indico.db.CLIENT.read_concern.level, level, query)
            self.io_loop.run_sync(indico.db.close)

    def test_a_uri_that_makes_no_sense_is_a_setting_error_without_its_password(self) -> None:
        uris = ["mongodb://user:p@ssw0rd@host", "mongodb://", "mongodb://host/?w=-3", "mongodb://a:x"]
        for uri in [*uris, "mongodb://host/?tls=true&tlsCAFile=/no/such/file"]:
            with self.assertRaises(config.SettingError) as caught:
                indico.db.connect(uri)
            self.assertIn("MONGODB", str(caught.exception))
            self.assertNotIn("p@ssw0rd", str(caught.exception))

    def test_the_description_has_the_hosts_and_nothing_else_of_the_uri(self) -> None:
        for uri, hosts in (
            ("mongodb://localhost", "localhost:27017"),
            ("mongodb://ada:secret@a.com:1,b.com/admin?replicaSet=secret", "a.com:1, b.com:27017"),
            ("mongodb+srv://ada:secret@cluster.example.com/?appName=secret", "cluster.example.com"),
            ("mongodb://%2Ftmp%2Fmongodb.sock", "/tmp/mongodb.sock"),
        ):
            with self.subTest(uri), mock.patch.object(config, "MONGODB", uri):
                self.assertEqual(indico.db.describe(), f"{self.database.name} at {hosts}")

    def test_the_module_has_no_other_lazy_attributes(self) -> None:
        with self.assertRaises(AttributeError):
            indico.db.nonsense  # noqa: B018


class IndexTest(MongoTest):
    def setUp(self) -> None:
        super().setUp()
        index("things", "a", "b", unique=True)

    @gen_test
    async def test_indexes_are_made_once(self) -> None:
        await indico.db.ensure_indexes()
        await indico.db.ensure_indexes()
        self.assertTrue(self.database.things.index_information()["a_1_b_1"]["unique"])

    @gen_test
    async def test_data_that_breaks_an_index_is_named_and_stops_nothing(self) -> None:
        await insert({"a": 1, "b": 1})
        await insert({"a": 1, "b": 1})
        index("others", "c")
        with self.assertRaisesRegex(MongoError, "^No index on a, b of things: .*duplicate key"):
            await indico.db.ensure_indexes()
        self.assertIn("c_1", self.database.others.index_information())

    @gen_test
    async def test_an_index_that_is_there_otherwise_is_named_with_what_helps(self) -> None:
        self.database.things.drop_indexes()
        self.database.things.create_index(["a", "b"])
        with self.assertLogs("indico", "ERROR") as log:
            await indico.db.ensure_indexes()
        [line] = log.output
        self.assertIn(
            "MongoDB has another definition of things.a_1_b_1; see `python -m indico.migrate`", line
        )


class SchemaTest(MongoTest):
    stores = False

    @gen_test
    async def test_plain_fields_are_refused_lest_a_clients_operators_pass_among_them(self) -> None:
        for update in ({"size": 1}, {"$set": {}, "size": 1}):
            with self.assertRaises(TypeError):
                await checked(update)

    @gen_test
    async def test_operators_are_left_alone(self) -> None:
        update = {"$set": {"size": 1}, "$push": {"list": 2}}
        self.assertEqual(await checked(update), update)

    @gen_test
    async def test_ignored_fields_are_left_out(self) -> None:
        self.assertEqual(await checked({"$set": {"ours": object(), "theirs": 1}}), {"$set": {"theirs": 1}})

    @gen_test
    async def test_a_field_of_the_wrong_type_is_refused(self) -> None:
        for fields in ({"size": "1"}, {"size": True}, {"ratio": True}, {"ratio": "x"}):
            with self.assertRaises(WrongFieldType):
                await checked({"$set": fields})

    @gen_test
    async def test_a_field_is_checked_in_depth(self) -> None:
        self.assertEqual(await checked({"$set": {"tags": ["a"]}}), {"$set": {"tags": ["a"]}})
        with self.assertRaisesRegex(WrongFieldType, r"Field tags\[1\] - 7 is type int but should be str"):
            await checked({"$set": {"tags": ["a", 7]}})

    def test_a_schema_with_what_is_no_type_complains_at_import(self) -> None:
        with self.assertRaises(TypeError):
            mongo_obj({"size": ("int", True)})

    @gen_test
    async def test_an_integer_is_a_float_too(self) -> None:
        self.assertEqual(await checked({"$set": {"ratio": 1}}), {"$set": {"ratio": 1}})

    @gen_test
    async def test_what_is_nested_too_deep_is_refused_with_its_reason(self) -> None:
        fields: dict[str, Any] = {}
        for _ in range(99):
            fields = {"a": fields}
        self.assertEqual(await checked({"$set": fields}), {"$set": fields})
        with self.assertRaisesRegex(InvalidValue, "deeper than 100 levels"):
            await checked({"$set": {"a": fields}})

    @gen_test
    async def test_more_fields_than_mongodb_is_quick_with_are_refused(self) -> None:
        fields: dict[str, Any] = {f"field{number}": number for number in range(200)}
        self.assertEqual(await checked({"$set": fields}), {"$set": fields})
        with self.assertRaisesRegex(InvalidValue, "at most 200 fields"):
            await checked({"$set": {**fields, "another": 1}})

    def test_an_error_reaches_the_callback(self) -> None:
        checked({"$set": {"size": "1"}}, self.callback)
        result, error = self.wait()
        self.assertIsNone(result)
        self.assertIsInstance(error, WrongFieldType)

    @gen_test
    async def test_plain_fields_are_checked_unless_operators_are_asked_for(self) -> None:
        self.assertEqual(await checked_fields({"size": 1, "ours": 2, "more": 3}), {"size": 1, "more": 3})
        with self.assertRaises(WrongFieldType):
            await checked_fields({"size": "1"})
        with self.assertRaisesRegex(InvalidValue, r"The field name '\$set' is empty, begins with \$"):
            await checked_fields({"$set": {"size": 1}})

    def test_a_plain_function_stays_one(self) -> None:
        @mongo_obj({"size": (int, True)})
        def count(fields: dict[str, Any]) -> int:
            return len(fields)

        self.assertEqual(count({"size": 1}), 1)
        with self.assertRaises(WrongFieldType):
            count({"size": "1"})

    def test_strict_rejects_a_document_without_fields(self) -> None:
        @mongo_obj({"size": (int, True)}, ("ours",), strict=True)
        def fields_of(update_dic: dict[str, Any]) -> Any:
            return update_dic

        @mongo_obj({"size": (int, True)}, operators=True, strict=True)
        def update_of(update_dic: dict[str, Any]) -> Any:
            return update_dic

        for function, empty in ((fields_of, {}), (fields_of, {"ours": 1}), (update_of, {"$set": {}})):
            with self.assertRaisesRegex(InvalidValue, "There should be at least one field"):
                function(empty)
        self.assertEqual(update_of({"$inc": {"size": 1}}), {"$inc": {"size": 1}, "$set": {}})

    @gen_test
    async def test_strict_rejects_fields_that_the_schema_lacks(self) -> None:
        @mongo_obj({"size": (int, True)}, strict=True)
        async def store(fields: dict[str, Any]) -> Any:
            return fields

        self.assertEqual(await store({"size": 1}), {"size": 1})
        with self.assertRaisesRegex(InvalidValue, "Field more is unknown"):
            await store({"size": 1, "more": 2})

    def test_above_mongo_it_does_the_same_as_below(self) -> None:
        @mongo_obj({"size": (int, True)})
        @mongo
        async def store(fields: dict[str, Any]) -> Any:
            """Store them."""
            return fields

        self.assertEqual(getattr(store, "__doc__"), "Store them.")  # noqa: B009
        store({"size": 1}, self.callback)
        self.assertEqual(self.wait(), ({"size": 1}, None))
        store({"size": "1"}, self.callback)
        result, error = self.wait()
        self.assertIsNone(result)
        self.assertIsInstance(error, WrongFieldType)


class IdTest(StrictTest):
    def test_an_id_is_what_a_client_got_of_it(self) -> None:
        number = ObjectId()
        self.assertEqual(parse_id(str(number)), number)

    def test_what_is_no_id_is_refused(self) -> None:
        for text in ("", "1", 24 * "x", 25 * "0", 24 * "\ud800", 24 * "\u0661"):
            with self.assertRaisesRegex(InvalidValue, "is no id: it should be 24 hex digits"):
                parse_id(text)


class TimeTest(StrictTest):
    def test_the_current_time_is_in_whole_utc_milliseconds(self) -> None:
        before = time.time()
        now = current_time()
        self.assertIs(type(now), int)
        self.assertTrue(before * 1000 - 1 <= now <= time.time() * 1000 + 1)
