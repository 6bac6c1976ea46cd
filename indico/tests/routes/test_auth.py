"""
Logging in and out, over HTTP and down to what is in the database.
"""

from __future__ import annotations

import hashlib
from typing import Any
from unittest import mock

from tornado.httputil import HTTPHeaders

from indico import config
from indico.core.mongo import key_cache
from indico.db import current_time
from indico.db.user_db import SERVER_FIELDS
from indico.routes.auth import AuthRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, OAUTH_ID, USER, USER_ID, USER_KEY
from indico.tests.testutils.server import ServerTest
from indico.utils.auth.auth_utils import user_hash

NOT_AUTHENTICATED = {"status": 401, "data": "User not authenticated"}
TRUE = {"status": 200, "data": True}


class AccountTest(ServerTest):
    """A server with users, and a look at what it stores."""

    routes = [AuthRoute, UserRoute]
    stores = ("auth", "user")

    def login(self, **changes: Any) -> Any:
        return self.post("auth/login", {**LOGIN_DATA, **changes}, {})

    def headers(self, key: str) -> dict[str, str]:
        return {"indico_key": key}

    def assert_not_authenticated(self, headers: dict[str, str]) -> None:
        for route in ("auth/check", "auth/logout", "user/find", "user/update", "user/remove"):
            self.assertEqual(self.post(route, "no object", headers), NOT_AUTHENTICATED)

    def stored_user(self) -> dict[str, Any] | None:
        users = list(self.database.user.find())
        self.assertLessEqual(len(users), 1)
        return users[0] if users else None

    def assert_nothing_stored(self) -> None:
        self.assertIsNone(self.stored_user())
        self.assertEqual(list(self.database.auth.find()), [])


