"""
The key cache: what it saves, and that whoever logs out is out.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import time
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any
from unittest import mock

from bson.objectid import ObjectId
from pymongo import WriteConcern
from tornado.testing import AsyncTestCase, gen_test

import indico.db.auth_db as AuthDB
from indico import config, db
from indico.core import startup
from indico.core.mongo import indexes, key_cache
from indico.core.startup import StartupTask
from indico.db import current_time
from indico.error import MongoError, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.tests.mocks import LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.process import ProcessTest, ServerProcess, linux, wait_until
from indico.tests.testutils.replica import ReplicaSet
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth.auth_utils import auth, user_hash
from indico.utils.auth.key_utils import end_key


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


def make_owner(expires: int | None = None) -> dict[str, Any]:
    return {"_id": ObjectId(), "expires": expires, "name": None}


@functools.cache
def start_replica() -> ReplicaSet:
    """Start a replica set of one, for all tests here."""
    replica = ReplicaSet(count=1).start()
    atexit.register(replica.close)
    return replica


class CacheTest(ServerTest):
    """A server on a replica set of one, with KEY_CACHE."""

    routes = [AuthRoute, UserRoute, KeyRoute, (r"/speak/(?P<action>[a-zA-Z]+)?", SpeakHandler)]
    stores = ("auth", "user")
    lifetime: float = 60

    def setUp(self) -> None:
        start_mongodb()
        self.replica = start_replica()
        patch = mock.patch.multiple(
            config, MONGODB=self.replica.uri, MONGODB_TIMEOUT=0.5, KEY_CACHE=self.lifetime
        )
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()
        self.auth = self.replica.members[0].client[config.MONGODB_DATABASE].auth
        self.post("auth/login", LOGIN_DATA)
        self.user = {"key": {"$not": {"$regex": "^beat:"}}}  # the document that is no beat
        self.wait_until_it_counts()

    def wait_until(self, condition: Any) -> None:
        async def wait() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(wait, timeout=10)

    def wait_until_it_counts(self) -> None:
        self.wait_until(lambda: key_cache._trusted_until > time.monotonic() + 0.5)

    def call(self, route: str, key: str = USER_KEY, **data: Any) -> tuple[int, Any]:
        answer = self.post(route, data, {"indico_key": key})
        return answer["status"], answer["data"]

    def remember(self, key: str = USER_KEY) -> None:
        for _ in range(100):  # a change that was made before may be reported meanwhile
            self.wait_until_it_counts()
            self.assertEqual(self.call("auth/check", key), (200, True))
            if key_cache.find(key) is not None:
                return
        self.fail("it is not remembered")

    def make_key(self, name: str = "backup", **fields: Any) -> str:
        """Return a new API key, after the stream has reported that it was made: that forgets all keys."""
        key = str(self.call("key/create", name=name, **fields)[1]["key"])
        made = time.monotonic()
        self.wait_until(lambda: key_cache._trusted_until > made + key_cache.MAX_AGE)
        return key

    def change_elsewhere(self, update: dict[str, Any]) -> None:
        """Change the user's document as another process would."""
        self.auth.update_one(self.user, update)


