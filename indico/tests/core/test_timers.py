"""
Deadlines that share a timer.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from unittest import mock

from tornado.testing import AsyncTestCase, gen_test

from indico.core.timers import call_after
from indico.tests.testutils import slow
from indico.tests.testutils.strict import StrictTest


class DeadlineTest(StrictTest, AsyncTestCase):
    @gen_test
    async def test_all_are_called_though_one_fails(self) -> None:
        called = asyncio.Event()
        calls = [mock.Mock(side_effect=OSError("broken")) for _ in range(3)]
        with self.assertLogs("indico", "ERROR") as logged:
            for call in calls:
                call_after(0.01, call)
            call_after(0.3, called.set)
            await called.wait()
        self.assertEqual([call.call_count for call in calls], [1, 1, 1])
        self.assertEqual(len(logged.records), 3)

    @slow
    @gen_test
    async def test_a_timer_that_is_cancelled_does_not_call(self) -> None:
        called = asyncio.Event()
        call = mock.Mock()
        call_after(0.01, call).cancel()
        call_after(0.2, called.set)
        await called.wait()
        call.assert_not_called()

    @gen_test
    async def test_nothing_is_called_in_the_context_of_who_was_first(self) -> None:
        called = asyncio.Event()
        seen: list[object] = []
        variable: ContextVar[str] = ContextVar("variable", default="nobody's")
        variable.set("the first one's")
        call_after(0.01, lambda: seen.append(variable.get()))
        call_after(0.01, called.set)
        await called.wait()
        self.assertEqual(seen, ["nobody's"])

    @slow
    @gen_test
    async def test_those_far_off_share_timers_too_and_are_hardly_late(self) -> None:
        loop = asyncio.get_running_loop()
        timers: set[float] = set()
        with mock.patch.object(loop, "call_at", side_effect=lambda when, *_, **__: timers.add(when)):
            for now in range(0, 3600, 10):
                with mock.patch.object(loop, "time", return_value=now):
                    call_after(24 * 3600, mock.Mock())
                self.assertTrue(any(1 <= when / (now + 24 * 3600) < 1.01 for when in timers))
        self.assertLess(len(timers), 50)
