"""
The driver mongojet: that it answers and fails as PyMongo's own does, and what is its own.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import unittest
from typing import Any
from unittest import mock

from bson import encode
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from pymongo import ASCENDING, DESCENDING, IndexModel, InsertOne, ReturnDocument, errors
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent
from tornado.testing import AsyncTestCase, gen_test

from indico import config, db
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest, MongoTest, start_mongodb
from indico.tests.testutils.proxy import Proxy
from indico.tests.testutils.strict import StrictTest

is_installed = importlib.util.find_spec("mongojet") is not None
needs_mongojet = unittest.skipUnless(is_installed, "mongojet is not installed")


class DriverTest(MongoTest):
    stores = False
    driver = "mongojet"

    def setUp(self) -> None:
        self.addCleanup(setattr, config, "MONGODB_DRIVER", config.MONGODB_DRIVER)
        config.MONGODB_DRIVER = self.driver
        super().setUp()
        self.things = db.mongodb.things


class OnPyMongoTest(DriverTest):
    """What helpers ask for, on PyMongo's own client first, so that this is known to be what it answers."""

    driver = "pymongo"

    async def insert(self, *numbers: int) -> None:
        for number in numbers:
            await self.things.insert_one({"_id": number})

    async def assert_fails(self, kind: type[errors.PyMongoError], call: Any, code: int | None = None) -> None:
        with self.assertRaises(errors.PyMongoError) as caught:
            await call
        self.assertIs(type(caught.exception), kind)
        self.assertEqual(getattr(caught.exception, "code", None), code)

    @gen_test
    async def test_insert_one_returns_the_id_and_adds_it_to_the_document(self) -> None:
        document: dict[str, Any] = {"a": 1}
        result = await self.things.insert_one(document)
        self.assertEqual(result.inserted_id, document["_id"])
        self.assertEqual(list(self.database.things.find()), [document])

    @gen_test
    async def test_find_one_takes_fields_order_and_offset(self) -> None:
        await self.things.insert_one({"_id": 1, "a": 1, "b": 1})
        await self.things.insert_one({"_id": 2, "a": 2, "b": 2})
        self.assertEqual(await self.things.find_one(2), {"_id": 2, "a": 2, "b": 2})
        self.assertEqual(await self.things.find_one({}, projection=["a"]), {"_id": 1, "a": 1})
        self.assertEqual(
            await self.things.find_one(sort=[("a", DESCENDING)], projection={"a": 0}), {"_id": 2, "b": 2}
        )
        self.assertEqual(
            await self.things.find_one({}, sort=["a"], skip=1, projection={"_id": 1}), {"_id": 2}
        )
        self.assertEqual(await self.things.find_one({}, sort=None, projection={"_id": 1}), {"_id": 1})
        self.assertIsNone(await self.things.find_one({"a": 3}))

    @gen_test
    async def test_find_sorts_skips_limits_and_lists(self) -> None:
        await self.insert(*range(10))
        found = await self.things.find({"_id": {"$gt": 1}}).sort("_id", DESCENDING).skip(2).limit(3).to_list()
        self.assertEqual(found, [{"_id": 7}, {"_id": 6}, {"_id": 5}])
        cursor = self.things.find({}, batch_size=3).sort("_id")
        self.assertEqual(await cursor.to_list(2), [{"_id": 0}, {"_id": 1}])
        self.assertEqual([document["_id"] async for document in cursor], [2, 3, 4, 5, 6, 7, 8, 9])
        self.assertEqual(await cursor.to_list(None), [])
        self.assertEqual(len(await self.things.find(sort={"_id": 1}, limit=4).to_list(100)), 4)

    @gen_test
    async def test_a_cursor_that_has_begun_takes_no_more_options(self) -> None:
        await self.insert(1, 2)
        cursor = self.things.find()
        await anext(cursor)
        with self.assertRaises(errors.InvalidOperation):
            cursor.sort("_id")

    @gen_test
    async def test_a_cursor_that_is_gone_is_an_operation_failure(self) -> None:
        await self.insert(1, 2, 3)
        cursor = self.things.find({}, batch_size=2)
        await cursor.to_list(2)
        pipeline: list[dict[str, Any]] = [
            {"$currentOp": {"idleCursors": True}},
            {"$match": {"ns": self.database.things.full_name}},
        ]
        [found] = self.database.client.admin.aggregate(pipeline)
        self.database.command("killCursors", "things", cursors=[found["cursor"]["cursorId"]])
        await self.assert_fails(errors.CursorNotFound, anext(cursor), 43)

    @gen_test
    async def test_update_one_counts(self) -> None:
        result = await self.things.update_one({"_id": 1}, {"$set": {"a": [1, 2]}}, upsert=True)
        self.assertEqual((result.matched_count, result.modified_count, result.upserted_id), (0, 0, 1))
        result = await self.things.update_one(
            {"_id": 1}, {"$set": {"a.$[one]": 3}}, array_filters=[{"one": 1}]
        )
        self.assertEqual((result.matched_count, result.modified_count, result.upserted_id), (1, 1, None))
        result = await self.things.update_one({"_id": 2}, [{"$set": {"a": 1}}], False)
        self.assertEqual((result.matched_count, result.modified_count, result.upserted_id), (0, 0, None))
        self.assertEqual(list(self.database.things.find()), [{"_id": 1, "a": [3, 2]}])

    @gen_test
    async def test_delete_one_counts(self) -> None:
        await self.insert(1)
        self.assertEqual((await self.things.delete_one({})).deleted_count, 1)
        self.assertEqual((await self.things.delete_one({})).deleted_count, 0)

    @gen_test
    async def test_find_one_and_update_returns_the_document_before_or_after(self) -> None:
        update = self.things.find_one_and_update
        self.assertIsNone(await update({"_id": 1}, {"$set": {"a": 1}}))
        after = ReturnDocument.AFTER
        self.assertEqual(
            await update({"_id": 1}, {"$set": {"a": 1, "b": 1}}, upsert=True, return_document=after),
            {"_id": 1, "a": 1, "b": 1},
        )
        self.assertEqual(await update({}, {"$inc": {"a": 1}}, projection=["a"]), {"_id": 1, "a": 1})
        self.assertEqual(
            await update({}, {"$inc": {"a": 1}}, sort=[("a", 1)], return_document=ReturnDocument.BEFORE),
            {"_id": 1, "a": 2, "b": 1},
        )

    @gen_test
    async def test_create_indexes_returns_their_names(self) -> None:
        models = [IndexModel([("a", ASCENDING)], unique=True), IndexModel("b", name="beta")]
        self.assertEqual(await self.things.create_indexes(models), ["a_1", "beta"])
        self.assertTrue(self.database.things.index_information()["a_1"]["unique"])

    @gen_test
    async def test_commands_are_words_with_options_or_documents(self) -> None:
        await self.insert(1)
        self.assertEqual((await db.mongodb.command("ping"))["ok"], 1)
        self.assertEqual((await db.mongodb.command("count", "things", query={"_id": 1}))["n"], 1)
        self.assertEqual((await db.mongodb.command({"count": "things"}))["n"], 1)

    @gen_test
    async def test_names_lead_to_collections_and_databases(self) -> None:
        await db.mongodb["things"].sub.insert_one({"_id": 1})
        self.assertEqual(self.database["things.sub"].count_documents({}), 1)
        self.assertEqual(self.things.sub.name, "things.sub")
        self.assertEqual(self.things.full_name, self.database.things.full_name)
        self.assertIs(self.things.database, db.mongodb)
        self.assertEqual((await db.CLIENT.admin.command("ping"))["ok"], 1)
        self.assertEqual(await db.CLIENT[self.database.name].things.sub.find_one(), {"_id": 1})
        with self.assertRaises(errors.InvalidName):
            db.mongodb["no..name"]

    @gen_test
    async def test_whatever_else_there_is_works_too(self) -> None:
        await self.things.bulk_write([InsertOne({"_id": 1}), InsertOne({"_id": 2})])
        await self.things.insert_one({"_id": 3}, comment="three")
        await self.things.update_one({"_id": 3}, {"$set": {"a": 1}}, comment="three")
        await self.things.delete_one({"_id": 3}, comment="three")
        await self.things.create_indexes([IndexModel("a")], comment="a")
        self.assertEqual(await self.things.count_documents({}), 2)
        self.assertEqual(await self.things.find_one({"_id": 1}, comment="one"), {"_id": 1})
        self.assertEqual(
            await self.things.find({}, {"_id": 1}).hint("_id_").to_list(), [{"_id": 1}, {"_id": 2}]
        )
        self.assertEqual(await self.things.find({}).hint("_id_").limit(1).to_list(), [{"_id": 1}])
        self.assertEqual(
            await self.things.find_one_and_update({"_id": 1}, {"$set": {"a": 1}}, hint="_id_"), {"_id": 1}
        )
        self.assertIn("things", await db.CLIENT[db.mongodb.name].list_collection_names())
        self.assertIn(self.database.name, await db.CLIENT.list_database_names())

    @gen_test
    async def test_a_name_that_is_no_option_is_a_type_error(self) -> None:
        with self.assertRaises(TypeError):
            await self.things.find_one({}, sorted=[("a", 1)])

    @gen_test
    async def test_what_other_programs_stored_is_read_as_well_as_it_can_be(self) -> None:
        broken = encode({"_id": 1, "text": "a?b"}).replace(b"a?b", b"a\xffb")
        self.database.get_collection("things").insert_one(RawBSONDocument(broken))
        read = {"_id": 1, "text": "a\ufffdb"}
        self.assertEqual(await self.things.find_one({}), read)
        self.assertEqual(await self.things.find({}).to_list(), [read])
        changed = await self.things.find_one_and_update({}, {"$set": {"a": 1}}, return_document=True)
        self.assertEqual(changed, {**read, "a": 1})

    @gen_test
    async def test_large_numbers_and_dates_come_back_as_they_were(self) -> None:
        document = {"_id": 2**62, "date": DatetimeMS(2**60)}
        await self.things.insert_one(document)
        self.assertEqual(await self.things.find_one(), document)

    @gen_test
    async def test_duplicates_are_told_apart(self) -> None:
        await self.insert(1)
        duplicate = {"$set": {"a": 1}, "$setOnInsert": {"_id": 1}}
        for call in (
            self.things.insert_one({"_id": 1}),
            self.things.update_one({"a": 1}, duplicate, upsert=True),
            self.things.find_one_and_update({"a": 1}, duplicate, upsert=True),
        ):
            await self.assert_fails(errors.DuplicateKeyError, call, 11000)

    @gen_test
    async def test_what_mongodb_refuses_is_an_operation_failure_with_its_code(self) -> None:
        await self.insert(1)
        update = {"$set": {"a": 1}, "$inc": {"a": 1}}
        await self.assert_fails(errors.WriteError, self.things.update_one({}, update), 40)
        await self.assert_fails(errors.OperationFailure, self.things.find_one_and_update({}, update), 40)
        await self.assert_fails(errors.OperationFailure, self.things.find_one({"$no": 1}), 2)
        await self.assert_fails(errors.OperationFailure, self.things.find({"$no": 1}).to_list(), 2)
        await self.assert_fails(errors.OperationFailure, db.mongodb.command("nonsense"), 59)

    @gen_test
    async def test_words_of_a_client_in_an_error_are_not_taken_for_the_drivers(self) -> None:
        labels = '", labels: {"RetryableWriteError"}, source: None, server response: None'
        for words in (labels, "BSON error. Kind: Invalid UTF-8", "I/O error"):
            with self.assertRaises(errors.OperationFailure) as caught:
                await self.things.find_one_and_update({}, {"$" + words: {"a": 1}})
            self.assertFalse(caught.exception.has_error_label("RetryableWriteError"), words)

    @gen_test
    async def test_what_takes_too_long_is_an_execution_timeout(self) -> None:
        await self.insert(1)
        query = {"$where": "sleep(100) || true"}
        await self.assert_fails(errors.ExecutionTimeout, self.things.find_one(query, max_time_ms=10), 50)

    @gen_test
    async def test_a_document_too_large_to_be_sent_is_that(self) -> None:
        with self.assertRaises(errors.DocumentTooLarge):
            await self.things.insert_one({"a": 17 * 1024 * 1024 * "a"})

    @gen_test
    async def test_an_update_without_operators_is_a_value_error(self) -> None:
        with self.assertRaises(ValueError):
            await self.things.find_one_and_update({}, {"a": 1})

    @gen_test
    async def test_a_client_that_is_closed_is_of_no_use(self) -> None:
        things, client = self.things, db.CLIENT
        await self.things.find_one()
        await client.close()
        with self.assertRaises(errors.InvalidOperation):
            await client[self.database.name].things.find_one()
        with self.assertRaises(errors.PyMongoError):
            await things.find_one()