@linux
class CountTest(CacheTest):
    @slow
    def test_a_key_is_looked_up_once(self) -> None:
        self.remember()
        with mock.patch.object(AuthDB, "get_user_id", wraps=AuthDB.get_user_id) as looked_up:
            for _ in range(3):
                self.assertEqual(self.call("auth/check"), (200, True))
        self.assertEqual(looked_up.call_count, 0)

    @slow
    def test_actions_of_either_kind_know_the_user_of_a_key_that_is_remembered(self) -> None:
        self.remember()
        self.assertEqual(self.call("speak/plain"), (200, USER_ID))
        self.assertEqual(self.call("speak/later"), (200, USER_KEY))
        self.assertEqual(self.call("speak/coroutine"), (200, USER_ID))

    @slow
    def test_another_key_is_not_taken_for_it(self) -> None:
        self.remember()
        self.assertEqual(self.call("auth/check", user_hash(USER_ID, 1))[0], 401)

    @slow
    def test_a_logout_counts_at_once(self) -> None:
        self.remember()
        self.assertEqual(self.call("auth/logout"), (200, True))
        self.assertEqual(self.call("auth/check"), (401, "User not authenticated"))

    @slow
    def test_a_logout_of_a_key_that_has_ended_elsewhere_forgets_it(self) -> None:
        self.remember()
        with mock.patch.object(AuthDB, "end_key", mock.AsyncMock(return_value=False)):
            self.assertEqual(self.call("auth/logout"), (200, True))
        self.assertIsNone(key_cache.find(USER_KEY))

    def test_a_logout_that_is_503_forgets_the_key(self) -> None:
        self.remember()
        with mock.patch.object(AuthDB, "end_key", side_effect=Unavailable("on purpose")):
            self.assertEqual(self.call("auth/logout")[0], 503)
        self.assertIsNone(key_cache.find(USER_KEY))

    @slow
    def test_a_removal_counts_at_once_for_all_keys(self) -> None:
        key = self.make_key()
        self.remember()
        self.remember(key)
        self.call("user/remove")
        for each in (USER_KEY, key):
            self.assertEqual(self.call("user/find", each), (401, "User not authenticated"))

    @slow
    def test_the_end_of_an_api_key_counts_at_once(self) -> None:
        for end in ("key/remove", "auth/logout"):
            key = self.make_key()
            self.remember(key)
            self.call(end, key if end == "auth/logout" else USER_KEY, name="backup")
            self.assertEqual(self.call("auth/check", key)[0], 401)
            self.assertEqual(self.call("auth/check"), (200, True))

    @slow
    def test_a_lookup_that_a_logout_overtook_is_not_remembered(self) -> None:
        look_up = AuthDB.get_user_id

        async def slow(key: str) -> Any:
            owner = await look_up(key)
            assert owner is not None
            await end_key(key, owner)
            return owner

        calls = iter([slow, look_up])
        with mock.patch.object(AuthDB, "get_user_id", side_effect=lambda key: next(calls, look_up)(key)):
            self.assertEqual(self.call("auth/check"), (200, True))
        self.assertEqual(self.call("auth/check")[0], 401)

    def test_what_was_remembered_first_is_forgotten_first(self) -> None:
        with mock.patch.object(key_cache, "MAX_KEYS", 2):
            for key in "abc":
                key_cache.remember(key, make_owner(), key_cache.get_version())
                key_cache.remember(key, make_owner(), key_cache.get_version() - 1)
        self.assertEqual([key_cache.find(key) is not None for key in "abc"], [False, True, True])

    @slow
    def test_a_key_that_expires_is_remembered_no_longer(self) -> None:
        key_cache.remember("a", make_owner(current_time() + 50), key_cache.get_version())
        self.assertIsNotNone(key_cache.find("a"))
        wait_until(lambda: key_cache.find("a") is None, "the end of a key", 5)


