"""
Keys in the database.
"""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.testing import gen_test

import indico.db.auth_db as AuthDB
from indico import config
from indico.tests.mocks import USER_ID, USER_KEY
from indico.tests.testutils.mongo import MongoTest

NEXT_KEY = USER_KEY[:28] + 28 * "0"
OTHER_KEY = 56 * "a"


class AuthDBTest(MongoTest):
    def test_a_saved_key_has_its_user_in_the_articles_style(self) -> None:
        AuthDB.save_key(USER_KEY, USER_ID, self.callback)
        self.assertEqual(self.wait(), (True, None))
        AuthDB.get_user_id(USER_KEY, self.callback)
        self.assertEqual(self.wait()[0]["user_id"], USER_ID)

    @gen_test
    async def test_an_unknown_key_has_none(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        for key in (OTHER_KEY, NEXT_KEY, ""):
            self.assertIsNone(await AuthDB.get_user_id(key))

    @gen_test
    async def test_no_part_of_a_key_is_stored(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        stored = str(self.database.auth.find_one())
        self.assertNotIn(USER_KEY[:8], stored)
        self.assertNotIn(USER_KEY[28:36], stored)

    @gen_test
    async def test_keys_of_several_users_stand_side_by_side(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        await AuthDB.save_key(OTHER_KEY, "another")
        for key, user_id in ((USER_KEY, USER_ID), (OTHER_KEY, "another")):
            document = await AuthDB.get_user_id(key)
            assert document is not None
            self.assertEqual(document["user_id"], user_id)

    @gen_test
    async def test_a_key_that_has_ended_is_dead_for_good(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        self.assertTrue(await AuthDB.end_key(USER_KEY, NEXT_KEY))
        self.assertFalse(await AuthDB.end_key(USER_KEY, NEXT_KEY))
        self.assertFalse(await AuthDB.save_key(USER_KEY, USER_ID))
        self.assertIsNone(await AuthDB.get_user_id(USER_KEY))

    @gen_test
    async def test_the_next_key_works_once_it_is_saved(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        self.assertEqual((await AuthDB.find_document(USER_KEY) or {})["generation"], 0)
        await AuthDB.end_key(USER_KEY, NEXT_KEY)
        self.assertEqual((await AuthDB.find_document(USER_KEY) or {})["generation"], 1)
        self.assertIsNone(await AuthDB.get_user_id(NEXT_KEY))
        self.assertTrue(await AuthDB.save_key(NEXT_KEY, USER_ID))
        document = await AuthDB.get_user_id(NEXT_KEY)
        assert document is not None
        self.assertEqual((document["user_id"], document["generation"]), (USER_ID, 1))

    @gen_test
    async def test_a_user_who_never_came_has_no_document(self) -> None:
        self.assertIsNone(await AuthDB.find_document(OTHER_KEY))

    @gen_test
    async def test_a_key_expires_and_another_login_renews_it(self) -> None:
        self.addCleanup(setattr, config, "KEY_LIFETIME", config.KEY_LIFETIME)
        await AuthDB.save_key(USER_KEY, USER_ID)
        config.KEY_LIFETIME = 0
        self.assertIsNone(await AuthDB.get_user_id(USER_KEY))
        config.KEY_LIFETIME = 60
        self.database.auth.update_one({}, {"$set": {"login": 0}})
        self.assertIsNone(await AuthDB.get_user_id(USER_KEY))
        self.assertTrue(await AuthDB.save_key(USER_KEY, USER_ID))
        self.assertIsNotNone(await AuthDB.get_user_id(USER_KEY))

    @gen_test
    async def test_many_first_saves_at_once_make_one_document(self) -> None:
        saved = await asyncio.gather(*[AuthDB.save_key(USER_KEY, USER_ID) for _ in range(50)])
        self.assertEqual(set(saved), {True})
        self.assertEqual(self.database.auth.count_documents({}), 1)

    @gen_test
    async def test_whatever_saves_race_with_its_end_a_key_stays_dead(self) -> None:
        async def save() -> Any:
            return await AuthDB.save_key(USER_KEY, USER_ID)

        for _ in range(5):
            self.database.auth.delete_many({})
            await save()
            saves = [asyncio.ensure_future(save()) for _ in range(10)]
            await AuthDB.end_key(USER_KEY, NEXT_KEY)
            self.assertIsNone(await AuthDB.get_user_id(USER_KEY))
            await asyncio.gather(*saves)
            self.assertIsNone(await AuthDB.get_user_id(USER_KEY))