class LoginTest(AccountTest):
    def test_a_login_answers_with_the_user_as_stored_and_the_key(self) -> None:
        before = current_time()
        answer = self.login()
        self.assertEqual(answer["status"], 200)
        self.assertEqual(set(answer["data"]), {"user", "indico_key"})
        self.assertEqual(answer["data"]["indico_key"], USER_KEY)
        stored = self.stored_user()
        assert stored is not None
        self.assertEqual(answer["data"]["user"], {**stored, "_id": str(stored["_id"])})
        created = stored.pop("created")
        self.assertTrue(before <= created <= current_time())
        del stored["_id"]
        self.assertEqual(stored, USER)

    def test_the_key_is_stored_as_a_digest_alone(self) -> None:
        self.login()
        [document] = self.database.auth.find()
        self.assertEqual(document["user_id"], USER_ID)
        self.assertNotIn(USER_KEY, str(document))
        self.assertNotIn(USER_KEY[:28], str(document))
        self.assertEqual(document["secret"], hashlib.sha256(USER_KEY.encode()).hexdigest())

    def test_required_fields_that_were_never_sent_get_their_empty_values_and_optional_ones_none(self) -> None:
        user = self.login(user={"name": "Ada"})["data"]["user"]
        expected = {"user_id": USER_ID, "name": "Ada", "phone": "", "email": "", "birthday": 0}
        self.assertEqual(set(user), {*expected, "profilePic", "created", "_id"})
        self.assertEqual({**user, **expected}, user)

    def test_a_later_login_changes_only_what_it_carries(self) -> None:
        first = self.login(user={**USER, "location": "London"})["data"]
        second = self.login(user={"email": "countess@example.com"})["data"]
        self.assertEqual(second["indico_key"], first["indico_key"])
        self.assertEqual(second["user"], {**first["user"], "email": "countess@example.com"})

    def test_a_field_that_was_emptied_is_not_filled_again(self) -> None:
        self.login()
        self.database.user.update_one({}, {"$unset": {"phone": ""}})
        self.assertNotIn("phone", self.login(user={})["data"]["user"])

    def test_what_only_the_server_sets_is_ignored_whatever_its_type(self) -> None:
        for forged in ({"user_id": "facebook1", "created": 1, "_id": 1}, {"user_id": 7, "created": "x"}):
            user = self.login(user={**USER, **forged})["data"]["user"]
            self.assertEqual(user["user_id"], USER_ID)
            self.assertGreater(user["created"], 1)
            self.assertEqual(len(user["_id"]), 24)

    def test_no_field_that_only_the_server_sets_comes_in_by_a_login(self) -> None:
        for forged in (["admin"], "forged", 7):
            user = self.login(user={**USER, **dict.fromkeys(SERVER_FIELDS, forged)})["data"]["user"]
            for field in SERVER_FIELDS:
                self.assertNotEqual(user.get(field), forged)

    def test_created_is_set_once(self) -> None:
        created = self.login()["data"]["user"]["created"]
        self.database.user.update_one({}, {"$set": {"created": created - 1000}})
        self.assertEqual(self.login()["data"]["user"]["created"], created - 1000)

    def test_fields_outside_the_schema_are_stored(self) -> None:
        user = self.login(user={"pets": [{"name": "Byron"}]})["data"]["user"]
        self.assertEqual(user["pets"], [{"name": "Byron"}])

    def test_a_form_can_not_carry_a_user(self) -> None:
        response = self.fetch("/auth/login", method="POST", body="access_token=a&oauth_id=1&user=x")
        self.assertIn(b"Field user - x is type str but should be dict", response.body)

    def test_each_missing_field_is_named_in_the_declared_order(self) -> None:
        for missing, fields in (
            ("access_token", {}),
            ("oauth_id", {"access_token": "a"}),
            ("user", {"access_token": "a", "oauth_id": "1"}),
        ):
            answer = self.post("auth/login", fields, {})
            self.assertEqual(answer, {"status": 400, "data": f"{missing} field was not provided"})

    def test_a_field_of_the_wrong_type_is_named_with_what_was_given(self) -> None:
        answer = self.login(oauth_id=7)
        self.assertEqual(answer, {"status": 400, "data": "Field oauth_id - 7 is type int but should be str"})
        self.assert_nothing_stored()

    def test_a_refused_token_leaves_nothing_behind(self) -> None:
        answer = self.login(access_token="forged")
        self.assertEqual(answer, {"status": 401, "data": "Facebook Auth Token invalid"})
        self.assert_nothing_stored()

    def test_a_refused_token_comes_before_an_invalid_user(self) -> None:
        self.assertEqual(self.login(access_token="forged", user={"name": 7}, oauth_id="")["status"], 401)

    def test_an_oauth_id_of_1_to_128_characters_is_taken(self) -> None:
        for oauth_id in ("1", 128 * "a", "with space", "Zoë", 128 * "🦄", "$where", "a.b"):
            self.assertEqual(self.login(oauth_id=oauth_id)["data"]["user"]["user_id"], "facebook" + oauth_id)

    def test_any_other_oauth_id_is_refused_and_leaves_nothing_behind(self) -> None:
        for oauth_id in ("", 129 * "a", "a\n", "a\0b", "\x1b", "\x7f", "\x85"):
            answer = self.login(oauth_id=oauth_id)
            self.assertEqual(answer["status"], 400)
            self.assertIn("oauth_id", answer["data"])
        self.assert_nothing_stored()

    def test_a_user_that_breaks_the_schema_is_refused_and_leaves_nothing_behind(self) -> None:
        for user, data in (
            ({"name": 7}, "Field name - 7 is type int but should be str"),
            ({"birthday": "x"}, "Field birthday - x is type str but should be int"),
            ({"birthday": True}, "Field birthday - True is type bool but should be int"),
            ({"asked": {}}, "Field asked - {} is type dict but should be list"),
            ({"phone": None}, "Field phone - None is type NoneType but should be str"),
        ):
            self.assertEqual(self.login(user=user), {"status": 400, "data": data})
        for name in ("$set", "a.b", "", "b\0"):
            self.assertEqual(self.login(user={"a": [{name: 1}]})["status"], 400)
            self.assertEqual(self.login(user={name: 1})["status"], 400)
        self.assert_nothing_stored()


