"""
Start-up work: it is tried again until it is done, and the server is not ready before.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from unittest import mock

from tornado.testing import AsyncTestCase, gen_test

from indico import db
from indico.core.startup import StartupTask
from indico.error import MongoError, Unavailable
from indico.tests.testutils import slow
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest

AWAY = Unavailable("The database can't be reached")


class StartupTaskTest(StrictTest, AsyncTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.missing: set[str] = set()
        self.task = StartupTask("Indexes", self.missing)
        self.pauses: list[float] = []

    async def run_task(self, *outcomes: Any) -> mock.AsyncMock:
        """Run it with an attempt of these outcomes, without waiting."""

        async def sleep(seconds: float) -> None:
            self.pauses.append(seconds)

        attempt = mock.AsyncMock(side_effect=outcomes)
        with mock.patch("asyncio.sleep", sleep):
            await self.task.run(attempt)
        return attempt

    @gen_test
    async def test_it_is_tried_until_it_succeeds_whatever_the_cause(self) -> None:
        causes = [AWAY, MongoError("No index"), OSError(28, "full"), KeyError("kid"), TimeoutError()]
        with self.assertLogs("indico", "INFO") as logs:
            attempt = await self.run_task(*causes, None)
        self.assertEqual(attempt.call_count, 6)
        self.assertEqual(
            logs.output,
            [
                f"WARNING:indico:Indexes: {AWAY.message}. This is tried again until it succeeds",
                "INFO:indico:Indexes: done",
            ],
        )

    @gen_test
    async def test_the_cause_of_a_failure_is_logged(self) -> None:
        for error, text in (
            (OSError(28, "full"), "OSError(28, 'full')"),
            (self.make_caused(), "No (KeyError('a'))"),
        ):
            with self.subTest(text), self.assertLogs("indico", "INFO") as logs:
                await self.run_task(error, None)
            self.assertIn(f"Indexes: {text}. This is tried", logs.output[0])

    def make_caused(self) -> MongoError:
        error = MongoError("No")
        error.__cause__ = KeyError("a")
        return error

    @gen_test
    async def test_its_pauses_grow_and_are_longer_if_a_person_has_to_do_something(self) -> None:
        with self.assertLogs("indico"):
            await self.run_task(*[AWAY] * 9, None)
        self.assertEqual(self.pauses, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5, 5])
        self.pauses.clear()
        with self.assertLogs("indico"):
            await self.run_task(*[MongoError("No index")] * 12, None)
        self.assertEqual(self.pauses[-3:], [51.2, 60, 60])

    @gen_test
    async def test_it_is_missing_until_it_is_done_and_tried_after_the_first_attempt(self) -> None:
        self.assertEqual((self.missing, self.task.tried.is_set()), ({"Indexes"}, False))
        with self.assertLogs("indico"):
            self.task.fail(AWAY)
            self.assertEqual((self.missing, self.task.tried.is_set()), ({"Indexes"}, True))
            self.task.succeed()
        self.assertEqual(self.missing, set())

    @gen_test
    async def test_what_succeeds_at_once_is_not_logged(self) -> None:
        with self.assertNoLogs("indico"):
            await self.run_task(None)


class ReadyTest(ServerTest):
    """A server whose first attempts to make the indexes fail."""

    def setUp(self) -> None:
        self.can_build = asyncio.Event()
        make = db.ensure_indexes

        async def ensure_indexes() -> None:
            if not self.can_build.is_set():
                raise MongoError("No index on user_id of user: duplicate key")
            await make()

        with (
            mock.patch.object(db, "ensure_indexes", ensure_indexes),
            self.assertLogs("indico", "WARNING") as logs,
        ):
            super().setUp()
        [self.line] = logs.output

    def ask(self) -> Any:
        return json.loads(self.fetch("/health/ready").body)

    @slow
    def test_the_server_serves_and_is_ready_only_when_the_indexes_are_there(self) -> None:
        self.assertIn("Indexes: No index on user_id of user: duplicate key. This is tried again", self.line)
        self.assertEqual(self.ask(), {"status": 503, "data": "Not done yet: Indexes"})
        self.can_build.set()

        async def wait() -> None:
            while self._app.state.missing:
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(wait, timeout=10)
        self.assertEqual(self.ask(), {"status": 200, "data": True})
        self.assertTrue(self.database.user.index_information()["user_id_1"]["unique"])
