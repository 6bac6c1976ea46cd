"""
Each test has its own database, and can wait for a callback.
"""

from __future__ import annotations

import os
import subprocess
import sys
import unittest
from collections.abc import Callable
from typing import Any

import indico.db.auth_db as AuthDB
import indico.db.user_db as UserDB
from indico import config
from indico.db import current_time, mongo
from indico.error import InvalidValue
from indico.tests.mocks import USER, USER_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest, MongoTest, start_mongodb
from indico.tests.testutils.strict import StrictTest

PROGRAM = """
import unittest
from indico.tests.testutils.mongo import MongoTest

class InnerTest(MongoTest):
    def test(self):
        self.database.things.insert_one({})
        print(*self.database.client.address, self.database.name)

unittest.main()
"""

# Prints at the very end whether mongod still runs. A change of the environment that is undone hides its pid.
END = """
import atexit, os
from unittest import mock
from indico.tests.testutils.mongo import start_mongodb

atexit.register(lambda: print(os.path.exists(f"/proc/{pid}")))
with mock.patch.dict(os.environ):
    pid = start_mongodb().admin.command("serverStatus")["pid"]
"""


def nothing(test: Any) -> None: ...


def run_program(source: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True)


class DatabaseOfATestTest(StrictTest):
    """Runs tests by hand, and looks for their databases afterwards."""

    def setUp(self) -> None:
        super().setUp()
        self.client = start_mongodb()
        self.names: list[str] = []  # of the databases of the tests that ran

    def run_inner(
        self,
        body: Callable[[Any], None] = nothing,
        name: str = "test",
        base: type = MongoTest,
        **members: Any,
    ) -> unittest.TestResult:
        """Run a test of that name that first inserts a document. Returns its result."""

        def test(inner: Any) -> None:
            inner.database.things.insert_one({"a": 1})
            self.assertIn(inner.database.name, self.client.list_database_names())
            self.names.append(inner.database.name)
            body(inner)

        inner = type("InnerTest", (base,), {name: test, **members})
        result = unittest.TestResult()
        inner(name).run(result)
        self.assertEqual(result.testsRun, 1)
        return result

    def assert_dropped(self, runs: int = 1) -> None:
        self.assertEqual(len(set(self.names)), runs)
        self.assertEqual(set(self.names) & set(self.client.list_database_names()), set())

    def test_it_is_the_one_that_helpers_use(self) -> None:
        def body(inner: MongoTest) -> None:
            AuthDB.save_key(USER_KEY, USER_ID, inner.callback)
            inner.wait()
            inner.assertEqual(inner.database.auth.count_documents({}), 1)
            inner.assertEqual(config.MONGODB_DATABASE, inner.database.name)

        self.assertTrue(self.run_inner(body).wasSuccessful())

    def test_it_has_the_indexes(self) -> None:
        def body(inner: MongoTest) -> None:
            inner.assertIn("user_id_1", inner.database.user.index_information())

        self.assertTrue(self.run_inner(body).wasSuccessful())

    def test_it_is_dropped_after_the_test(self) -> None:
        self.assertTrue(self.run_inner().wasSuccessful())
        self.assert_dropped()

    def test_it_is_dropped_although_the_test_failed(self) -> None:
        def body(inner: unittest.TestCase) -> None:
            inner.fail("on purpose")

        self.assertEqual(len(self.run_inner(body).failures), 1)
        self.assert_dropped()

    def test_it_is_dropped_although_the_test_broke(self) -> None:
        def body(inner: unittest.TestCase) -> None:
            raise KeyError("on purpose")

        self.assertEqual(len(self.run_inner(body).errors), 1)
        self.assert_dropped()

    def test_it_is_dropped_although_what_a_subclass_tears_down_broke(self) -> None:
        def tear_down(inner: MongoTest) -> None:
            self.addCleanup(MongoTest.tearDown, inner)  # closes the connection
            raise KeyError("on purpose")

        self.assertEqual(len(self.run_inner(tearDown=tear_down).errors), 1)
        self.assert_dropped()

    def test_it_is_dropped_although_a_subclass_forgot_to_tear_down(self) -> None:
        self.run_inner(base=DatabaseTest, tearDown=nothing)
        self.assert_dropped()

    def test_it_is_dropped_although_what_a_subclass_sets_up_broke(self) -> None:
        def set_up(inner: Any) -> None:
            DatabaseTest.setUp(inner)
            inner.database.things.insert_one({})
            self.names.append(inner.database.name)
            raise KeyError("on purpose")

        self.assertEqual(len(self.run_inner(base=DatabaseTest, setUp=set_up).errors), 1)
        self.assert_dropped()

    def test_the_name_of_the_database_in_the_settings_is_put_back(self) -> None:
        before = config.MONGODB_DATABASE
        self.run_inner()
        self.assertEqual(config.MONGODB_DATABASE, before)

    @slow
    def test_the_same_test_has_another_one_each_time(self) -> None:
        for _ in range(3):
            self.run_inner()
        self.assert_dropped(runs=3)

    @slow
    def test_tests_whose_names_begin_alike_have_each_their_own(self) -> None:
        for end in ("a", "b"):
            self.run_inner(name="test_" + 200 * "x" + end)
        self.assert_dropped(runs=2)

    def test_its_name_is_one_that_mongodb_takes_whatever_the_tests_name_is(self) -> None:
        for name in ("test_" + 500 * "x", "test_" + 100 * "ä", 'test /\\. "$*<>:|?\0', "test_🦄", ""):
            result = self.run_inner(name=name or "test_", base=DatabaseTest)
            self.assertTrue(result.wasSuccessful(), result.errors)
        self.assert_dropped(runs=5)
        for name in self.names:
            self.assertRegex(name, r"\A[a-zA-Z0-9_]{1,63}\Z")

    def test_its_name_tells_the_test(self) -> None:
        self.run_inner(name="test_the_roof")
        self.assertIn("test_the_roof", self.names[0])

    @slow
    def test_it_is_made_on_the_mongodb_of_the_environment_if_there_is_one(self) -> None:
        host, port = self.client.address or ("", 0)
        run = run_program(PROGRAM, MONGODB=config.MONGODB, PATH="")  # so that it can't find another mongod
        self.assertEqual(run.returncode, 0, run.stderr)
        used_host, used_port, name = run.stdout.split()
        self.assertEqual((used_host, used_port), (host, str(port)))
        self.names.append(name)
        self.assert_dropped()

    @slow
    def test_mongod_ends_with_the_tests_although_the_first_one_changes_the_environment(self) -> None:
        run = run_program(END, MONGODB="")
        self.assertEqual((run.stdout, run.stderr), ("False\n", ""))


class CallbackTest(MongoTest):
    def test_wait_returns_the_result_and_none(self) -> None:
        UserDB.sync_user(USER, USER_ID, self.callback)
        result, error = self.wait()
        self.assertEqual((result["name"], error), (USER["name"], None))

    def test_wait_returns_two_nones_when_none_is_the_result(self) -> None:
        UserDB.find_user("nobody", self.callback)
        self.assertEqual(self.wait(), (None, None))

    def test_wait_returns_none_and_the_error(self) -> None:
        UserDB.sync_user({"a.b": 1}, USER_ID, self.callback)
        result, error = self.wait()
        self.assertIsNone(result)
        self.assertIsInstance(error, InvalidValue)

    def test_a_result_alone_is_enough(self) -> None:
        self.callback("done")
        self.assertEqual(self.wait(), ("done", None))

    def test_a_helper_with_a_callback_works_before_the_loop_runs(self) -> None:
        called: list[float] = []

        @mongo
        async def helper() -> int:
            called.append(current_time())
            return 7

        helper(self.callback)
        self.assertEqual(called, [])
        self.assertEqual(self.wait(), (7, None))