class KeyTest(AccountTest):
    def test_a_key_opens_the_server_until_its_logout(self) -> None:
        self.assert_not_authenticated(HEADERS)
        self.login()
        self.assertEqual(self.post("auth/check", {}), TRUE)
        self.assertEqual(self.post("auth/logout", {}), TRUE)
        self.assert_not_authenticated(HEADERS)

    def test_a_key_that_is_remembered_opens_the_server_at_once(self) -> None:
        owner: dict[str, Any] = {"user_id": USER_ID, "roles": [], "name": None}
        with mock.patch.object(key_cache, "find", return_value=owner):
            self.assertEqual(self.post("auth/check", {}), TRUE)

    def test_the_body_of_a_check_is_never_parsed(self) -> None:
        self.login()
        response = self.fetch("/auth/check", method="POST", body=b"\xff{", headers=HEADERS)
        self.assertEqual(response.body, b'{"status":200,"data":true}')

    def test_a_key_may_come_as_a_bearer(self) -> None:
        self.login()
        self.assertEqual(self.post("auth/check", {}, {"Authorization": f"Bearer {USER_KEY}"}), TRUE)

    def test_no_unknown_empty_malformed_or_doubled_key_is_authenticated(self) -> None:
        self.login()
        for headers in (
            {},
            self.headers(user_hash("facebook2")),
            self.headers(user_hash(USER_ID, 1)),
            self.headers(""),
            self.headers(USER_KEY[:-1]),
            self.headers(USER_KEY + "0"),
            self.headers(USER_KEY.upper()),
            self.headers(f"{USER_KEY},{USER_KEY}"),
            {**HEADERS, "Authorization": f"Bearer {USER_KEY}"},
            {"Authorization": USER_KEY},
            {"Authorization": f"Basic {USER_KEY}"},
        ):
            self.assert_not_authenticated(headers)
        self.assertEqual(self.post("auth/check", {}), TRUE)

    def test_a_key_sent_twice_is_not_authenticated_though_both_are_valid(self) -> None:
        self.login()
        for name, value in (("indico_key", USER_KEY), ("Authorization", f"Bearer {USER_KEY}")):
            headers = HTTPHeaders({name: value})
            headers.add(name, value)
            self.assertEqual(self.fetch("/auth/check", method="POST", body="", headers=headers).code, 401)

    def test_an_old_key_is_dead_also_after_the_next_login(self) -> None:
        keys = []
        for _ in range(3):
            keys.append(self.login()["data"]["indico_key"])
            self.assertEqual(self.post("auth/check", {}, self.headers(keys[-1])), TRUE)
            for old in keys[:-1]:
                self.assert_not_authenticated(self.headers(old))
            self.assertEqual(self.post("auth/logout", {}, self.headers(keys[-1])), TRUE)
        self.assertEqual(len(set(keys)), 3)
        self.assertEqual(keys[0], USER_KEY)

    def test_a_logout_leaves_the_user_and_a_generation(self) -> None:
        self.login()
        self.post("auth/logout", {})
        self.assertIsNotNone(self.stored_user())
        [document] = self.database.auth.find()
        self.assertEqual(set(document), {"_id", "key", "secret", "generation", "user_id"})
        self.assertEqual(document["generation"], 1)

    def test_a_key_expires_after_its_lifetime_since_the_last_login(self) -> None:
        self.login()
        lifetime = int(config.KEY_LIFETIME * 1000)
        self.database.auth.update_one({}, {"$inc": {"login": -lifetime}})
        self.assert_not_authenticated(HEADERS)
        self.assertEqual(self.login()["data"]["indico_key"], USER_KEY)
        self.database.auth.update_one({}, {"$inc": {"login": 60_000 - lifetime}})
        self.assertEqual(self.post("auth/check", {}), TRUE)

    def test_keys_of_one_user_open_nothing_of_another(self) -> None:
        self.login()
        other = self.login(oauth_id=OAUTH_ID + "1")["data"]
        self.post("auth/logout", {})
        found = self.post("user/find", {}, self.headers(other["indico_key"]))
        self.assertEqual(found["data"], other["user"])


class IndexTest(AccountTest):
    def test_keys_and_users_have_unique_indexes(self) -> None:
        for collection, field in ((self.database.user, "user_id"), (self.database.auth, "key")):
            index = collection.index_information()[f"{field}_1"]
            self.assertTrue(index["unique"])

    def test_the_lookups_of_a_request_go_by_these_indexes(self) -> None:
        self.database.command("profile", 2)
        self.login()
        self.post("user/update", {"update_user": {"name": "Ada"}})
        self.post("user/find", {})
        self.post("auth/logout", {})
        self.post("user/remove", {}, self.headers(self.login()["data"]["indico_key"]))
        self.database.command("profile", 0)
        seen = list(self.database["system.profile"].find({"ns": {"$regex": r"\.(user|auth)$"}}))
        plans = {operation.get("planSummary") for operation in seen}
        self.assertLessEqual(plans - {None, "IDHACK"}, {"IXSCAN { key: 1 }", "IXSCAN { user_id: 1 }"})
        self.assertGreater(len(seen), 10)