@linux
class ElsewhereTest(CacheTest):
    """What other processes do."""

    def assert_forgotten(self, update: dict[str, Any], *keys: str) -> None:
        for key in keys:
            self.remember(key)
        changed = time.monotonic()
        self.change_elsewhere(update)
        self.wait_until(lambda: all(key_cache.find(key) is None for key in keys))
        self.assertLess(time.monotonic() - changed, 1)

    def test_a_logout_elsewhere_counts_within_a_second(self) -> None:
        self.assert_forgotten({"$set": {"secret": "another"}, "$unset": {"login": ""}}, USER_KEY)
        self.assertEqual(self.call("auth/check")[0], 401)

    @slow
    def test_the_end_of_an_api_key_elsewhere_counts_within_a_second(self) -> None:
        keys = [self.make_key(name) for name in "abc"]
        for name, key in zip("bca", (keys[1], keys[2], keys[0])):  # in the middle, the last, the only one
            self.assert_forgotten({"$pull": {"keys": {"name": name}}}, key)
            self.assertEqual(self.call("auth/check", key)[0], 401)

    @slow
    def test_roles_set_elsewhere_count_within_a_second(self) -> None:
        self.change_elsewhere({"$set": {"roles": ["admin"]}})
        key = self.make_key(roles=["admin"])
        self.assert_forgotten({"$set": {"roles": []}}, USER_KEY, key)
        self.assert_forgotten({"$set": {"keys.0.roles": []}}, key)

    @slow
    def test_logins_and_uses_of_keys_elsewhere_change_nothing(self) -> None:
        self.make_key()
        self.remember()
        self.change_elsewhere({"$set": {"login": current_time(), "user_id": "x", "keys.0.used": 7}})
        self.auth.insert_one({"key": "of another"})
        self.auth.insert_one({"_id": "beat:of another", "key": "beat:of another"})
        self.auth.delete_one({"_id": "beat:of another"})
        until = key_cache._trusted_until
        self.wait_until(lambda: key_cache._trusted_until > until + 3 * key_cache.BEAT_PAUSE)
        self.assertIsNotNone(key_cache.find(USER_KEY))

    def test_when_the_collection_is_dropped_everything_is_forgotten(self) -> None:
        self.remember()
        self.auth.drop()
        self.wait_until(lambda: key_cache.find(USER_KEY) is None)
        self.wait_until_it_counts()  # it follows again

    @slow
    def test_each_process_has_one_beat_which_stays_when_it_is_deleted(self) -> None:
        [beat] = self.auth.find({"_id": {"$regex": "^beat:"}})
        self.assertEqual(set(beat), {"_id", "key", "began", "beat"})
        self.auth.delete_one({"_id": beat["_id"]})
        self.wait_until(lambda: self.auth.count_documents({"_id": beat["_id"]}))
        self.wait_until_it_counts()

    def count_cursors(self) -> int:
        client = self.replica.members[0].client
        return int(client.admin.command("serverStatus")["metrics"]["cursor"]["open"]["total"])

    @gen_test
    async def test_a_stream_that_is_left_or_fails_is_closed(self) -> None:
        before = self.count_cursors()  # the application's own stream is among them

        async def open_stream() -> AsyncGenerator[Any]:
            stream = key_cache.watch(db.mongodb.auth, [])
            await anext(stream)
            self.assertGreater(self.count_cursors(), before)
            return stream

        await (await open_stream()).aclose()
        self.assertEqual(self.count_cursors(), before)
        with self.assertRaises(KeyError):
            await (await open_stream()).athrow(KeyError("documentKey"))
        self.assertEqual(self.count_cursors(), before)

    @slow
    @gen_test
    async def test_nothing_counts_while_mongodb_is_silent(self) -> None:
        [member] = self.replica.members
        key_cache.remember("a", make_owner(), key_cache.get_version())
        self.assertIsNotNone(key_cache.find("a"))
        member.hang()
        try:
            while key_cache.find("a"):
                await asyncio.sleep(0.01)
            while key_cache._owners:  # it is given up
                await asyncio.sleep(0.01)
        finally:
            member.resume()
        while key_cache._trusted_until < time.monotonic():  # it follows again
            await asyncio.sleep(0.01)


@linux
class ShortCacheTest(CacheTest):
    lifetime = 0.2

    @slow
    def test_a_key_is_looked_up_again_when_the_time_is_over(self) -> None:
        self.remember()
        self.wait_until(lambda: key_cache.find(USER_KEY) is None)
        self.assertEqual(self.call("auth/check"), (200, True))


