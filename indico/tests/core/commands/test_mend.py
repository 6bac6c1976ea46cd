"""
Data of an older server: what is served all the same, what the log says of it, and what the command mends.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from unittest import mock

import bson
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database

import indico.mend
from indico import config
from indico.core.commands import mend
from indico.tests.mocks import LOGIN_DATA, USER, USER_ID, USER_KEY
from indico.tests.routes.test_auth import NOT_AUTHENTICATED, TRUE, AccountTest
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import ProcessTest, make_environment, run_main

LONE_SURROGATE = b"\xed\xa0\x80"  # how the original stored "\ud800"


def with_lone_surrogate(document: dict[str, Any]) -> RawBSONDocument:
    """The document with each XXX replaced by what is no UTF-8."""
    return RawBSONDocument(bson.encode(document).replace(b"XXX", LONE_SURROGATE))


class ServedTest(AccountTest):
    """One server, and in its database what the original wrote."""

    def test_a_user_with_a_lone_surrogate_is_served_with_a_replacement_and_can_be_updated(self) -> None:
        self.database.user.insert_one(with_lone_surrogate({"user_id": USER_ID, "name": "AXXX", "pet": "XXX"}))
        user = self.login(user={})["data"]["user"]
        self.assertEqual(user["name"].rstrip("\ufffd"), "A")
        self.assertEqual(self.post("user/find", {})["data"], user)
        updated = self.post("user/update", {"update_user": {"name": "Ada"}})
        self.assertEqual(updated["data"], {**user, "name": "Ada"})

    def test_a_number_that_json_lacks_is_served_as_null(self) -> None:
        self.login()
        self.database.user.update_one({}, {"$set": {"score": float("nan")}})
        self.assertIsNone(self.post("user/find", {})["data"]["score"])

    def test_a_user_who_lacks_fields_is_served_without_them(self) -> None:
        self.database.user.insert_one({"user_id": USER_ID, "name": "Ada"})
        user = self.login(user={})["data"]["user"]
        self.assertEqual(set(user), {"_id", "user_id", "name"})

    def test_a_key_in_clear_opens_nothing_and_a_login_is_as_ever(self) -> None:
        self.database.auth.insert_one({"key": USER_KEY, "user_id": USER_ID})
        self.assertEqual(self.post("auth/check", {}), NOT_AUTHENTICATED)
        self.login()
        self.assertEqual(self.post("auth/check", {}), TRUE)


def insert_what_needs_mending(database: Database[dict[str, Any]]) -> None:
    database.user.insert_many([{"user_id": "a"}, {"user_id": "a"}])
    database.user.insert_one(with_lone_surrogate({"user_id": "b", "name": "XXX"}))
    database.auth.insert_one({"key": USER_KEY, "user_id": USER_ID})


def read_counts(output: str) -> list[int]:
    return [int(line.split()[0]) for line in output.splitlines()]


class CommandTest(DatabaseTest):
    def test_it_mends_everything_and_finds_nothing_the_second_time(self) -> None:
        insert_what_needs_mending(self.database)
        self.assertEqual(read_counts(run_main(indico.mend)), [1, 1, 1, 9])
        self.assertEqual(read_counts(run_main(indico.mend)), [0, 0, 0, 0])

    def test_a_setting_that_makes_no_sense_keeps_it_from_its_work(self) -> None:
        with (
            mock.patch.object(config.environment, "problems", ["PORT should be a number."]),
            self.assertRaisesRegex(SystemExit, r"^Not mended: PORT should be a number\.$"),
        ):
            run_main(indico.mend)

    def test_so_does_a_mongodb_that_is_away(self) -> None:
        with (
            mock.patch.object(config, "MONGODB", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1"),
            self.assertRaisesRegex(SystemExit, "^Not mended: MONGODB can't be used, ServerSelectionTimeout"),
        ):
            run_main(indico.mend)


class NamedTest(ProcessTest):
    def test_the_start_names_what_needs_mending_and_serves(self) -> None:
        self.database.user.insert_many([{"user_id": name} for name in ("a", "a", "b", "c", "c", "c")])
        self.database.auth.insert_one({"key": USER_KEY, "user_id": USER_ID})
        server = self.start()
        server.wait_for("keys in clear")
        for name in ("a", "c"):
            self.assertEqual(server.output.count(f"several documents with {{'user_id': '{name}'}}"), 1)
        self.assertNotIn("'b'", server.output)
        self.assertNotIn(USER_KEY, server.output)
        self.assertEqual(server.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(server.stop(), 0)

    @slow
    def test_the_command_mends_everything_and_finds_nothing_the_second_time(self) -> None:
        insert_what_needs_mending(self.database)
        self.assertEqual(self.mend(), [1, 1, 1, 9])
        self.assertEqual(self.mend(), [0, 0, 0, 0])
        server = self.start()
        self.assertEqual(server.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertNotIn("mend", server.output)
        self.assertIn("user_id_1", self.database.user.index_information())

    def mend(self) -> list[int]:
        process = self.run_mend()
        self.assertEqual((process.returncode, process.stderr), (0, ""))
        return read_counts(process.stdout)

    def run_mend(self, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "indico.mend"],
            cwd=self.folder,
            env=make_environment(settings),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @slow
    def test_what_keeps_the_command_from_its_work_is_a_sentence_and_status_1(self) -> None:
        for setting, value in (
            ("PORT", "x"),
            ("MONGODB", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=1"),
        ):
            process = self.run_mend(**{setting: value})
            self.assertEqual(process.returncode, 1)
            self.assertTrue(process.stderr.startswith("Not mended: "), process.stderr)
            self.assertNotIn("Traceback", process.stderr)


class DoublesTest(DatabaseTest):
    def test_the_oldest_document_stays_with_what_the_later_ones_know_better(self) -> None:
        first = {**USER, "_id": 1, "created": 1000, "phone": "1", "email": "old@example.com", "asked": ["a"]}
        second = {**USER, "_id": 2, "created": 2000, "phone": "", "email": "new@example.com", "asked": []}
        self.database.user.insert_many([second, first, {"_id": 3, "user_id": "other"}])
        self.assertEqual(mend.mend_doubles(self.database), 1)
        [merged, other] = self.database.user.find().sort("_id", 1)
        self.assertEqual(merged, {**first, "email": "new@example.com"})
        self.assertEqual(other, {"_id": 3, "user_id": "other"})

    def test_created_stays_unknown_where_no_document_of_the_oldest_knows_it(self) -> None:
        self.database.user.insert_many([{"_id": 1, "user_id": "a"}, {"_id": 2, "user_id": "a", "created": 5}])
        mend.mend_doubles(self.database)
        self.assertEqual(self.database.user.find_one(), {"_id": 1, "user_id": "a", "created": 5})
