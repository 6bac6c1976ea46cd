"""
Deadlines that share a timer.
"""

from __future__ import annotations

import asyncio
from unittest import mock

from tornado.testing import AsyncTestCase, gen_test

from indico.tests.testutils.strict import StrictTest
from indico.utils.deadlines import call_within


class DeadlineTest(StrictTest, AsyncTestCase):
    @gen_test
    async def test_all_are_called_though_one_fails(self) -> None:
        called = asyncio.Event()
        calls = [mock.Mock(side_effect=OSError("broken")) for _ in range(3)]
        with self.assertLogs("indico", "ERROR") as logged:
            for call in calls:
                call_within(0.01, call)
            call_within(0.3, called.set)
            await called.wait()
        self.assertEqual([call.call_count for call in calls], [1, 1, 1])
        self.assertEqual(len(logged.records), 3)

    @gen_test
    async def test_what_is_discarded_is_not_called(self) -> None:
        called = asyncio.Event()
        call = mock.Mock()
        call_within(0.01, call).discard(call)
        call_within(0.2, called.set)
        await called.wait()
        call.assert_not_called()
