"""
Users in the database.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.testing import gen_test

import indico.db.user_db as UserDB
from indico.error import AuthError, InvalidValue, MongoError, WrongFieldType
from indico.tests.mocks import USER, USER_ID
from indico.tests.testutils.mongo import MongoTest


class UserDBTest(MongoTest):
    def test_the_articles_style_works_throughout(self) -> None:
        UserDB.sync_user(USER, USER_ID, self.callback)
        self.assertEqual(self.wait()[0]["name"], USER["name"])
        UserDB.update({"$set": {"name": "Countess"}}, USER_ID, self.callback)
        self.assertEqual(self.wait()[0]["name"], "Countess")
        UserDB.find_user(USER_ID, self.callback)
        self.assertEqual(self.wait()[0]["name"], "Countess")
        UserDB.remove(USER_ID, self.callback)
        self.assertEqual(self.wait(), (None, None))
        UserDB.find_user(USER_ID, self.callback)
        self.assertEqual(self.wait(), (None, None))

    def test_an_error_reaches_the_callback(self) -> None:
        UserDB.update({"$set": {"name": 7}}, USER_ID, self.callback)
        self.assertIsInstance(self.wait()[1], WrongFieldType)
        UserDB.update({"$set": {"extra": object()}}, USER_ID, self.callback)
        self.assertIsInstance(self.wait()[1], MongoError)

    @gen_test
    async def test_an_update_takes_other_operators(self) -> None:
        await UserDB.sync_user(USER, USER_ID)
        user = await UserDB.update({"$push": {"favorite": "tea"}, "$unset": {"phone": ""}}, USER_ID)
        self.assertEqual(user["favorite"], ["tea"])
        self.assertNotIn("phone", user)

    @gen_test
    async def test_no_operator_changes_what_only_the_server_sets(self) -> None:
        await UserDB.sync_user(USER, USER_ID)
        stored = self.database.user.find_one()
        for field in UserDB.SERVER_FIELDS:
            updates: list[dict[str, Any]] = [
                *({operator: {field: 1}} for operator in ("$set", "$inc", "$unset", "$push", "$setOnInsert")),
                *({operator: {f"{field}.0": 1}} for operator in ("$inc", "$pull", "$max")),
                *({"$rename": names} for names in ({field: "name"}, {"name": field}, {"name": f"{field}.a"})),
            ]
            for update in updates:
                with self.subTest(update), self.assertRaises((InvalidValue, WrongFieldType)):
                    await UserDB.update(update, USER_ID)
        self.assertEqual(self.database.user.find_one(), stored)

    @gen_test
    async def test_an_update_never_makes_a_user(self) -> None:
        with self.assertRaises(AuthError):
            await UserDB.update({"$set": {"name": "Ghost"}}, USER_ID)
        self.assertEqual(self.database.user.count_documents({}), 0)

    @gen_test
    async def test_fifty_first_logins_at_once_make_one_user_and_one_created(self) -> None:
        calls = [UserDB.sync_user({"name": "Ada"}, USER_ID) for _ in range(50)]
        users = await asyncio.gather(*calls)
        self.assertEqual(self.database.user.count_documents({}), 1)
        self.assertEqual(len({user["created"] for user in users}), 1)
        self.assertEqual(len({user["_id"] for user in users}), 1)
