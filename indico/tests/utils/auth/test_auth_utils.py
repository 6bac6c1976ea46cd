"""
Keys, and the decorator that asks for one.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import importlib
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from tornado.httputil import HTTPHeaders
from tornado.testing import gen_test

import indico.db.auth_db as AuthDB
from indico import config, db
from indico.core.tasks import LATER
from indico.error import AuthError
from indico.tests.mocks import HEADERS, USER_ID, USER_KEY
from indico.tests.mocks.request_mock import RequestHandler
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack
from indico.utils.auth import auth_utils
from indico.utils.auth.auth_utils import allow, auth, is_dev_token, user_hash
from indico.utils.auth.key_utils import end_key, start_key

UNKNOWN_KEY = user_hash("nobody")


class UserHashTest(StrictTest):
    def set_salt(self, salt: str | None) -> None:
        for module in (auth_utils, config):
            self.set(module, "USER_SALT", salt)

    def enter_empty_folder(self) -> Path:
        """An empty working directory for this test."""
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder.name)
        return Path(folder.name)

    def test_a_key_is_56_hex_digits(self) -> None:
        for generation in (0, 1, 1_000_000):
            self.assertRegex(user_hash(USER_ID, generation), r"\A[0-9a-f]{56}\Z")

    def test_the_first_key_is_an_hmac_keyed_with_the_salt(self) -> None:
        self.set_salt("pepper")
        expected = hmac.new(b"pepper", b"facebook\xc3\xa9", "sha224").hexdigest()
        self.assertEqual(user_hash("facebooké"), expected)
        self.assertEqual(user_hash("facebooké", 0), expected)
        self.assertNotEqual(expected, hashlib.sha224(b"pepperfacebook\xc3\xa9").hexdigest())

    def test_keys_of_other_generations_share_the_first_half_alone(self) -> None:
        keys = [user_hash(USER_ID, generation) for generation in range(20)]
        self.assertEqual({key[:28] for key in keys}, {USER_KEY[:28]})
        self.assertEqual(len({key[28:] for key in keys}), 20)

    def test_keys_of_other_users_share_neither_half(self) -> None:
        users = [USER_ID, USER_ID + "1", "facebook", "", "facebook1", "facebook11"]
        keys = [user_hash(user, generation) for user in users for generation in (0, 1, 11)]
        self.assertEqual(len({key[:28] for key in keys}), len(users))
        self.assertEqual(len({key[28:] for key in keys}), len(keys))

    def test_another_salt_makes_other_keys(self) -> None:
        before = user_hash(USER_ID), user_hash(USER_ID, 1)
        self.set_salt("pepper")
        for ours, theirs in zip(before, (user_hash(USER_ID), user_hash(USER_ID, 1))):
            self.assertNotEqual(ours[:28], theirs[:28])
            self.assertNotEqual(ours[28:], theirs[28:])

    def test_a_salt_need_not_be_utf_8(self) -> None:
        self.set_salt(os.fsdecode(b"pepper \xff\xe9"))
        self.assertEqual(user_hash("ada"), hmac.new(b"pepper \xff\xe9", b"ada", "sha224").hexdigest())

    def test_the_salt_is_read_again_when_the_module_is_reloaded(self) -> None:
        self.addCleanup(importlib.reload, auth_utils)
        with mock.patch.dict(os.environ, USER_SALT="pepper"):
            importlib.reload(auth_utils)
        self.assertEqual(auth_utils.USER_SALT, "pepper")
        expected = hmac.new(b"pepper", USER_ID.encode(), "sha224").hexdigest()
        self.assertEqual(auth_utils.user_hash(USER_ID), expected)

    def test_importing_without_a_salt_makes_none(self) -> None:
        self.addCleanup(importlib.reload, auth_utils)
        folder = self.enter_empty_folder()
        with mock.patch.dict(os.environ):
            del os.environ["USER_SALT"]
            importlib.reload(auth_utils)
        self.assertFalse(auth_utils.USER_SALT)
        self.assertEqual(list(folder.iterdir()), [])

    def test_without_a_salt_development_makes_one_and_keeps_it(self) -> None:
        self.set_salt(None)
        folder = self.enter_empty_folder()
        key = user_hash(USER_ID)
        self.assertNotEqual(key, USER_KEY)
        [kept] = [path for path in folder.rglob("*") if path.name == "user_salt"]
        self.assertRegex(kept.read_text(), r"\A[0-9a-f]{64}\Z")
        self.assertEqual(kept.stat().st_mode & 0o777, 0o600)
        self.set_salt("")
        self.assertEqual(user_hash(USER_ID), key)

    def test_the_salt_of_another_folder_is_another(self) -> None:
        keys = set()
        for _ in range(2):
            self.set_salt(None)
            self.enter_empty_folder()
            keys.add(user_hash(USER_ID))
        self.assertEqual(len(keys), 2)

    def test_without_a_salt_production_refuses_and_makes_none(self) -> None:
        folder = self.enter_empty_folder()
        for salt in (None, ""):
            self.set_salt(salt)
            with (
                mock.patch.object(config, "PRODUCTION", True),
                self.assertRaisesRegex(config.SettingError, "USER_SALT"),
            ):
                user_hash(USER_ID)
        self.assertEqual(list(folder.iterdir()), [])


class Untouchable:
    """A database that no one may ask."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the database was asked for {name}")


