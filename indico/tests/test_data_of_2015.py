"""
Data of the server of 2015: it is served all the same, and the lines in docs/original repair it.
"""

from __future__ import annotations

from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from indico.tests.mocks import LOGIN_DATA, USER, USER_ID, USER_KEY
from indico.tests.routes.test_auth import NOT_AUTHENTICATED, TRUE, AccountTest
from indico.tests.test_docs import needs_docs
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.pages import read_blocks
from indico.tests.testutils.process import ProcessTest

LONE_SURROGATE = b"\xed\xa0\x80"  # how the original stored "\ud800"


def with_lone_surrogate(document: dict[str, Any]) -> RawBSONDocument:
    """The document with each XXX replaced by bytes that are not UTF-8."""
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


class StartTest(ProcessTest):
    def test_a_unique_index_that_can_not_be_made_is_named_and_the_server_serves(self) -> None:
        self.database.user.insert_many([{"user_id": "a"}, {"user_id": "a"}])
        self.database.auth.insert_one({"key": USER_KEY, "user_id": USER_ID})
        server = self.start()
        server.wait_for("No index on user_id of user: ")
        self.assertNotIn(USER_KEY, server.output)
        self.assertEqual(server.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertEqual(server.stop(), 0)


class RepairTest(DatabaseTest):
    def repair(self) -> None:
        """Run the lines in the guide, twice: the second run changes nothing."""
        needs_docs(self)
        [block] = read_blocks("original.rst", "python")
        exec(block.code, {})
        repaired = self.read()
        exec(block.code, {})
        self.assertEqual(self.read(), repaired)

    def read(self) -> list[list[dict[str, Any]]]:
        return [list(self.database[name].find().sort("_id", 1)) for name in ("user", "auth")]

    def test_the_oldest_document_stays_with_what_the_later_ones_add(self) -> None:
        first = {**USER, "_id": 1, "created": 1000, "phone": "1", "email": "old@example.com", "asked": ["a"]}
        second = {**USER, "_id": 2, "created": 2000, "phone": "", "email": "new@example.com", "asked": []}
        other = {**USER, "_id": 3, "user_id": "other"}
        self.database.user.insert_many([second, first, other])
        self.repair()
        self.assertEqual(self.read()[0], [{**first, "email": "new@example.com"}, other])

    def test_created_stays_unknown_where_the_oldest_document_does_not_know_it(self) -> None:
        self.database.user.insert_many([{"_id": 1, "user_id": "a"}, {"_id": 2, "user_id": "a", "created": 5}])
        self.repair()
        [[user], _] = self.read()
        self.assertEqual((user["_id"], user["user_id"], user.get("created")), (1, "a", None))

    def test_keys_in_clear_go_and_digests_stay(self) -> None:
        digest = {"_id": 1, "key": "sha256:00", "user_id": "a"}
        self.database.auth.insert_many([digest, {"key": USER_KEY, "user_id": USER_ID}])
        self.repair()
        self.assertEqual(self.read()[1], [digest])

    def test_text_and_missing_fields_are_as_a_new_user_has_them(self) -> None:
        self.database.user.insert_one(with_lone_surrogate({"_id": 1, "user_id": "b", "name": "AXXX"}))
        self.repair()
        [[user], _] = self.read()
        self.assertEqual(user.pop("name").rstrip("\ufffd"), "A")
        empty = {"phone": "", "email": "", "birthday": 0, "profilePic": ""}
        self.assertEqual(user, {"_id": 1, "user_id": "b", **empty})
