"""
What users may do with themselves, over HTTP and down to what is in the database.
"""

from __future__ import annotations

from typing import Any

from indico.db.user_db import SERVER_FIELDS, USER_SCHEMA
from indico.tests.mocks import HEADERS, USER_ID
from indico.tests.routes.test_auth import NOT_AUTHENTICATED, TRUE, AccountTest
from indico.tests.testutils import slow


class UserTest(AccountTest):
    def setUp(self) -> None:
        super().setUp()
        self.user: dict[str, Any] = self.login()["data"]["user"]

    def update(self, fields: Any) -> Any:
        return self.post("user/update", {"update_user": fields})

    def assert_unchanged(self) -> None:
        self.assertEqual(self.post("user/find", {}), {"status": 200, "data": self.user})


class FindTest(UserTest):
    def test_find_answers_with_the_whole_user(self) -> None:
        stored = self.stored_user()
        assert stored is not None
        self.assertEqual(self.post("user/find", {})["data"], {**stored, "_id": str(stored["_id"])})

    def test_a_key_whose_user_is_gone_finds_nobody(self) -> None:
        self.database.user.delete_many({})
        self.assertEqual(self.post("user/find", {}), NOT_AUTHENTICATED)


class UpdateTest(UserTest):
    def test_an_update_answers_with_the_whole_user_as_stored_now(self) -> None:
        answer = self.update({"name": "Countess", "favorite": ["tea"]})
        expected = {**self.user, "name": "Countess", "favorite": ["tea"]}
        self.assertEqual(answer, {"status": 200, "data": expected})
        stored = self.stored_user()
        assert stored is not None
        self.assertEqual({**stored, "_id": str(stored["_id"])}, expected)

    def test_fields_outside_the_schema_are_allowed(self) -> None:
        fields = {"pets": {"cats": [{"name": "Puff"}]}, "Zoë": None, "ratio": 0.5, "large": 2**63 - 1}
        self.assertEqual(self.update(fields)["data"], {**self.user, **fields})

    def test_an_empty_update_changes_nothing(self) -> None:
        self.assertEqual(self.update({}), {"status": 200, "data": self.user})

    def test_an_update_of_what_only_the_server_sets_is_refused_and_changes_nothing(self) -> None:
        for field in SERVER_FIELDS:
            for value in ("facebook1", USER_ID, 7, None):
                answer = self.update({"name": "Mallory", field: value})
                self.assertEqual(answer["status"], 400)
                self.assertIn(field, answer["data"])
        self.assert_unchanged()

    def test_an_update_that_breaks_the_schema_is_refused_and_changes_nothing(self) -> None:
        wrong: Any
        for field, (required, _) in USER_SCHEMA.items():
            for wrong in (None, 1.5, {}, True, 7 if required is not int else "7"):
                answer = self.update({"name": "Mallory", field: wrong})
                self.assertEqual(answer["status"], 400, (field, wrong))
        self.assert_unchanged()

    def test_a_field_name_that_mongodb_reads_as_more_is_refused_at_any_depth(self) -> None:
        for name in ("", "$set", "$", "a.b", ".", "a\0b"):
            for fields in ({name: 1}, {"a": {name: 1}}, {"a": [[{"b": [{name: 1}]}]]}):
                answer = self.update(fields)
                self.assertEqual(answer["status"], 400, fields)
                self.assertIn("field name", answer["data"])
        self.assert_unchanged()

    def test_a_dollar_inside_a_name_is_allowed(self) -> None:
        self.assertEqual(self.update({"US$": 1})["data"]["US$"], 1)

    def test_what_can_not_be_stored_is_refused_with_its_reason_and_changes_nothing(self) -> None:
        for value, reason in (
            ("NaN", "NaN is not JSON"),
            ("-Infinity", "-Infinity is not JSON"),
            ("1e999", "1e999 is too large a number"),
            ("9223372036854775808", "9223372036854775808 is too large a number"),
            ("-9223372036854775809", "-9223372036854775809 is too large a number"),
            ('"\\ud800"', "The body holds half of a surrogate pair"),
            ("[" * 101 + "]" * 101, "The value is nested deeper than 100 levels"),
        ):
            body = f'{{"update_user": {{"name": "Mallory", "a": {value}}}}}'
            response = self.fetch("/user/update", method="POST", body=body, headers=HEADERS)
            self.assertEqual(response.code, 400)
            self.assertIn(reason, response.body.decode())
        self.assert_unchanged()

    def test_nesting_as_deep_as_allowed_can_be_stored_and_read_back(self) -> None:
        value: Any = "bottom"
        for _ in range(98):
            value = [value]
        self.assertEqual(self.update({"deep": value})["data"]["deep"], value)
        self.assertEqual(self.post("user/find", {})["data"]["deep"], value)

    @slow
    def test_a_document_that_outgrows_mongodb_by_many_small_updates_is_refused(self) -> None:
        filler = 900 * 1024 * "a"
        for number in range(18):
            self.assertEqual(self.update({f"field{number}": filler})["status"], 200)
        answer = self.update({"field18": filler})
        self.assertEqual(answer["status"], 400)
        self.assertIn("too large", answer["data"])
        stored = self.stored_user()
        assert stored is not None
        self.assertNotIn("field18", stored)
        self.assertEqual(self.update({"name": "Ada"})["status"], 200)

    def test_an_update_is_checked_after_the_key(self) -> None:
        self.assertEqual(self.post("user/update", "nonsense", {}), NOT_AUTHENTICATED)

    def test_an_update_needs_its_object(self) -> None:
        missing = {"status": 400, "data": "update_user field was not provided"}
        self.assertEqual(self.post("user/update", {}), missing)
        wrong = {"status": 400, "data": "Field update_user - x is type str but should be dict"}
        self.assertEqual(self.update("x"), wrong)

    def test_an_update_never_makes_a_user(self) -> None:
        self.database.user.delete_many({})
        self.assertEqual(self.update({"name": "Ghost"}), NOT_AUTHENTICATED)
        self.assertIsNone(self.stored_user())


class RemoveTest(UserTest):
    def test_a_removal_leaves_nothing_but_a_generation(self) -> None:
        self.assertEqual(self.post("user/remove", {}), TRUE)
        self.assert_not_authenticated(dict(HEADERS))
        self.assertIsNone(self.stored_user())
        [document] = self.database.auth.find()
        self.assertEqual(set(document), {"_id", "key", "secret", "generation"})

    def test_a_login_after_a_removal_makes_a_new_user_and_another_key(self) -> None:
        self.post("user/remove", {})
        again = self.login(user={"name": "Ada"})["data"]
        self.assertNotEqual(again["user"]["_id"], self.user["_id"])
        self.assertEqual(again["user"]["email"], "")
        self.assertEqual(self.post("auth/check", {}, self.headers(again["indico_key"])), TRUE)
        self.assert_not_authenticated(dict(HEADERS))

    def test_a_removal_of_a_user_who_is_gone_ends_the_key(self) -> None:
        self.database.user.delete_many({})
        self.assertEqual(self.post("user/remove", {}), TRUE)
        self.assert_not_authenticated(dict(HEADERS))
