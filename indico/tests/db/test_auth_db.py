"""
Keys in the database.
"""

from __future__ import annotations

import asyncio
import runpy
from typing import Any
from unittest import mock

from pymongo.monitoring import CommandListener
from tornado.testing import gen_test

import indico.db.auth_db as AuthDB
import indico.db.key_db as KeyDB
from indico import config, db
from indico.error import InvalidValue, NotFound
from indico.tests.mocks import USER_ID, USER_KEY
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.strict import StrictTest

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
    async def test_a_key_with_another_second_half_has_none(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        self.assertIsNone(await AuthDB.get_user_id(USER_KEY[:28] + 28 * "0"))

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


class UpdateListener(CommandListener):
    """Keeps the write concerns of updates."""

    def __init__(self) -> None:
        self.concerns: list[Any] = []

    def started(self, event: Any) -> None:
        if event.command_name in ("update", "findAndModify"):
            self.concerns.append(event.command.get("writeConcern"))

    def succeeded(self, event: Any) -> None: ...
    def failed(self, event: Any) -> None: ...


class MajorityTest(MongoTest):
    @gen_test
    async def test_what_ends_a_key_waits_for_a_majority_whatever_the_uri_says(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        await db.close()
        listener = UpdateListener()
        db.connect(f"{config.MONGODB.rstrip('/')}/?w=1", listeners=[listener])
        await AuthDB.end_key(USER_KEY, NEXT_KEY)
        await AuthDB.end_key(USER_KEY, NEXT_KEY)  # there is nothing left to end
        await KeyDB.end_key(OTHER_KEY)
        with self.assertRaises(NotFound):
            await KeyDB.remove_key(OTHER_KEY, "backup")
        with self.assertRaises(NotFound):
            await AuthDB.set_roles(USER_ID + "1", ["admin"])
        self.assertEqual(listener.concerns, 5 * [{"w": "majority"}])


class IndexTest(StrictTest):
    def test_a_key_cache_has_an_index_of_its_own(self) -> None:
        for seconds, expected in ((0, ["key"]), (60, ["key", "beat"])):
            with mock.patch.object(config, "KEY_CACHE", seconds), mock.patch.object(db, "index") as index:
                runpy.run_path(AuthDB.__file__)
            self.assertEqual([call.args[1] for call in index.call_args_list], expected)


class RolesTest(MongoTest):
    @gen_test
    async def test_roles_of_a_user_who_never_logged_in_or_was_removed_can_not_be_set(self) -> None:
        with self.assertRaises(NotFound):
            await AuthDB.set_roles(USER_ID, ["admin"])
        await AuthDB.save_key(USER_KEY, USER_ID)
        await AuthDB.set_roles(USER_ID, ["admin"])
        await AuthDB.end_key(USER_KEY, NEXT_KEY, ("user_id", "roles"))
        with self.assertRaises(NotFound):
            await AuthDB.set_roles(USER_ID, ["admin"])
        self.assertNotIn("roles", self.database.auth.find_one() or {})

    @gen_test
    async def test_roles_that_are_a_text_are_a_type_error(self) -> None:
        with self.assertRaises(TypeError):
            await AuthDB.set_roles(USER_ID, "admin")

    @gen_test
    async def test_roles_are_a_list_of_names(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        for roles in (["a b"], [""], 21 * ["a", *map(str, range(20))]):
            with self.assertRaises(InvalidValue):
                await AuthDB.set_roles(USER_ID, roles)
        await AuthDB.set_roles(USER_ID, ("b", "a:1", "b"))
        self.assertEqual((await AuthDB.get_user_id(USER_KEY) or {})["roles"], ["a:1", "b"])


class ApiKeyTest(MongoTest):
    @gen_test
    async def test_101_keys_at_once_are_100(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        calls = [KeyDB.create_key(USER_KEY, str(number), None, []) for number in range(101)]
        made = await asyncio.gather(*calls, return_exceptions=True)
        self.assertEqual(len([key for key in made if isinstance(key, dict)]), 100)
        self.assertEqual(len(await KeyDB.list_keys(USER_KEY)), 100)
        self.assertEqual(await KeyDB.list_keys(OTHER_KEY), [])

    @gen_test
    async def test_a_use_of_a_key_that_has_ended_is_not_recorded(self) -> None:
        await AuthDB.save_key(USER_KEY, USER_ID)
        key = (await KeyDB.create_key(USER_KEY, "backup", None, []))["key"]
        await KeyDB.end_key(key)
        await KeyDB.record_use(key, 7)
        self.assertEqual(await KeyDB.list_keys(USER_KEY), [])
