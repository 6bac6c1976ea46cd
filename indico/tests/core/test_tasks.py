"""
Coroutines that run whether or not they are awaited.
"""

from __future__ import annotations

import asyncio

from tornado.testing import AsyncTestCase, gen_test

from indico.core.tasks import Prompt
from indico.tests.testutils.strict import StrictTest


class PromptTest(StrictTest, AsyncTestCase):
    async def find_task(self) -> asyncio.Task[None] | None:
        return asyncio.current_task()

    @gen_test
    async def test_it_runs_in_the_task_that_awaits_it(self) -> None:
        self.assertIs(await Prompt(self.find_task()), asyncio.current_task())

    @gen_test
    async def test_it_runs_though_nothing_awaits_it(self) -> None:
        ran = asyncio.Event()

        async def run() -> str:
            ran.set()
            return "done"

        prompt = Prompt(run())
        await ran.wait()
        self.assertEqual(await prompt, "done")

    @gen_test
    async def test_what_it_raises_is_raised_where_it_is_awaited(self) -> None:
        async def fail() -> None:
            raise ValueError("broken")

        with self.assertRaisesRegex(ValueError, "broken"):
            await Prompt(fail())
