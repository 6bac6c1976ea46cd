"""
A MongoDB for the tests, and a database of its own for each.
"""

from __future__ import annotations

import atexit
import functools
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from bson.objectid import ObjectId
from pymongo import MongoClient
from tornado.testing import AsyncTestCase, bind_unused_port

from indico import config, db
from indico.core.mongo.mongod import Mongod
from indico.tests.testutils.strict import StrictTest

ROOM = 2 * 1024**3  # bytes, several times what the whole suite takes


@functools.cache
def start_mongodb() -> MongoClient[dict[str, Any]]:
    """
    A client of the MongoDB that the tests use: the one that MONGODB names in the environment, or else a
    private mongod on a free port, started here and stopped with its data at the end of the process.
    """
    if not os.environ.get("MONGODB"):
        socket, port = bind_unused_port()
        socket.close()
        folder = Path(tempfile.mkdtemp(prefix="indico-test-", dir=find_memory()))
        atexit.register(shutil.rmtree, folder)
        mongod = Mongod(folder, port)
        mongod.start()
        atexit.register(mongod.stop)
        config.MONGODB = f"mongodb://127.0.0.1:{port}"
    client: MongoClient[dict[str, Any]] = MongoClient(config.MONGODB)
    atexit.register(client.close)
    return client


def find_memory() -> str | None:
    """Where files are in memory, if there is room: there mongod makes a database four times as fast."""
    memory = "/dev/shm"
    try:
        return memory if shutil.disk_usage(memory).free > ROOM and os.access(memory, os.W_OK) else None
    except OSError:
        return None


def name_database(test_id: str) -> str:
    """A name that no other test has, nor another run: what it can of the test's, and an ObjectId."""
    readable = re.sub("[^a-zA-Z0-9]+", "_", ".".join(test_id.split(".")[-2:]))
    return f"test_{readable[:30]}_{ObjectId()}"


class DatabaseTest(StrictTest):
    """Gives each test a database, `self.database`, that is dropped whatever becomes of the test."""

    def setUp(self) -> None:
        client = start_mongodb()
        self.database = client[name_database(self.id())]
        self.addCleanup(setattr, config, "MONGODB_DATABASE", config.MONGODB_DATABASE)
        self.addCleanup(client.drop_database, self.database.name)
        config.MONGODB_DATABASE = self.database.name
        super().setUp()


class MongoTest(DatabaseTest, AsyncTestCase):
    """
    A test of database helpers, in either way of writing. Pass `self.callback` to a helper, and `result, error
    = self.wait()` runs the loop until it is called. Or await the helper in a test under
    `tornado.testing.gen_test`.

    `self.database` is PyMongo's own, to look at what a helper did.
    """

    def setUp(self) -> None:
        super().setUp()
        db.connect()
        self.io_loop.run_sync(db.ensure_indexes)

    def tearDown(self) -> None:
        self.io_loop.run_sync(db.close)
        super().tearDown()

    def callback(self, result: Any, error: BaseException | None = None) -> None:
        """End `self.wait()`, which then returns the pair of both."""
        self.stop((result, error))