class AuthTest(MongoTest):
    """A test with one valid key, USER_KEY."""

    stores = ("auth",)

    def setUp(self) -> None:
        super().setUp()
        AuthDB.save_key(USER_KEY, USER_ID, self.callback)
        self.wait()


class RefusedAtOnceTest(AuthTest):
    def setUp(self) -> None:
        super().setUp()
        db.mongodb = Untouchable()

    def assert_refused(self, *all_headers: Mapping[str, str]) -> None:
        @auth
        def action(handler: Any, data: bytes) -> None:
            self.fail("it ran")

        for headers in all_headers:
            handler = RequestHandler(headers=headers)
            with self.subTest(headers), self.assertRaises(AuthError):
                action(handler, b"")
            self.assertFalse(hasattr(handler, "user_id") or hasattr(handler, "key"))

    def assert_refused_in_a_request(self, *pairs: tuple[str, str]) -> None:
        """Refused in headers as Tornado reads them, where a name may come twice."""
        headers = HTTPHeaders()
        for name, value in pairs:
            headers.add(name, value)
        self.assert_refused(headers)

    def test_no_key(self) -> None:
        self.assert_refused({}, HTTPHeaders(), {"Content-Type": "application/json"}, {"key": USER_KEY})

    def test_an_empty_key(self) -> None:
        self.assert_refused({"indico_key": ""}, {"Authorization": ""}, {"Authorization": "Bearer "})
        self.assert_refused_in_a_request(("indico_key", ""))

    def test_a_key_that_is_too_short_or_too_long(self) -> None:
        for key in (USER_KEY[:-1], USER_KEY + "0", USER_KEY[:28], 2 * USER_KEY, 100_000 * "0"):
            self.assert_refused({"indico_key": key}, {"Authorization": f"Bearer {key}"})

    def test_a_key_in_uppercase(self) -> None:
        self.assertNotEqual(USER_KEY.upper(), USER_KEY)
        self.assert_refused_in_a_request(("indico_key", USER_KEY.upper()))
        for key in (USER_KEY.upper(), 55 * "0" + "A"):
            self.assert_refused({"indico_key": key}, {"Authorization": f"Bearer {key}"})

    def test_a_key_that_is_not_hex(self) -> None:
        for key in (55 * "0" + "g", 55 * "0" + " ", 55 * "0" + "٣", 55 * "0" + "\n", 54 * "0" + "0x"):
            self.assert_refused({"indico_key": key}, {"Authorization": f"Bearer {key}"})

    def test_a_key_with_something_around_it(self) -> None:
        for key in (
            f'"{USER_KEY}"',
            f"{USER_KEY},",
            f"{USER_KEY}, {USER_KEY}",
            f"{USER_KEY};",
            f"x {USER_KEY}",
        ):
            self.assert_refused({"indico_key": key}, {"Authorization": f"Bearer {key}"})

    def test_a_key_of_another_scheme(self) -> None:
        for scheme in ("Basic ", "Token ", "Bearer", "Bearer:", "Bearers ", "", " ", "Bearer Bearer "):
            self.assert_refused({"Authorization": scheme + USER_KEY})

    def test_a_scheme_in_the_header_that_has_none(self) -> None:
        self.assert_refused({"indico_key": f"Bearer {USER_KEY}"})

    def test_one_header_twice_even_with_equal_keys(self) -> None:
        self.assert_refused_in_a_request(("indico_key", USER_KEY), ("indico_key", USER_KEY))
        self.assert_refused_in_a_request(("indico_key", USER_KEY), ("Indico_Key", ""))
        bearer = ("Authorization", f"Bearer {USER_KEY}")
        self.assert_refused_in_a_request(bearer, bearer)
        self.assert_refused_in_a_request(bearer, ("authorization", "Basic eA=="))

    def test_both_headers_even_with_equal_keys(self) -> None:
        for bearer in (
            f"Bearer {USER_KEY}",
            f"Bearer {UNKNOWN_KEY}",
            f"bearer  {USER_KEY}",
            "Bearer",
            "Bearer x",
            f"Basic eA==,Bearer {USER_KEY}",
            f"Basic eA==, bearer {USER_KEY}",
            USER_KEY,
            "Basic",
            "",
        ):
            self.assert_refused({**HEADERS, "Authorization": bearer})
        self.assert_refused({"indico_key": "", "Authorization": f"Bearer {USER_KEY}"})
        self.assert_refused_in_a_request(("indico_key", USER_KEY), ("Authorization", f"Bearer {USER_KEY}"))

    def test_above_a_coroutine_it_is_raised_at_once_too(self) -> None:
        @auth
        async def action(handler: Any, data: bytes) -> None:
            self.fail("it ran")

        with self.assertRaises(AuthError):
            action(RequestHandler(headers={}), b"")

    def test_the_body_is_not_looked_at(self) -> None:
        @auth
        @unpack("name")
        def action(handler: Any, name: str) -> None:
            self.fail("it ran")

        with self.assertRaises(AuthError):
            action(RequestHandler(headers={}), b"\xff{")


