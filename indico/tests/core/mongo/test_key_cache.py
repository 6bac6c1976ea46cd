"""
The key cache: what it saves, and that whoever logs out is out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any
from unittest import mock

from bson.objectid import ObjectId
from tornado.testing import AsyncTestCase, gen_test

import indico.db.auth_db as AuthDB
from indico import config, db
from indico.core.mongo import key_cache
from indico.core.startup import StartupTask
from indico.db import current_time
from indico.error import MongoError
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.tests.mocks import LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.process import linux, wait_until
from indico.tests.testutils.replica import ReplicaSet
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth import auth_utils
from indico.utils.auth.auth_utils import auth, user_hash


class SpeakHandler(IndicoHandler):
    """Actions of either kind."""

    @auth
    def plain(self, data: bytes) -> str:
        return self.user_id

    @auth
    def later(self, data: bytes) -> None:
        self.respond(self.key)

    @auth
    async def coroutine(self, data: bytes) -> str:
        await asyncio.sleep(0)
        return self.user_id


class CacheTest(ServerTest):
    routes = [AuthRoute, UserRoute, (r"/speak/(?P<action>[a-zA-Z]+)?", SpeakHandler)]
    lifetime: float = 60

    def setUp(self) -> None:
        patch = mock.patch.object(config, "KEY_CACHE", self.lifetime)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()
        self.wait_until(lambda: key_cache._trusted_until)
        self.post("auth/login", LOGIN_DATA)

    def wait_until(self, condition: Any) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(wait, timeout=10)

    def call(self, route: str) -> tuple[int, Any]:
        answer = self.post(route, {})
        return answer["status"], answer["data"]

    def end_elsewhere(self) -> None:
        """What a logout in another process does to the database."""
        collection = self.elsewhere()[config.MONGODB_DATABASE].auth
        collection.update_one({}, {"$set": {"secret": "another"}, "$unset": {"user_id": "", "login": ""}})

    def elsewhere(self) -> Any:
        return start_mongodb()


class SingleServerTest(CacheTest):
    def test_a_key_is_looked_up_once(self) -> None:
        for _ in range(3):
            with mock.patch.object(AuthDB, "get_user_id", wraps=AuthDB.get_user_id) as looked_up:
                self.assertEqual(self.call("auth/check"), (200, True))
        self.assertEqual(looked_up.call_count, 0)

    def test_actions_of_either_kind_know_the_user_of_a_key_that_is_remembered(self) -> None:
        self.call("auth/check")
        self.assertEqual(self.call("speak/plain"), (200, USER_ID))
        self.assertEqual(self.call("speak/later"), (200, USER_KEY))
        self.assertEqual(self.call("speak/coroutine"), (200, USER_ID))

    def test_another_key_is_not_taken_for_it(self) -> None:
        self.call("auth/check")
        headers = {"indico_key": user_hash(USER_ID, 1)}
        self.assertEqual(self.post("auth/check", {}, headers)["status"], 401)

    def test_a_logout_counts_at_once(self) -> None:
        self.call("auth/check")
        self.assertEqual(self.call("auth/logout"), (200, True))
        self.assertEqual(self.call("auth/check"), (401, "User not authenticated"))

    def test_a_removal_counts_at_once(self) -> None:
        self.call("auth/check")
        self.call("user/remove")
        self.assertEqual(self.call("user/find"), (401, "User not authenticated"))

    def test_a_lookup_that_a_logout_overtook_is_not_remembered(self) -> None:
        look_up = AuthDB.get_user_id

        async def slow(key: str) -> Any:
            document = await look_up(key)
            await auth_utils.end_key(key)
            return document

        calls = iter([slow, look_up])
        with mock.patch.object(AuthDB, "get_user_id", side_effect=lambda key: next(calls, look_up)(key)):
            self.assertEqual(self.call("auth/check"), (200, True))
        self.assertEqual(self.call("auth/check")[0], 401)

    def test_what_is_forgotten_last_is_what_was_used_last(self) -> None:
        def document() -> dict[str, Any]:
            return {"_id": ObjectId(), "login": current_time()}

        with mock.patch.object(key_cache, "MAX_KEYS", 2):
            for key in "abc":
                key_cache.remember(key, document(), key_cache.get_version())
                key_cache.remember(key, document(), key_cache.get_version() - 1)
        self.assertEqual([key_cache.find(key) is not None for key in "abc"], [False, True, True])

    def test_a_key_that_expires_is_remembered_no_longer(self) -> None:
        login = current_time() - int(config.KEY_LIFETIME * 1000) + 50
        key_cache.remember("a", {"_id": 1, "login": login}, key_cache.get_version())
        self.assertIsNotNone(key_cache.find("a"))
        wait_until(lambda: key_cache.find("a") is None, "the end of a key", 5)


class ShortCacheTest(CacheTest):
    lifetime = 0.2

    def test_a_logout_elsewhere_counts_when_the_time_is_over(self) -> None:
        self.call("auth/check")
        self.end_elsewhere()
        self.wait_until(lambda: key_cache.find(USER_KEY) is None)
        self.assertEqual(self.call("auth/check")[0], 401)


class StreamTest(StrictTest, AsyncTestCase):
    @gen_test
    async def test_a_stream_that_loses_its_place_is_opened_again_and_nothing_counts_meanwhile(self) -> None:
        opened = asyncio.Event()
        streams = 0

        async def watch(*_: Any) -> AsyncGenerator[None]:
            nonlocal streams
            streams += 1
            yield None
            if streams == 1:
                key_cache.remember("a", {"_id": 1, "login": current_time()}, key_cache.get_version())
                self.assertIsNotNone(key_cache.find("a"))
                raise MongoError("no resume token")
            self.assertIsNone(key_cache.find("a"))
            opened.set()
            await asyncio.Event().wait()

        self.addCleanup(key_cache.forget_all)
        with (
            mock.patch.object(db, "watch", watch),
            mock.patch.object(config, "KEY_CACHE", 60),
        ):
            task = StartupTask("Key cache", set())
            watching = asyncio.ensure_future(key_cache.follow_logouts(db.watch, task))
            await opened.wait()
            watching.cancel()


@linux
class ReplicaSetTest(CacheTest):
    replica: ReplicaSet

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.replica = ReplicaSet(count=1).start()

    @classmethod
    def tearDownClass(cls) -> None:  # nosetests runs no class cleanups
        cls.replica.close()
        super().tearDownClass()

    def setUp(self) -> None:
        start_mongodb()
        patch = mock.patch.multiple(config, MONGODB=self.replica.uri, MONGODB_TIMEOUT=0.5)
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()

    def elsewhere(self) -> Any:
        return self.replica.members[0].client

    def test_a_logout_elsewhere_counts_within_a_second(self) -> None:
        self.assertEqual(self.call("auth/check"), (200, True))
        self.end_elsewhere()
        ended = time.monotonic()
        self.wait_until(lambda: key_cache.find(USER_KEY) is None)
        self.assertLess(time.monotonic() - ended, 1)
        self.assertEqual(self.call("auth/check")[0], 401)

    @slow
    def test_a_login_elsewhere_changes_nothing(self) -> None:
        self.call("auth/check")
        collection = self.elsewhere()[config.MONGODB_DATABASE].auth
        collection.update_one({}, {"$set": {"login": current_time()}})
        collection.insert_one({"key": "of another"})
        until = key_cache._trusted_until
        self.wait_until(lambda: key_cache._trusted_until > until + 2 * key_cache.HEARTBEAT_MS / 1000)
        self.assertIsNotNone(key_cache.find(USER_KEY))

    def test_when_the_collection_is_dropped_everything_is_forgotten(self) -> None:
        self.call("auth/check")
        self.elsewhere()[config.MONGODB_DATABASE].auth.drop()
        self.wait_until(lambda: key_cache.find(USER_KEY) is None)
        self.wait_until(lambda: key_cache._trusted_until > time.monotonic())  # it listens again

    @slow
    @gen_test
    async def test_nothing_counts_while_the_stream_is_silent(self) -> None:
        [member] = self.replica.members
        key_cache.remember("a", {"_id": 1, "login": current_time()}, key_cache.get_version())
        self.assertIsNotNone(key_cache.find("a"))
        member.hang()
        try:
            while key_cache.find("a"):
                await asyncio.sleep(0.01)
            while key_cache._documents:  # it is given up
                await asyncio.sleep(0.01)
        finally:
            member.resume()
        while key_cache._trusted_until < time.monotonic():  # it listens again
            await asyncio.sleep(0.01)