@needs_mongojet
class OnMongojetTest(OnPyMongoTest):
    driver = "mongojet"


@needs_mongojet
class ConnectionTest(DatabaseTest, AsyncTestCase):
    """Between the client and MongoDB."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(setattr, config, "MONGODB_DRIVER", config.MONGODB_DRIVER)
        config.MONGODB_DRIVER = "mongojet"

    def tearDown(self) -> None:
        self.io_loop.run_sync(db.close)
        super().tearDown()

    @gen_test
    async def test_many_first_calls_at_once_make_one_client(self) -> None:
        db.connect()
        await asyncio.gather(*[db.mongodb.things.find_one() for _ in range(20)])

    @gen_test
    async def test_a_client_of_the_process_before_a_fork_is_an_error(self) -> None:
        from indico.core.mongo.mongojet import client

        db.connect()
        with (
            mock.patch.object(client, "_process", 1),
            self.assertRaisesRegex(errors.ConfigurationError, "before the process was forked"),
        ):
            await db.mongodb.things.find_one()

    @gen_test
    async def test_a_uri_may_end_anywhere(self) -> None:
        uri = config.MONGODB.partition("?")[0].rstrip("/")
        for ending in ("", "/", "/admin", "/?", "/?maxPoolSize=5", "/admin?w=1&journal=false"):
            db.connect(uri + ending)
            await db.mongodb.things.find_one()
            await db.close()

    def test_what_the_rust_driver_can_not_do_is_a_setting_error(self) -> None:
        for option in ("socketTimeoutMS=1000", "timeoutMS=1000", "w=0&journal=false"):
            with self.assertRaisesRegex(config.SettingError, f"mongojet does not take .*{option[:3]}"):
                db.connect(f"mongodb://host/?{option}")

    @gen_test
    async def test_what_only_the_rust_driver_refuses_is_an_error_of_the_first_call(self) -> None:
        db.connect("mongodb://host/?maxPoolSize=0")
        with self.assertRaises(errors.ConfigurationError):
            await db.mongodb.things.find_one()

    @gen_test
    async def test_a_connection_that_breaks_is_to_be_made_again(self) -> None:
        address = start_mongodb().address
        assert address is not None
        self.database.things.insert_one({})
        with Proxy(address) as proxy:
            db.connect(f"mongodb://127.0.0.1:{proxy.port}/?directConnection=true")
            sleep = {"$where": "sleep(1000) || true"}
            call = asyncio.ensure_future(db.mongodb.command("find", "things", filter=sleep))
            while not self.is_busy():
                await asyncio.sleep(0.01)
            proxy.cut()
            with self.assertRaises(errors.AutoReconnect):
                await call
            self.assertEqual((await db.mongodb.command("ping"))["ok"], 1)
            await db.close()

    def is_busy(self) -> bool:
        namespace = f"{self.database.name}.things"
        pipeline: list[dict[str, Any]] = [{"$currentOp": {}}, {"$match": {"ns": namespace}}]
        return bool(list(self.database.client.admin.aggregate(pipeline)))

    @gen_test
    async def test_a_server_that_is_not_there_is_a_server_selection_timeout(self) -> None:
        db.connect("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50")
        with self.assertRaises(errors.ServerSelectionTimeoutError):
            await db.mongodb.things.find_one()

    @gen_test
    async def test_listeners_are_told_of_commands(self) -> None:
        from indico.core.mongo.mongojet import Client

        listener = Listener()
        client = Client(config.MONGODB, event_listeners=[listener])
        things = client[self.database.name].things
        await things.insert_one({"_id": 1})
        with self.assertRaises(errors.DuplicateKeyError):
            await things.insert_one({"_id": 1})
        await things.count_documents({})
        await client.close()
        self.assertEqual(
            listener.heard[:6],
            ["started insert", "succeeded insert", "started insert", "failed insert"]
            + ["started aggregate", "succeeded aggregate"],
        )

    def test_without_the_package_the_start_says_so(self) -> None:
        missing = {name: module for name, module in sys.modules.items() if "mongojet" not in name}
        with mock.patch.dict(sys.modules, {**missing, "mongojet": None}, clear=True):
            sys.modules.pop("indico.core.mongo.mongojet", None)
            with self.assertRaisesRegex(
                config.SettingError, "^MONGODB_DRIVER is mongojet, but it is not inst"
            ):
                db.connect()


@needs_mongojet
class TextTest(StrictTest):
    """What takes a replica set to happen, from the texts that mongojet then has."""

    def translate(self, kind: str, labels: str = "") -> Any:
        import mongojet

        from indico.core.mongo.mongojet.errors import translate

        text = f"Kind: {kind}, labels: {{{labels}}}, source: None, server response: None"
        return translate(mongojet.PyMongoError(text))

    def test_a_server_that_is_no_primary_any_more_is_told_apart(self) -> None:
        kind = "Command failed: Error code 10107 (NotWritablePrimary): not primary"
        self.assertIsInstance(self.translate(kind), errors.NotPrimaryError)

    def test_members_that_are_too_slow_are_told_apart(self) -> None:
        kind = (
            "An error occurred when trying to execute a write operation: WriteConcernError("
            'WriteConcernError { code: 64, code_name: "WriteConcernFailed", message: "waiting"'
            " })"
        )
        self.assertIsInstance(self.translate(kind), errors.WTimeoutError)

    def test_a_name_that_is_not_found_is_a_connection_that_fails(self) -> None:
        kind = "An error occurred during DNS resolution: DNS error: no records found"
        self.assertIsInstance(self.translate(kind), errors.AutoReconnect)

    def test_labels_are_kept(self) -> None:
        kind = "Command failed: Error code 112 (WriteConflict): try again"
        error = self.translate(kind, '"RetryableWriteError", "TransientTransactionError"')
        self.assertTrue(error.has_error_label("RetryableWriteError"))
        self.assertEqual(error.code, 112)


@needs_mongojet
class ProcessTest(DatabaseTest):
    def run_script(self, *lines: str) -> str:
        """What a process prints that asks for a document and then goes through these lines."""
        script = [
            "import asyncio, os",
            "from indico import config, db",
            "from indico.db.user_db import find_user",
            f"config.MONGODB = {config.MONGODB!r}",
            "config.MONGODB_DRIVER = 'mongojet'",
            "async def ask():",
            "    try:",
            "        print(await find_user('facebook1'), flush=True)",
            "    except Exception as error:",
            "        print(error.__cause__, flush=True)",
            "    await db.close()",
            "asyncio.run(ask())",
            *lines,
        ]
        # From 3.12 on Python itself warns of forks.
        command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", "\n".join(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout

    @slow
    def test_after_a_fork_it_says_that_it_can_not_be_used(self) -> None:
        said = self.run_script(
            "if os.fork():",
            "    os.wait()",
            "else:",
            "    asyncio.run(ask())",
        )
        self.assertEqual(said, "None\nmongojet was used before the process was forked\n")

    @slow
    def test_the_end_of_a_process_does_not_abort_it(self) -> None:
        for _ in range(20):  # without what prevents it, one in seven
            self.assertEqual(self.run_script(), "None\n")


class Listener(CommandListener):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def started(self, event: CommandStartedEvent) -> None:
        self.heard.append(f"started {event.command_name}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.heard.append(f"succeeded {event.command_name}")

    def failed(self, event: CommandFailedEvent) -> None:
        self.heard.append(f"failed {event.command_name}")