class RefusedByMongoDBTest(AuthTest):
    @gen_test
    async def test_an_unknown_key_is_refused_by_the_task(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> None:
            self.fail("it ran")

        handler = RequestHandler(headers={"indico_key": UNKNOWN_KEY})
        task = action(handler, b"")
        with self.assertRaises(AuthError):
            await task
        self.assertFalse(hasattr(handler, "user_id") or hasattr(handler, "key"))

    @gen_test
    async def test_the_key_of_a_generation_that_is_yet_to_come_is_refused(self) -> None:
        @auth
        async def action(handler: Any, data: bytes) -> None:
            self.fail("it ran")

        with self.assertRaises(AuthError):
            await action(RequestHandler(headers={"indico_key": user_hash(USER_ID, 1)}), b"")

    @gen_test
    async def test_an_expired_key_is_refused(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> bool:
            return True

        with mock.patch.object(config, "KEY_LIFETIME", 60):
            self.assertTrue(await action(RequestHandler(), b""))
        with mock.patch.object(config, "KEY_LIFETIME", 0), self.assertRaises(AuthError):
            await action(RequestHandler(), b"")

    @gen_test
    async def test_a_key_lives_from_the_last_login_on(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> bool:
            return True

        with mock.patch.object(config, "KEY_LIFETIME", 60):
            self.database.auth.update_one({}, {"$inc": {"login": -60_000}})
            with self.assertRaises(AuthError):
                await action(RequestHandler(), b"")
            await AuthDB.save_key(USER_KEY, USER_ID)
            self.assertTrue(await action(RequestHandler(), b""))


class AuthenticatedTest(AuthTest):
    def test_the_action_runs_although_nobody_awaits_it(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> None:
            self.stop((handler.user_id, handler.key, data))

        action(RequestHandler(), b"x")
        self.assertEqual(self.wait(), (USER_ID, USER_KEY, b"x"))

    def test_a_coroutine_runs_although_nobody_awaits_it(self) -> None:
        @auth
        @unpack("name")
        @type_check(str)
        async def action(handler: Any, name: str) -> None:
            self.stop((await AuthDB.get_user_id(handler.key), name))

        action(RequestHandler(), '{"name": "Ada"}')
        document, name = self.wait()
        self.assertEqual((document["user_id"], name), (USER_ID, "Ada"))

    @gen_test
    async def test_the_task_ends_with_what_a_plain_function_returns(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> dict[str, Any]:
            return {"user_id": handler.user_id}

        self.assertEqual(await action(RequestHandler(), b""), {"user_id": USER_ID})

    @gen_test
    async def test_a_plain_function_that_returns_none_answers_later(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> None: ...

        self.assertIs(await action(RequestHandler(), b""), LATER)

    @gen_test
    async def test_a_coroutine_that_returns_none_has_that_for_its_result(self) -> None:
        @auth
        async def action(handler: Any, data: bytes) -> None: ...

        self.assertIsNone(await action(RequestHandler(), b""))

    @gen_test
    async def test_what_the_action_raises_is_raised_by_the_task(self) -> None:
        @auth
        @unpack("name")
        def action(handler: Any, name: str) -> None:
            raise KeyError(name)

        with self.assertRaisesRegex(KeyError, "Ada"):
            await action(RequestHandler(), "name=Ada")

    @gen_test
    async def test_the_key_may_come_in_either_header_in_either_kind_of_headers(self) -> None:
        @auth
        def action(handler: Any, data: bytes) -> str:
            return str(handler.user_id)

        for headers in (
            {"indico_key": USER_KEY},
            {"Indico_Key": USER_KEY},
            {"INDICO_KEY": USER_KEY},
            {"Authorization": f"Bearer {USER_KEY}"},
            {"authorization": f"bearer {USER_KEY}"},
            {"AUTHORIZATION": f"BEARER   {USER_KEY}"},
            {"indico_key": USER_KEY, "Authorization": "Basic eA=="},
            {"indico_key": USER_KEY, "authorization": "NEGOTIATE  eA=="},
            {"indico_key": USER_KEY, "Authorization": 'Digest username="a", realm="b"'},
            {"indico_key": USER_KEY, "Authorization": "Basic eA==,Basic eA=="},
            {"indico_key": USER_KEY, "Authorization": "AWS4-HMAC-SHA256 Credential=bearer"},
        ):
            for given in (headers, HTTPHeaders(headers)):
                self.assertEqual(await action(RequestHandler(headers=given), b""), USER_ID)

    def test_name_docstring_and_parameters_are_kept(self) -> None:
        def action(handler: Any, data: bytes) -> None:
            """What it does."""

        wrapped = auth(action)
        self.assertEqual((wrapped.__name__, wrapped.__doc__), ("action", "What it does."))
        self.assertIs(wrapped.__wrapped__, action)  # type: ignore[attr-defined]


class AllowTest(StrictTest):
    def test_a_use_that_makes_no_sense_fails_at_import(self) -> None:
        def action(handler: Any, data: bytes) -> None: ...

        wrong: Any
        for wrong in ((), (7,), (["admin"],), (action,)):
            with self.assertRaisesRegex(TypeError, '@allow\\("admin"\\)'):
                allow(*wrong)
        with self.assertRaises(TypeError):
            allow("admin")(auth(action))
        with self.assertRaises(TypeError):
            allow("admin")(allow("admin")(action))

    def test_an_action_keeps_its_name(self) -> None:
        def action(handler: Any, data: bytes) -> None:
            """What it does."""

        wrapped = auth(allow("admin")(action))
        self.assertEqual((wrapped.__name__, wrapped.__doc__), ("action", "What it does."))


class GenerationTest(MongoTest):
    async def is_valid(self, key: str) -> bool:
        return await AuthDB.get_user_id(key) is not None

    async def end(self, key: str, generation: int = 0) -> None:
        """End a login's key, as a logout does."""
        await end_key(key, {"_id": 1, "user_id": USER_ID, "generation": generation, "name": None})

    @gen_test
    async def test_the_key_of_a_generation_is_valid_from_its_start_to_its_end(self) -> None:
        ended = []
        for generation in range(3):
            key = await start_key(USER_ID, generation)
            assert key is not None
            self.assertEqual(key, user_hash(USER_ID, generation))
            self.assertTrue(await self.is_valid(key))
            await self.end(key, generation)
            ended.append(key)
            for old in ended:
                self.assertFalse(await self.is_valid(old))
            self.assertEqual((await AuthDB.find_document(key) or {})["generation"], generation + 1)

    @gen_test
    async def test_a_generation_that_has_ended_does_not_start_again(self) -> None:
        await start_key(USER_ID, 0)
        await self.end(USER_KEY)
        self.assertIsNone(await start_key(USER_ID, 0))
        self.assertFalse(await self.is_valid(USER_KEY))

    @gen_test
    async def test_a_generation_that_has_started_may_start_again(self) -> None:
        self.assertEqual(await start_key(USER_ID, 0), USER_KEY)
        self.assertEqual(await start_key(USER_ID, 0), USER_KEY)
        self.assertEqual(self.database.auth.count_documents({}), 1)

    @gen_test
    async def test_the_end_of_a_key_that_is_not_valid_changes_nothing(self) -> None:
        await start_key(USER_ID, 0)
        await self.end(USER_KEY)
        second = await start_key(USER_ID, 1)
        before = list(self.database.auth.find())
        for key in (USER_KEY, UNKNOWN_KEY, user_hash(USER_ID, 2)):
            await self.end(key)
        self.assertEqual(list(self.database.auth.find()), before)
        self.assertTrue(await self.is_valid(str(second)))

    @gen_test
    async def test_a_key_that_is_ended_twice_at_once_ends_one_generation(self) -> None:
        await start_key(USER_ID, 0)
        await asyncio.gather(*[self.end(USER_KEY) for _ in range(10)])
        self.assertEqual((await AuthDB.find_document(USER_KEY) or {})["generation"], 1)

    @gen_test
    async def test_no_clear_key_is_stored(self) -> None:
        await start_key(USER_ID, 0)
        await self.end(USER_KEY)
        second = str(await start_key(USER_ID, 1))
        stored = str(list(self.database.auth.find()))
        for half in (USER_KEY[:28], USER_KEY[28:], second[28:]):
            self.assertIsNone(re.search(half, stored))


class DevTokenTest(StrictTest):
    def test_it_is_accepted_in_development_alone(self) -> None:
        with mock.patch.object(config, "DEV_TOKEN", "token"):
            self.assertTrue(is_dev_token("token"))
            self.assertFalse(is_dev_token("another"))
            with mock.patch.object(config, "PRODUCTION", True):
                self.assertFalse(is_dev_token("token"))
