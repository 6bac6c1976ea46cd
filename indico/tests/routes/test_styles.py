"""
The two ways of writing, side by side: the same actions with callbacks and as coroutines.
"""

from __future__ import annotations

from typing import Any

import indico.db.user_db as UserDB
from indico.error import IndicoError
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils.server import ServerTest
from indico.utils import mongo_callback, type_check, unpack
from indico.utils.auth.auth_utils import auth


class CallbackHandler(IndicoHandler):
    @auth
    @unpack("update_user")
    @type_check(dict)
    def update(self, update_user: dict[str, Any]) -> None:
        @mongo_callback(self)
        def update_callback(result: Any) -> None:
            self.respond(result)

        UserDB.update({"$set": update_user}, self.user_id, update_callback)

    @auth
    def refuse(self, data: bytes) -> None:
        @mongo_callback(self)
        def find_callback(user: Any) -> None:
            raise IndicoError(f"{user['name']} may not do this", 403)

        UserDB.find_user(self.user_id, find_callback)

    @auth
    def stumble(self, data: bytes) -> None:
        @mongo_callback(self)
        def find_callback(user: Any) -> None:
            raise KeyError(user["name"])

        UserDB.find_user(self.user_id, find_callback)


class CoroutineHandler(IndicoHandler):
    @auth
    @unpack("update_user")
    @type_check(dict)
    async def update(self, update_user: dict[str, Any]) -> Any:
        return await UserDB.update({"$set": update_user}, self.user_id)

    @auth
    async def refuse(self, data: bytes) -> None:
        user = await UserDB.find_user(self.user_id)
        assert user is not None
        raise IndicoError(f"{user['name']} may not do this", 403)

    @auth
    async def stumble(self, data: bytes) -> None:
        user = await UserDB.find_user(self.user_id)
        assert user is not None
        raise KeyError(user["name"])


class StylesTest(ServerTest):
    routes = [
        AuthRoute,
        (r"/callback/(?P<action>[a-zA-Z]+)?", CallbackHandler),
        (r"/coroutine/(?P<action>[a-zA-Z]+)?", CoroutineHandler),
    ]
    stores = ("auth", "user")

    def both(self, action: str, data: Any) -> Any:
        """What both ways answer, which is the same."""
        answers = [self.post(f"{style}/{action}", data) for style in ("callback", "coroutine")]
        self.assertEqual(answers[0], answers[1])
        return answers[0]

    def test_a_result_is_the_answer(self) -> None:
        user = self.post("auth/login", LOGIN_DATA)["data"]["user"]
        answer = self.both("update", {"update_user": {"name": "Countess"}})
        self.assertEqual(answer, {"status": 200, "data": {**user, "name": "Countess"}})

    def test_an_error_of_the_helper_is_the_answer(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        answer = self.both("update", {"update_user": {"created": 1}})
        self.assertEqual(answer, {"status": 400, "data": "Field created can't be changed"})

    def test_an_error_of_the_action_is_the_answer(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        answer = self.both("refuse", {})
        self.assertEqual(answer, {"status": 403, "data": "Ada Lovelace may not do this"})

    def test_an_unexpected_error_is_a_server_error(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        with self.assertLogs("indico", "ERROR") as log:
            self.assertEqual(self.both("stumble", {})["status"], 500)
        self.assertEqual(len(log.records), 2)

    def test_a_missing_key_is_the_answer(self) -> None:
        self.assertEqual(self.both("update", {})["status"], 401)

    def test_a_missing_field_is_the_answer(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        answer = self.both("update", {})
        self.assertEqual(answer, {"status": 400, "data": "update_user field was not provided"})
