"""
Errors of MongoDB that are not lost connections: a stub of MongoDB returns them to each driver.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from contextlib import suppress
from typing import Any
from unittest import mock

import bson
from pymongo import common
from pymongo.errors import BulkWriteError, OperationFailure

import indico.db
from indico.core.mongo.helper import translate
from indico.error import InvalidValue, MongoError, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.tests.core.mongo.on_driver import OnDriver
from indico.tests.mocks import HEADERS
from indico.tests.testutils import slow
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

HELLO = {
    "ok": 1,
    "helloOk": True,
    "ismaster": True,
    "isWritablePrimary": True,
    "minWireVersion": 0,
    "maxWireVersion": 21,
    "maxBsonObjectSize": 16 * 1024 * 1024,
    "maxMessageSizeBytes": 48_000_000,
    "maxWriteBatchSize": 100_000,
}
OP_QUERY, OP_REPLY, OP_MSG = 2004, 1, 2013


def make_error(code: int, *labels: str) -> dict[str, Any]:
    error = {"ok": 0, "code": code, "codeName": f"Code{code}", "errmsg": "a reason"}
    return {**error, "errorLabels": list(labels)} if labels else error


class StubMongoDB(socketserver.ThreadingTCPServer):
    """Answers `hello` with `hello`, and all other commands with `reply`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.hello: dict[str, Any] = HELLO
        self.reply: dict[str, Any] = {"ok": 1}
        self.port = self.server_address[1]
        self._thread = threading.Thread(target=self.serve_forever, args=[0.01])
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Connection(socketserver.StreamRequestHandler):
    server: StubMongoDB

    def handle(self) -> None:
        with suppress(ConnectionError):  # a driver resets its connections
            while head := self.rfile.read(16):
                size, number, _, kind = struct.unpack("<4i", head)
                body = self.rfile.read(size - 16)
                start = body.index(b"\0", 4) + 9 if kind == OP_QUERY else 5
                [length] = struct.unpack_from("<i", body, start)
                command = bson.decode(body[start : start + length])
                is_hello = next(iter(command)).lower() in ("hello", "ismaster")
                document = bson.encode(self.server.hello if is_hello else self.server.reply)
                if kind == OP_QUERY:
                    kind, answer = OP_REPLY, struct.pack("<iqii", 8, 0, 0, 1) + document
                else:
                    answer = struct.pack("<iB", 0, 0) + document
                self.wfile.write(struct.pack("<4i", 16 + len(answer), 1, number, kind) + answer)


UNREACHABLE = "The database can't be reached"
NOT_NOW = "The database can't run this operation at the moment"


class StubTest(OnDriver, ServerTest):
    routes = [AuthRoute, UserRoute]
    stores = False

    def setUp(self) -> None:
        self.stub = StubMongoDB()
        self.addCleanup(self.stub.close)
        self.enterContext(mock.patch.object(common, "MIN_HEARTBEAT_INTERVAL", 0.01))  # PyMongo's pause
        super().setUp()

    def use(self, uri: str) -> None:
        self.io_loop.run_sync(indico.db.close)
        indico.db.connect(uri)

    def assert_unavailable(self, sentence: str) -> None:
        """Each is a 503 with Retry-After and one line of the log, without a traceback."""
        for route in ("auth/check", "user/update"):
            with self.assertLogs("indico", "WARNING") as logs:
                response = self.fetch(f"/{route}", method="POST", body="{}", headers=HEADERS)
            self.assertEqual(response.code, 503)
            self.assertEqual(response.headers["Retry-After"], "1")
            self.assertIn(sentence, response.body.decode())
            [record] = logs.records
            self.assertEqual((record.levelname, record.exc_info), ("WARNING", None))
            self.assertNotIn("\n", record.getMessage())

    @slow
    def test_an_overloaded_or_full_mongodb_or_one_without_rights_for_us_is_a_503(self) -> None:
        self.use(f"mongodb://127.0.0.1:{self.stub.port}/?retryReads=false&retryWrites=false")
        for reply in (
            make_error(462, "SystemOverloadedError", "RetryableError"),
            make_error(13),
            make_error(14031),
            make_error(12501),
            make_error(8000),
            make_error(16500),
            make_error(365),
            make_error(999, "SystemOverloadedError"),
        ):
            with self.subTest(reply):
                self.stub.reply = reply
                self.assert_unavailable(NOT_NOW)

    def test_a_user_that_does_not_exist_yet_is_a_503(self) -> None:
        self.use(f"mongodb://ada:secret@127.0.0.1:{self.stub.port}/")
        self.stub.reply = {**make_error(18), "errmsg": "Authentication failed."}
        self.assert_unavailable(NOT_NOW)

    def test_a_version_that_is_too_old_is_a_503(self) -> None:
        self.use(f"mongodb://127.0.0.1:{self.stub.port}/")
        self.stub.hello = {**HELLO, "maxWireVersion": 0}
        self.assert_unavailable(UNREACHABLE)

    @slow
    def test_a_name_that_can_not_be_resolved_is_a_503(self) -> None:
        for uri in ("mongodb+srv://nope.invalid/", "mongodb://nope.invalid/?serverSelectionTimeoutMS=50"):
            with self.subTest(uri):
                self.use(uri)
                self.assert_unavailable(UNREACHABLE)

    def test_any_other_error_stays_a_500(self) -> None:
        self.use(f"mongodb://127.0.0.1:{self.stub.port}/")
        for code in (2, 96, 59):
            self.stub.reply = make_error(code)
            with self.subTest(code), self.assertLogs("indico", "ERROR") as logs:
                self.assertEqual(self.post("auth/check", {})["status"], 500)
            self.assertIn("a reason", logs.output[0])


class StubWithPyMongoTest(StubTest):
    driver = "pymongo"


class StubWithMongojetTest(StubTest):
    driver = "mongojet"


class TranslateTest(StrictTest):
    def test_the_errors_in_a_bulk_write_count(self) -> None:
        for details, kind in (
            ({"writeErrors": [{"code": 11000}]}, MongoError),
            ({"writeErrors": [{"code": 11000}, {"code": 14031}]}, Unavailable),
            ({"writeErrors": [{"code": 10334}]}, InvalidValue),
            ({"writeErrors": [], "writeConcernErrors": [{"code": 91}]}, Unavailable),
        ):
            with self.subTest(details):
                self.assertIs(type(translate(BulkWriteError(details))), kind)

    def test_an_error_without_a_code_is_a_mongo_error(self) -> None:
        self.assertIs(type(translate(OperationFailure("no"))), MongoError)