class FakeSource:
    """A database whose change streams are the given ones, and which takes no beats."""

    def __init__(self, *streams: Any) -> None:
        self.streams = list(streams)
        self.beats: list[str] = []  # the _ids

    def get_database(self) -> Any:
        async def update_one(query: dict[str, Any], *_: Any, **options: Any) -> None:
            self.beats.append(query["key"])
            raise Unavailable("on purpose")

        collection = SimpleNamespace(update_one=update_one)
        collection.with_options = lambda **_: collection
        return {"auth": collection}

    def watch(self, collection: Any, pipeline: Any) -> AsyncGenerator[Any]:
        beat = pipeline[0]["$match"]["$or"][0]["documentKey._id"]
        generator: AsyncGenerator[Any] = self.streams.pop(0)(beat)
        return generator


class StreamTest(StrictTest, AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(key_cache.forget_all)
        for module, name, value in ((config, "KEY_CACHE", 60), (startup, "FIRST_PAUSE", 0.001)):
            patch = mock.patch.object(module, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        self.opened = asyncio.Event()
        self.missing: set[str] = set()

    def beat(self, identity: str, began: float) -> dict[str, Any]:
        fields = {"updateDescription": {"updatedFields": {"began": began}}}
        return {"operationType": "update", "documentKey": {"_id": identity}, **fields}

    async def last(self, identity: str) -> AsyncGenerator[None]:
        """A stream in which nothing counts yet."""
        yield None
        self.assertIsNone(key_cache.find("a"))
        key_cache.remember("a", make_owner(), key_cache.get_version())
        self.assertIsNone(key_cache.find("a"))
        self.opened.set()
        await asyncio.Event().wait()

    async def follow(self, *streams: Any) -> None:
        """Follow the streams until the last one is open."""
        source = FakeSource(*streams)
        self.enterContext(mock.patch.object(key_cache, "watch", source.watch))
        following = asyncio.ensure_future(
            key_cache.follow_logouts(source.get_database, StartupTask("Key cache", self.missing))
        )
        opened = asyncio.ensure_future(self.opened.wait())
        await asyncio.wait([following, opened], return_when="FIRST_COMPLETED")
        self.assertFalse(following.done(), following)
        following.cancel()

    @gen_test
    async def test_a_stream_that_loses_its_place_is_opened_again_and_nothing_counts_meanwhile(self) -> None:
        async def first(identity: str) -> AsyncGenerator[Any]:
            yield None
            yield self.beat(identity, time.monotonic())
            key_cache.remember("a", make_owner(), key_cache.get_version())
            yield None
            self.assertIsNotNone(key_cache.find("a"))
            raise MongoError("no resume token")

        await self.follow(first, self.last)

    @gen_test
    async def test_a_stream_counts_from_the_start_of_a_beat_and_not_from_its_report(self) -> None:
        async def late(identity: str) -> AsyncGenerator[Any]:
            yield None
            yield self.beat(identity, time.monotonic() - key_cache.MAX_AGE)
            key_cache.remember("a", make_owner(), key_cache.get_version())
            self.assertIsNone(key_cache.find("a"))
            raise Unavailable("no connection")

        await self.follow(late, self.last)

    @gen_test
    async def test_a_stream_that_is_alive_without_beats_is_opened_anew(self) -> None:
        ended = []

        async def cut_off(identity: str) -> AsyncGenerator[Any]:
            try:
                while True:
                    yield None
                    await asyncio.sleep(0.01)
            finally:
                ended.append(identity)

        with mock.patch.object(key_cache, "MAX_SILENCE", 0.05):
            await self.follow(cut_off, self.last)
        self.assertEqual(len(ended), 1)

    @gen_test
    async def test_a_lookup_that_began_before_the_stream_was_open_is_not_remembered(self) -> None:
        version = key_cache.get_version()

        async def first(identity: str) -> AsyncGenerator[Any]:
            yield None
            yield self.beat(identity, time.monotonic())
            key_cache.remember("a", make_owner(), version)
            self.assertIsNone(key_cache.find("a"))
            raise Unavailable("no connection")

        await self.follow(first, self.last)

    @gen_test
    async def test_a_failure_is_logged_once_and_tried_again_whatever_the_cause(self) -> None:
        for error, text in (
            (MongoError("not authorized"), "not authorized"),
            (Unavailable("no connection"), "no connection"),
            (KeyError("documentKey"), "KeyError('documentKey')"),
            (RuntimeError("closed"), "RuntimeError('closed')"),
            (StopAsyncIteration(), "RuntimeError("),
        ):

            async def failing(identity: str) -> AsyncGenerator[Any]:
                raise error  # noqa: B023
                yield

            self.opened.clear()
            with self.subTest(text), self.assertLogs("indico", "INFO") as logs:
                await self.follow(failing, failing, self.last)
                self.assertEqual(len(logs.output), 2, logs.output)
                self.assertIn(f"WARNING:indico:Key cache: {text}", logs.output[0])
                self.assertIn("This is tried again until it succeeds", logs.output[0])
                self.assertEqual(logs.output[1], "INFO:indico:Key cache: done")
            self.assertEqual(self.missing, set())


def has_change_streams() -> bool:
    """Whether the tests' MongoDB is a replica set or a sharded cluster."""
    answer = start_mongodb().admin.command("hello")
    return "setName" in answer or answer.get("msg") == "isdbgrid"


class StandaloneTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")

    def setUp(self) -> None:
        if has_change_streams():
            self.skipTest("MongoDB has change streams here")
        patch = mock.patch.object(config, "KEY_CACHE", 60)
        patch.start()
        self.addCleanup(patch.stop)
        logs = self.enterContext(self.assertLogs("indico", "WARNING"))
        super().setUp()
        self.post("auth/login", LOGIN_DATA)

        async def wait_for_warning() -> None:
            while not any("KEY_CACHE is not used" in line for line in logs.output):
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(wait_for_warning, timeout=10)

    def test_the_cache_does_not_count_and_no_beat_is_written(self) -> None:
        for _ in range(2):
            self.assertEqual(self.post("auth/check", {})["data"], True)
        self.assertIsNone(key_cache.find(USER_KEY))
        self.database.auth.update_one({}, {"$set": {"secret": "another"}})
        self.assertEqual(self.post("auth/check", {})["status"], 401)
        self.assertEqual(self.database.auth.count_documents({}), 1)


@slow
@linux
class StandaloneProcessesTest(ProcessTest):
    def test_a_key_that_one_process_ended_opens_nothing_at_another(self) -> None:
        if has_change_streams():
            self.skipTest("MongoDB has change streams here")
        first, second = (self.start(KEY_CACHE="60") for _ in range(2))
        for server in (first, second):
            server.wait_for("KEY_CACHE is not used")
        for end in ("auth/logout", "user/remove"):
            headers = {"indico_key": first.fetch("auth/login", LOGIN_DATA).data["indico_key"]}
            for server in 3 * (first, second):  # a cache would know the key
                self.assertEqual(server.fetch("auth/check", None, headers).status, 200)
            self.assertEqual(first.fetch(end, None, headers).status, 200)
            self.assertEqual(first.fetch("auth/login", LOGIN_DATA).status, 200)  # after a removal, a new user
            before = list(self.database.user.find())
            for route in ("auth/check", "user/update", "user/find", "user/export", "key/list", "user/remove"):
                answer = second.fetch(route, {"update_user": {"name": "Mallory"}}, headers)
                self.assertEqual((end, route, answer.status), (end, route, 401))
            self.assertEqual(list(self.database.user.find()), before)


class IndexTest(StrictTest):
    def test_beats_are_removed_by_an_index_which_is_only_there_with_key_cache(self) -> None:
        for lifetime, expected in ((0, ["key"]), (60, ["key", "beat"])):
            with mock.patch.object(indexes, "INDEXES", []), mock.patch.object(config, "KEY_CACHE", lifetime):
                with mock.patch.object(db, "on_export"):
                    importlib.reload(AuthDB)
                fields = [next(iter(model.document["key"])) for _, model in indexes.INDEXES]
                self.assertEqual(fields, expected)
                options = indexes.INDEXES[-1][1].document
        self.assertEqual((options["expireAfterSeconds"], options["sparse"]), (60, True))


@slow
@linux
class TwoProcessesTest(ProcessTest):
    """Two servers with KEY_CACHE, which share a replica set."""

    def start_servers(self, replica: ReplicaSet, **settings: str) -> list[ServerProcess]:
        settings = {"MONGODB": replica.uri, "KEY_CACHE": "60", "MONGODB_TIMEOUT": "2", **settings}
        servers = [self.launch(**settings) for _ in range(2)]
        for server in servers:
            server.wait_ready()
        self.assertEqual(servers[0].fetch("auth/login", LOGIN_DATA).status, 200)
        return servers

    def check(self, server: ServerProcess, key: str) -> int:
        return server.fetch("auth/check", None, {"indico_key": key}).status

    def test_what_one_ends_opens_nothing_at_the_other_within_a_second(self) -> None:
        with ReplicaSet(count=1) as replica:
            first, second = self.start_servers(replica)
            created = first.fetch("key/create", {"name": "backup"}).data
            for key, route, data in (
                (created["key"], "key/remove", {"name": "backup"}),
                (USER_KEY, "auth/logout", None),
            ):
                for _ in range(20):  # the cache is in use
                    self.assertEqual(self.check(second, key), 200)
                    time.sleep(0.05)
                self.assertEqual(first.fetch(route, data).status, 200)
                ended = time.monotonic()
                wait_until(lambda: self.check(second, key) == 401, "the end of the key")  # noqa: B023
                self.assertLess(time.monotonic() - ended, 1)

    def test_a_logout_in_a_partition_is_known_within_a_second(self) -> None:
        """The primary is cut off from the other members, and not from the servers."""
        with ReplicaSet(proxied=True) as replica:
            servers = self.start_servers(replica)
            key = servers[0].fetch("key/create", {"name": "backup"}).data["key"]
            old = replica.wait_for_primary()
            for server in servers:
                self.assertEqual(self.check(server, key), 200)
            replica.isolate(old)
            try:
                status = 503
                while status == 503:
                    status = servers[0].fetch("key/remove", {"name": "backup"}).status
                ended = time.monotonic()
                self.assertIn(status, (200, 404))
                time.sleep(max(0, ended + 1 - time.monotonic()))
                for _ in range(50):
                    for server in servers:
                        self.assertIn(self.check(server, key), (401, 503))
                    time.sleep(0.05)
                wait_until(lambda: self.check(servers[1], key) == 401, "an answer")
            finally:
                replica.reconnect()

    def test_with_linearizable_reads_a_primary_that_is_cut_off_answers_none(self) -> None:
        with ReplicaSet(proxied=True) as replica:
            linearizable = f"{replica.uri}&readConcernLevel=linearizable"
            servers = self.start_servers(replica, MONGODB=linearizable, KEY_CACHE="")
            key = servers[0].fetch("key/create", {"name": "backup"}).data["key"]
            old = replica.wait_for_primary()
            replica.isolate(old)
            try:
                new = replica.wait_for_primary(other_than=old)
                majority = WriteConcern("majority")
                database = new.client.get_database(config.MONGODB_DATABASE, write_concern=majority)
                change = {"$pull": {"keys": {"name": "backup"}}}  # as a server does that reaches the new one
                database.auth.update_one({"keys.name": "backup"}, change)
                for _ in range(60):
                    for server in servers:
                        self.assertIn(self.check(server, key), (401, 503))
                wait_until(lambda: self.check(servers[0], key) == 401, "an answer")
            finally:
                replica.reconnect()
