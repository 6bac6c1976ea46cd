"""
The operations of MongoDB that the actions of the base need, as MongoDB itself counts them.
"""

from __future__ import annotations

import asyncio
from typing import Any

from indico.routes.auth import AuthRoute
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.profiler import record_operations
from indico.tests.testutils.server import ServerTest

LOOKUP = ("query", "auth")
UPDATE = [LOOKUP, ("command", "user")]  # findAndModify


class OperationTest(ServerTest):
    routes = [AuthRoute, KeyRoute, UserRoute]
    stores = ("auth", "user")

    def setUp(self) -> None:
        super().setUp()
        self.post("auth/login", LOGIN_DATA)

    def count(self, route: str, data: Any = None, headers: dict[str, str] | None = None) -> list[Any]:
        with record_operations(self.database) as operations:
            self.assertEqual(self.post(route, data, *([headers] if headers else []))["status"], 200)
        return [(each["op"], each["collection"]) for each in operations]

    def test_a_key_is_looked_up_once(self) -> None:
        self.assertEqual(self.count("auth/check", {}), [LOOKUP])

    @slow
    def test_an_api_key_is_looked_up_once(self) -> None:
        key = self.post("key/create", {"name": "backup"})["data"]["key"]
        headers = {"indico_key": key}
        self.post("auth/check", {}, headers)  # the first use in an hour is stored
        self.io_loop.run_sync(self.settle)
        self.assertEqual(self.count("auth/check", {}, headers), [LOOKUP])

    async def settle(self) -> None:
        while not self.database.auth.count_documents({"keys.used": {"$ne": None}}):
            await asyncio.sleep(0.01)

    @slow
    def test_an_update_is_one_operation_more(self) -> None:
        for update in ({"name": "Ada"}, {"text": 1000 * "a"}, {"text": 1000 * "b"}):
            self.assertEqual(self.count("user/update", {"update_user": update}), UPDATE)

    def test_a_login_of_a_known_user_is_three_operations(self) -> None:
        self.assertEqual(len(self.count("auth/login", LOGIN_DATA, {})), 3)
