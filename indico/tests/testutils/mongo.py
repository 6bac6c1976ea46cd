"""
A MongoDB for the tests, with a new database for each test.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, ClassVar

from bson.objectid import ObjectId
from pymongo import MongoClient
from tornado.testing import AsyncTestCase, bind_unused_port

import indico.server  # noqa: F401 - it imports all that declares an index
from indico import config, db
from indico.core.mongo import user_data
from indico.core.mongo.mongod import Mongod
from indico.tests.testutils.strict import StrictTest

MIN_FREE = 2 * 1024**3  # bytes, several times as many as the whole suite needs


@functools.cache
def start_mongodb() -> MongoClient[dict[str, Any]]:
    """
    Return a client of the MongoDB in the variable MONGODB. If it is not set, start a private mongod
    on a free port. At the end of the process, it is stopped and its data is deleted.
    """
    if not os.environ.get("MONGODB"):
        socket, port = bind_unused_port()
        socket.close()
        folder = Path(tempfile.mkdtemp(prefix="indico-test-", dir=find_memory()))
        atexit.register(shutil.rmtree, folder)
        mongod = Mongod(folder, port)
        mongod.start()
        atexit.register(mongod.stop)
        atexit.register(os.environ.update, dict(os.environ))  # which have the pid for `stop`
        config.MONGODB = f"mongodb://127.0.0.1:{port}"
    client: MongoClient[dict[str, Any]] = MongoClient(config.MONGODB)
    atexit.register(client.close)
    return client


def find_memory() -> str | None:
    """Return a folder in memory if it has enough space: mongod creates databases four times as fast there."""
    memory = "/dev/shm"
    try:
        return memory if shutil.disk_usage(memory).free > MIN_FREE and os.access(memory, os.W_OK) else None
    except OSError:
        return None


def name_database(test_id: str) -> str:
    """Return a unique name: the beginning of the test's name, and an ObjectId."""
    readable = re.sub("[^a-zA-Z0-9]+", "_", ".".join(test_id.split(".")[-2:]))
    return f"test_{readable[:30]}_{ObjectId()}"


def _restore(declared: list[Any], before: list[Any]) -> None:
    declared[:] = before


class DatabaseTest(StrictTest):
    """
    Gives each test a database, `self.database`. It is dropped after the test, even if that fails. Indexes and
    helpers of users' data that the test declares are forgotten.

    Indexes take most of a short test's time. Set `stores` to the collections that the tests of a class use,
    as in `stores = ("auth", "user")`, or to False. The others get no indexes.
    """

    stores: ClassVar[bool | Collection[str]] = True

    def setUp(self) -> None:
        client = start_mongodb()
        self.database = client[name_database(self.id())]
        self.addCleanup(setattr, config, "MONGODB_DATABASE", config.MONGODB_DATABASE)
        self.addCleanup(client.drop_database, self.database.name)
        config.MONGODB_DATABASE = self.database.name
        declared: list[Any]
        for declared in (db.INDEXES, user_data._removers, user_data._exporters):
            self.addCleanup(_restore, declared, list(declared))
        if self.stores is not True:
            db.INDEXES[:] = [each for each in db.INDEXES if each[0] in (self.stores or ())]
        super().setUp()


class MongoTest(DatabaseTest, AsyncTestCase):
    """
    A test of database helpers, with callbacks or `await`. Pass `self.callback` to a helper, and `result,
    error = self.wait()` runs the loop until it is called. Or await the helper in a test with the decorator
    `tornado.testing.gen_test`.

    `self.database` is a database of PyMongo, to check the effect of a helper.
    """

    def setUp(self) -> None:
        super().setUp()
        db.connect()
        self.io_loop.run_sync(db.ensure_indexes)

    def tearDown(self) -> None:
        self.io_loop.run_sync(db.close)
        super().tearDown()

    def callback(self, result: Any, error: BaseException | None = None) -> None:
        """End `self.wait()`. It returns both arguments as a pair."""
        self.stop((result, error))
