"""
What users may do with themselves, over HTTP and down to what is in the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from unittest import mock

from bson import encode

import indico.db.auth_db as AuthDB
from indico import config, db
from indico.db import Document, update_document, user_db
from indico.db.user_db import SERVER_FIELDS, USER_SCHEMA
from indico.error import Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID
from indico.tests.routes.test_auth import NOT_AUTHENTICATED, TRUE, AccountTest
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, wait_until
from indico.tests.testutils.replica import ReplicaSet
from indico.utils.auth.auth_utils import user_hash
from indico.utils.auth.key_utils import remove_user


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
            ('"\\ud800"', "The body contains half of a surrogate pair"),
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


def update_beside(changes: list[Callable[[], None]]) -> Callable[..., Any]:
    """Return `update_document` with these changes of others, one before each statement."""
    left = iter(changes)

    def watch(run: Callable[..., Any]) -> Callable[..., Any]:
        def run_later(*args: Any, **kwargs: Any) -> Any:
            next(left, lambda: None)()
            return run(*args, **kwargs)

        return run_later

    def update(collection: Any, query: Document, update_dic: Document) -> Any:
        watched = mock.Mock()
        watched.find_one_and_update = watch(collection.find_one_and_update)
        watched.find_one = watch(collection.find_one)
        return update_document(watched, query, update_dic)

    return update


class SizeTest(UserTest):
    """MAX_USER_SIZE."""

    def setUp(self) -> None:
        self.set(config, "MAX_USER_SIZE", 4096)
        super().setUp()

    def size(self) -> int:
        return len(encode(self.stored_user() or {}))

    def fill(self) -> None:
        """Let the user be as large as possible, to the byte."""
        self.update({"filler": ""})
        self.assertEqual(self.update({"filler": (4096 - self.size()) * "a"})["status"], 200)
        self.assertEqual(self.size(), 4096)

    def assert_too_large(self, answer: Any) -> None:
        self.assertEqual(answer["status"], 400)
        self.assertIn("too large, above 4096 bytes", answer["data"])

    def test_many_small_updates_end_at_the_limit_and_change_nothing_beyond(self) -> None:
        statuses = [self.update({f"field{number}": 500 * "a"})["status"] for number in range(10)]
        self.assertEqual(statuses, sorted(statuses))
        self.assertEqual(set(statuses), {200, 400})
        stored = self.stored_user()
        self.assert_too_large(self.update({"field10": 500 * "a"}))
        self.assertEqual(self.stored_user(), stored)

    def test_a_byte_more_is_too_large_and_what_replaces_as_much_is_not(self) -> None:
        self.fill()
        filler = len(self.post("user/find", {})["data"]["filler"])
        self.assert_too_large(self.update({"filler": (filler + 1) * "b"}))
        self.assert_too_large(self.update({"x": 1}))
        self.assertEqual(self.update({"filler": filler * "b"})["status"], 200)
        self.assertEqual(self.update({"filler": "", "literal": "$name"})["data"]["literal"], "$name")

    def test_a_login_adds_nothing_beyond_the_limit(self) -> None:
        self.fill()
        self.assert_too_large(self.login(user={"x": 1}))
        for user in (None, LOGIN_DATA["user"]):
            self.assertEqual(self.login(user=user or {})["status"], 200)

    def test_a_first_login_that_is_too_large_stores_nothing(self) -> None:
        self.assert_too_large(self.login(oauth_id="2", user={"x": 4096 * "a"}))
        self.assertEqual(self.database.user.count_documents({}), 1)
        self.assertEqual(self.database.auth.count_documents({}), 1)

    def test_a_user_who_is_too_large_already_is_found_and_may_become_smaller(self) -> None:
        self.database.user.update_one({}, {"$set": {"filler": 9000 * "a"}})
        for user in (None, LOGIN_DATA["user"]):
            self.assertEqual(self.login(user=user or {})["status"], 200)
        self.assert_too_large(self.update({"x": 1}))
        self.assertEqual(self.update({"filler": 8000 * "a"})["status"], 200)
        self.assertEqual(len(self.post("user/find", {})["data"]["filler"]), 8000)

    def test_a_user_who_comes_and_goes_during_an_update_is_not_too_large(self) -> None:
        """Before each statement of the update, another request removes the user or logs in."""
        stored = self.stored_user()

        def remove() -> None:
            self.database.user.delete_many({})

        def insert() -> None:
            self.database.user.insert_one(dict(stored or {}))

        for changes in ([], [remove, insert], 2 * [remove, insert], [remove], [remove, insert, remove]):
            with self.subTest(changes=len(changes)):
                remove()
                insert()
                with mock.patch.object(user_db, "update_document", update_beside(changes)):
                    answer = self.update({"name": "Countess"})
                self.assertEqual(answer["status"], 401 if changes[-1:] == [remove] else 200)

    def test_the_limit_is_256_kilobytes_unless_it_is_set(self) -> None:
        with mock.patch.object(config, "MAX_USER_SIZE", config.environment.settings["MAX_USER_SIZE"].default):
            self.assertEqual(self.update({"a": 250 * 1024 * "a"})["status"], 200)
            self.assertEqual(self.update({"b": 10 * 1024 * "a"})["status"], 400)


class DataTest(UserTest):
    """A user with notes, in a collection that registers."""

    routes = [AuthRoute, UserRoute, KeyRoute]

    def setUp(self) -> None:
        super().setUp()
        db.register_user_data("note")
        self.database.note.insert_many(
            [{"user_id": user_id, "text": "x"} for user_id in (USER_ID, USER_ID, "facebook2")]
        )

    def find_everything(self, user_id: str) -> list[Any]:
        """All documents that name the user, in whatever collection."""
        names = self.database.list_collection_names()
        return [found for name in names for found in self.database[name].find({"user_id": user_id})]


class ExportTest(DataTest):
    def test_an_export_has_what_every_collection_holds_of_the_user_and_no_digest(self) -> None:
        created = self.post("key/create", {"name": "backup", "roles": ["admin"]})["data"]
        exported = self.post("user/export", {})["data"]
        self.assertEqual({name for name, found in exported.items() if found}, {"user", "auth", "note"})
        self.assertEqual(exported["user"], self.user)
        self.assertEqual([note["text"] for note in exported["note"]], ["x", "x"])
        [key] = exported["auth"]["keys"]
        expected = {"name": "backup", "roles": ["admin"], "created": created["created"]}
        self.assertEqual(key, {**expected, "expires": None, "used": None})
        self.assertEqual(set(exported["auth"]), {"login", "keys"})

    def test_an_export_needs_a_key(self) -> None:
        self.assertEqual(self.post("user/export", {}, {}), NOT_AUTHENTICATED)


class RemoveTest(DataTest):
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

    def test_a_removal_leaves_nothing_in_a_collection_that_registers_and_nobody_else_loses_any(self) -> None:
        self.post("key/create", {"name": "backup", "roles": ["admin"]})
        self.login(oauth_id="2")
        self.assertEqual(len(self.find_everything(USER_ID)), 4)
        self.assertEqual(self.post("user/remove", {}), TRUE)
        self.assertEqual(self.find_everything(USER_ID), [])
        self.assertEqual(len(self.find_everything("facebook2")), 3)

    def test_a_removal_that_fails_at_any_point_can_be_sent_again(self) -> None:
        for failing in ("user", "note", "auth"):
            collection = type(db.mongodb[failing])
            for method in ("delete_one", "delete_many", "update_one"):
                if not hasattr(collection, method):  # mongojet passes it on
                    continue
                with self.subTest(failing, method=method):
                    key = self.login()["data"]["indico_key"]
                    self.database.note.insert_one({"user_id": USER_ID})
                    real = getattr(collection, method)

                    def fail(
                        self: Any, *args: Any, real: Any = real, name: str = failing, **options: Any
                    ) -> Any:
                        if self.name == name:
                            raise Unavailable("on purpose")
                        return real(self, *args, **options)

                    with mock.patch.object(collection, method, fail):
                        first = self.post("user/remove", {}, self.headers(key))
                    if first["status"] == 503:
                        self.assertEqual(self.post("user/remove", {}, self.headers(key)), TRUE)
                    self.assertEqual(self.find_everything(USER_ID), [])
                    self.assert_not_authenticated(self.headers(key))

    def test_a_user_without_a_document_of_keys_is_removed(self) -> None:
        self.database.auth.delete_many({})
        self.io_loop.run_sync(lambda: remove_user(USER_ID))
        self.assertEqual(self.find_everything(USER_ID), [])

    def test_a_logout_in_the_middle_of_a_removal_keeps_no_key_alive(self) -> None:
        find, generations = AuthDB.find_document, []

        async def find_and_log_out(key: str) -> Any:
            document = await find(key)
            generations.append((document or {}).get("generation"))
            if len(generations) == 1:
                await AuthDB.end_key(key, user_hash(USER_ID, 1))
                await AuthDB.save_key(user_hash(USER_ID, 1), USER_ID)
            return document

        with mock.patch.object(AuthDB, "find_document", find_and_log_out):
            self.assertEqual(self.post("user/remove", {}), TRUE)
        self.assertEqual(generations, [0, 1])
        for generation in range(3):
            self.assert_not_authenticated(self.headers(user_hash(USER_ID, generation)))


@slow
class OutageTest(ProcessTest):
    def test_a_removal_while_mongodb_goes_away_is_sent_again_until_nothing_is_left(self) -> None:
        with ReplicaSet(count=1) as replica:
            [member] = replica.members
            server = self.start(MONGODB=replica.uri, MONGODB_TIMEOUT="1")
            auth = member.client[config.MONGODB_DATABASE].auth
            for number in range(5):
                key = server.post("auth/login", LOGIN_DATA, {})["data"]["indico_key"]
                headers = {"indico_key": key}
                server.post("key/create", {"name": "backup"}, headers)
                timer = threading.Timer(0.004 * number, member.hang)
                timer.start()
                answer = server.fetch("user/remove", {}, headers)
                timer.join()
                member.resume()
                statuses = [answer.status]

                def remove(headers: dict[str, str] = headers, statuses: list[int] = statuses) -> bool:
                    statuses.append(server.fetch("user/remove", {}, headers).status)
                    return statuses[-1] == 401  # the key is ended last

                wait_until(remove, "the end of the key")
                self.assertLessEqual(set(statuses), {200, 503, 401})
                [document] = auth.find()
                self.assertEqual(set(document), {"_id", "key", "secret", "generation"})
                self.assertEqual(member.client[config.MONGODB_DATABASE].user.count_documents({}), 0)
