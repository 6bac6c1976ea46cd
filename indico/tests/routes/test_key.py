"""
API keys and roles, over HTTP.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest import mock

from pymongo.errors import PyMongoError

import indico.db.auth_db as AuthDB
import indico.db.key_db as KeyDB
from indico import config, db
from indico.db import current_time
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.routes.test_auth import NOT_AUTHENTICATED, TRUE, AccountTest
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import HOUR, allow, auth

FORBIDDEN = {"status": 403, "data": "Not allowed"}
NOT_FOUND = {"status": 404, "data": "key could not be found"}


class StaffHandler(IndicoHandler):
    @auth
    @allow("admin", "editor")
    @unpack("text")
    @type_check(str)
    async def edit(self, text: str) -> list[str]:
        return self.roles

    @auth
    async def show(self, data: bytes) -> list[str]:
        return self.roles

    @auth
    @allow("admin", api_keys=False)
    async def reset(self, data: bytes) -> bool:
        return True


class KeyTest(AccountTest):
    routes = [AuthRoute, UserRoute, KeyRoute, (r"/staff/(?P<action>[a-zA-Z]+)?", StaffHandler)]

    def setUp(self) -> None:
        super().setUp()
        self.login()

    def create(self, name: str = "backup", headers: dict[str, str] = HEADERS, **fields: Any) -> Any:
        return self.post("key/create", {"name": name, **fields}, headers)

    def make(self, name: str = "backup", **fields: Any) -> dict[str, str]:
        """Make a key, and return the headers that carry it."""
        return self.headers(self.create(name, **fields)["data"]["key"])

    def list(self) -> Any:
        return self.post("key/list", {})["data"]

    def set_roles(self, *roles: str) -> None:
        self.io_loop.run_sync(lambda: AuthDB.set_roles(USER_ID, roles))


class CreateTest(KeyTest):
    def test_a_key_is_56_hex_digits_and_opens_the_user_without_an_end(self) -> None:
        before = current_time()
        created = self.create()["data"]
        self.assertEqual(set(created), {"name", "key", "created", "expires"})
        self.assertEqual((created["name"], created["expires"]), ("backup", None))
        self.assertTrue(before <= created["created"] <= current_time())
        self.assertRegex(created["key"], rf"\A{USER_KEY[:28]}[0-9a-f]{{28}}\Z")
        found = self.post("user/find", {}, self.headers(created["key"]))
        self.assertEqual(found["data"]["user_id"], USER_ID)
        self.assertEqual(self.post("auth/check", {}), TRUE)

    def test_no_part_of_a_key_is_stored(self) -> None:
        key = self.make()["indico_key"]
        stored = str(list(self.database.auth.find()))
        for half in (key[:28], key[28:]):
            self.assertNotIn(half, stored)

    def test_a_lifetime_ends_the_key(self) -> None:
        created = self.create(lifetime=60)["data"]
        self.assertEqual(created["expires"], created["created"] + 60_000)
        headers = self.headers(created["key"])
        self.assertEqual(self.post("auth/check", {}, headers), TRUE)
        self.database.auth.update_one({}, {"$inc": {"keys.0.expires": -60_000}})
        self.assert_not_authenticated(headers)

    def test_invalid_fields_are_refused_and_nothing_is_stored(self) -> None:
        for fields in (
            {"name": ""},
            {"name": 101 * "a"},
            {"name": 7},
            {"lifetime": 0},
            {"lifetime": -1},
            {"lifetime": 2**62},
            {"lifetime": True},
            {"roles": "admin"},
            {"roles": [7]},
            {"roles": ["a b"]},
            {"roles": [""]},
            {"roles": [51 * "a"]},
            {"roles": [str(number) for number in range(21)]},
        ):
            with self.subTest(fields):
                self.assertEqual(self.post("key/create", {"name": "backup", **fields})["status"], 400)
        self.assertEqual(self.post("key/create", {})["data"], "name field was not provided")
        self.assertEqual(self.list(), [])

    def test_a_name_is_given_once(self) -> None:
        self.make("a.b$")
        self.assertEqual(self.create("a.b$")["status"], 400)
        self.assertEqual(len(self.list()), 1)

    def test_there_are_at_most_100_keys(self) -> None:
        with mock.patch.object(KeyDB, "MAX_KEYS", 3):
            statuses = [self.create(str(number))["status"] for number in range(5)]
        self.assertEqual(statuses, [200, 200, 200, 400, 400])
        self.assertEqual(len(self.list()), 3)

    def test_a_login_that_ends_meanwhile_makes_no_key(self) -> None:
        owner = self.io_loop.run_sync(lambda: AuthDB.get_user_id(USER_KEY))
        self.post("auth/logout", {})
        with mock.patch.object(AuthDB, "get_user_id", mock.AsyncMock(return_value=owner)):
            self.assertEqual(self.create(), NOT_AUTHENTICATED)


class ListTest(KeyTest):
    def test_a_list_has_all_but_the_keys(self) -> None:
        key = self.make("backup", lifetime=60, roles=["b", "a", "b"])["indico_key"]
        self.make("other")
        first, second = self.list()
        created = first.pop("created")
        expected = {"name": "backup", "roles": ["a", "b"], "expires": created + 60_000, "used": None}
        self.assertEqual(first, expected)
        self.assertEqual((second["name"], second["roles"], second["expires"]), ("other", [], None))
        self.assertNotIn(key[28:], str(self.post("key/list", {})))

    def test_the_hour_of_the_last_use_is_written_once_an_hour(self) -> None:
        headers = self.make()
        self.database.command("profile", 2)
        before = current_time() // HOUR * HOUR
        for _ in range(3):
            self.post("auth/check", {}, headers)
            while self.list()[0]["used"] is None:
                time.sleep(0.01)
        self.database.command("profile", 0)
        writes = self.database["system.profile"].count_documents({"op": "update"})
        self.assertIn(self.list()[0]["used"], (before, before + HOUR))
        self.assertEqual(writes, 1)

    def test_a_use_that_can_not_be_written_changes_no_answer(self) -> None:
        headers = self.make()
        with (
            mock.patch.object(config, "MONGODB_TIMEOUT", 0.2),
            mock.patch.object(
                type(db.mongodb.auth), "update_one", side_effect=PyMongoError("on purpose")
            ) as update,
        ):
            self.assertEqual(self.post("auth/check", {}, headers), TRUE)
        update.assert_called_once()
        self.assertIsNone(self.list()[0]["used"])


class EndTest(KeyTest):
    def test_a_removed_key_opens_nothing_and_the_others_stay(self) -> None:
        removed, kept = self.make("a"), self.make("b")
        self.assertEqual(self.post("key/remove", {"name": "a"}), TRUE)
        self.assert_not_authenticated(removed)
        self.assertEqual([self.post("auth/check", {}, headers) for headers in (kept, HEADERS)], [TRUE, TRUE])
        self.assertEqual([key["name"] for key in self.list()], ["b"])

    def test_a_key_that_there_is_not_is_404(self) -> None:
        self.make()
        for name in ("other", "", {"$ne": 1}):
            self.assertNotEqual(self.post("key/remove", {"name": name})["status"], 200)
        self.assertEqual(self.post("key/remove", {"name": "other"}), NOT_FOUND)
        self.assertEqual(len(self.list()), 1)

    def test_a_logout_with_an_api_key_ends_that_key_alone(self) -> None:
        ended, kept = self.make("a"), self.make("b")
        self.assertEqual(self.post("auth/logout", {}, ended), TRUE)
        self.assert_not_authenticated(ended)
        self.assertEqual([self.post("auth/check", {}, headers) for headers in (kept, HEADERS)], [TRUE, TRUE])

    def test_a_logout_of_the_user_keeps_api_keys_and_roles(self) -> None:
        self.set_roles("admin")
        headers = self.make(roles=["admin"])
        self.post("auth/logout", {})
        self.assert_not_authenticated(HEADERS)
        self.assertEqual(self.post("staff/show", {}, headers)["data"], ["admin"])
        again = self.login()["data"]["indico_key"]
        self.assertEqual(self.post("staff/show", {}, self.headers(again))["data"], ["admin"])
        self.assertEqual([key["name"] for key in self.list_with(again)], ["backup"])

    def list_with(self, key: str) -> Any:
        return self.post("key/list", {}, self.headers(key))["data"]

    def test_a_removal_ends_all_keys_and_roles_also_after_the_next_login(self) -> None:
        self.set_roles("admin")
        headers = self.make(roles=["admin"])
        self.assertEqual(self.post("user/remove", {}), TRUE)
        self.assert_not_authenticated(headers)
        again = self.login()["data"]["indico_key"]
        self.assert_not_authenticated(headers)
        self.assertEqual(self.post("staff/show", {}, self.headers(again))["data"], [])
        self.assertEqual(self.list_with(again), [])

    def test_an_api_key_manages_no_keys_and_removes_no_user(self) -> None:
        headers = self.make()
        for route in ("key/create", "key/list", "key/remove", "user/remove", "staff/reset"):
            self.assertEqual(self.post(route, "no object", headers), FORBIDDEN)
        for route in ("key/create", "key/list", "key/remove"):
            self.assertEqual(self.post(route, "no object", {}), NOT_AUTHENTICATED)
        self.assertEqual(len(self.list()), 1)

    def test_keys_of_one_user_say_nothing_of_another(self) -> None:
        self.make()
        other = self.headers(self.login(oauth_id="2")["data"]["indico_key"])
        self.assertEqual(self.post("key/list", {}, other)["data"], [])
        self.assertEqual(self.post("key/remove", {"name": "backup"}, other), NOT_FOUND)
        [entry] = self.list()
        self.assertEqual(entry["name"], "backup")

    def test_the_second_half_of_a_key_opens_no_other_user(self) -> None:
        key = self.make()["indico_key"]
        other = self.login(oauth_id="2")["data"]["indico_key"]
        self.assert_not_authenticated(self.headers(other[:28] + key[28:]))


class RoleTest(KeyTest):
    def write(self, headers: dict[str, str] = HEADERS, data: Any = None) -> Any:
        return self.post("staff/edit", {"text": "x"} if data is None else data, headers)

    def test_one_of_the_roles_is_enough(self) -> None:
        self.assertEqual(self.write(), FORBIDDEN)
        for roles in (["admin"], ["editor", "guest"]):
            self.set_roles(*roles)
            self.assertEqual(self.write(), {"status": 200, "data": roles})
        self.set_roles("guest", "Admin", "admin.")
        self.assertEqual(self.write(), FORBIDDEN)

    def test_a_missing_role_comes_after_401_and_before_400(self) -> None:
        self.assertEqual(self.write({}, "no object"), NOT_AUTHENTICATED)
        self.assertEqual(self.write(HEADERS, "no object"), FORBIDDEN)
        self.set_roles("admin")
        self.assertEqual(self.write(HEADERS, "no object")["status"], 400)

    def test_a_login_with_a_role_does_what_no_api_key_may(self) -> None:
        self.assertEqual(self.post("staff/reset", {}), FORBIDDEN)
        self.set_roles("admin")
        self.assertEqual(self.post("staff/reset", {}), TRUE)
        self.assertEqual(self.post("staff/reset", {}, self.make(roles=["admin"])), FORBIDDEN)

    def test_a_key_without_roles_has_none(self) -> None:
        self.set_roles("admin")
        self.assertEqual(self.write(self.make()), FORBIDDEN)

    def test_the_roles_of_a_key_never_exceed_those_of_its_user(self) -> None:
        headers = self.make(roles=["admin", "editor"])
        self.assertEqual(self.write(headers), FORBIDDEN)
        for roles in (["admin", "editor"], ["editor"], ["guest"], []):
            self.set_roles(*roles)
            expected = [role for role in roles if role != "guest"]
            self.assertEqual(self.post("staff/show", {}, headers)["data"], expected)

    def test_nobody_gives_themselves_a_role(self) -> None:
        self.login(user={"roles": ["admin"]})
        for fields in ({"roles": ["admin"]}, {"roles": None}):
            answer = self.post("user/update", {"update_user": fields})
            self.assertEqual((answer["status"], "roles" in answer["data"]), (400, True))
        self.post("auth/login", {**LOGIN_DATA, "roles": ["admin"]}, {})
        self.assertNotIn("roles", self.post("user/find", {})["data"])
        self.assertEqual(self.write(self.make(roles=["admin"])), FORBIDDEN)
        self.assertEqual(self.write(), FORBIDDEN)


class OldDocumentTest(KeyTest):
    def test_a_document_of_the_first_edition_has_neither_roles_nor_keys(self) -> None:
        [document] = self.database.auth.find()
        self.assertEqual(set(document), {"_id", "key", "secret", "generation", "user_id", "login"})
        self.assertEqual(self.post("staff/show", {}), {"status": 200, "data": []})
        self.assertEqual(self.list(), [])
        self.assertEqual(self.post("auth/check", {}, self.make()), TRUE)

    def test_a_user_who_was_logged_out_by_the_first_edition_logs_in(self) -> None:
        self.database.auth.update_one({}, {"$unset": {"user_id": "", "login": ""}})
        self.assert_not_authenticated(HEADERS)
        self.login()
        self.assertEqual(self.post("auth/check", {}), TRUE)


@slow
class RaceTest(ProcessTest):
    def test_four_processes_make_100_keys_at_once_and_no_101st(self) -> None:
        servers = [self.launch() for _ in range(4)]
        for server in servers:
            server.wait_ready()
        servers[0].post("auth/login", LOGIN_DATA)

        def create(number: int) -> int:
            # Each name comes twice, from two processes.
            return servers[number % 4].fetch("key/create", {"name": str(number // 2)}).status

        with ThreadPoolExecutor(16) as executor:
            statuses = Counter(executor.map(create, range(260)))
        self.assertEqual(statuses, {200: 100, 400: 160})
        [document] = self.database.auth.find()
        self.assertEqual(len({key["name"] for key in document["keys"]}), 100)
        self.assertEqual(len({key["secret"] for key in document["keys"]}), 100)
