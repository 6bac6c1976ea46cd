"""
Strict tests fail on unexpected errors and warnings. Each test here runs such a test.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import unittest
import warnings
from collections.abc import Callable

from tornado.testing import AsyncTestCase

from indico.tests.testutils.strict import StrictTest

LOGGER = logging.getLogger("indico.tests.strict")


def run(body: Callable[[unittest.TestCase], object]) -> unittest.TestResult:
    """Run a strict test with this body, and return its result."""

    class InnerTest(StrictTest):
        def test(self) -> None:
            body(self)

    result = unittest.TestResult()
    InnerTest("test").run(result)
    return result


class StrictTestTest(StrictTest):
    def assert_passes(self, result: unittest.TestResult) -> None:
        self.assertEqual(result.testsRun, 1)
        self.assertEqual(result.errors + result.failures, [])

    def assert_fails(self, result: unittest.TestResult, *complaints: str) -> None:
        [(_, report)] = result.errors + result.failures
        for complaint in complaints:
            self.assertIn(complaint, report)

    def test_it_passes_when_nothing_unexpected_happens(self) -> None:
        self.assert_passes(run(lambda test: test.assertTrue(True)))

    def test_it_fails_on_a_log_line_at_error(self) -> None:
        with self.assertLogs(level=logging.ERROR):
            result = run(lambda test: LOGGER.error("%d pipes burst", 3))
        self.assert_fails(result, "3 pipes burst")

    def test_it_fails_on_every_log_line_at_error(self) -> None:
        def body(test: unittest.TestCase) -> None:
            LOGGER.critical("the first")
            logging.getLogger("another").error("the second")

        with self.assertLogs(level=logging.ERROR):
            result = run(body)
        self.assert_fails(result, "the first", "another: the second")

    def test_it_passes_on_a_log_line_at_warning(self) -> None:
        with self.assertLogs(level=logging.WARNING):
            result = run(lambda test: LOGGER.warning("a drop"))
        self.assert_passes(result)

    def test_it_passes_on_a_log_line_at_error_that_the_test_expects(self) -> None:
        def body(test: unittest.TestCase) -> None:
            for name in (LOGGER.name, "indico", None):
                with test.assertLogs(name, logging.ERROR):
                    LOGGER.error("expected")

        self.assert_passes(run(body))

    def test_it_fails_on_a_log_line_at_error_after_the_one_that_the_test_expects(self) -> None:
        def body(test: unittest.TestCase) -> None:
            with test.assertLogs(LOGGER, logging.ERROR):
                LOGGER.error("expected")
            LOGGER.error("too late")

        with self.assertLogs(level=logging.ERROR):
            result = run(body)
        self.assert_fails(result, "too late")

    def test_it_fails_on_a_warning(self) -> None:
        for category in (UserWarning, DeprecationWarning, ResourceWarning):

            def body(test: unittest.TestCase, category: type[Warning] = category) -> None:
                warnings.warn("mind the gap", category, stacklevel=1)

            self.assert_fails(run(body), f"{category.__name__}: mind the gap")

    def test_it_fails_on_a_coroutine_that_is_never_awaited(self) -> None:
        async def forgotten() -> None: ...

        self.assert_fails(run(lambda test: forgotten()), "forgotten", "was never awaited")

    def test_it_fails_on_a_socket_that_is_never_closed(self) -> None:
        self.assert_fails(run(lambda test: socket.socket()), "ResourceWarning", "socket.socket")

    def test_it_fails_on_garbage_that_only_the_collector_finds(self) -> None:
        def body(test: unittest.TestCase) -> None:
            circle: list[object] = [socket.socket()]
            circle.append(circle)

        self.assert_fails(run(body), "ResourceWarning", "socket.socket")

    def test_it_fails_on_a_finalizer_that_fails(self) -> None:
        class Fragile:
            def __del__(self) -> None:
                raise KeyError("broken in the fall")

        self.assert_fails(run(lambda test: Fragile()), "broken in the fall")

    def test_it_fails_on_a_task_whose_error_nobody_looked_at(self) -> None:
        class InnerTest(StrictTest, AsyncTestCase):
            def test(self) -> None:
                async def main() -> None:
                    task = asyncio.ensure_future(fail())
                    await asyncio.wait([task])

                async def fail() -> None:
                    raise KeyError("overlooked")

                self.io_loop.run_sync(main)

        result = unittest.TestResult()
        with self.assertLogs("asyncio", logging.ERROR):
            # The logger's lines reach the inner test too, as they would without this one.
            logging.getLogger("asyncio").propagate = True
            with self.assertLogs(level=logging.ERROR):
                InnerTest("test").run(result)
        self.assert_fails(result, "Task exception was never retrieved")

    def test_it_fails_on_what_is_wrong_besides_when_the_test_fails_anyway(self) -> None:
        def body(test: unittest.TestCase) -> None:
            LOGGER.error("the cause")
            test.fail("the effect")

        with self.assertLogs(level=logging.ERROR):
            result = run(body)
        reports = "".join(report for _, report in result.failures)
        self.assertIn("the effect", reports)
        self.assertIn("the cause", reports)

    def test_it_leaves_logging_warnings_and_hooks_as_they_were(self) -> None:
        def look() -> tuple[object, ...]:
            return [*logging.getLogger().handlers], [*warnings.filters], sys.unraisablehook

        before = look()
        seen = []

        def body(test: unittest.TestCase) -> None:
            seen.append(look())
            warnings.simplefilter("ignore")
            test.fail()

        self.assertEqual(len(run(body).failures), 1)
        self.assertNotEqual(seen, [before])
        self.assertEqual(look(), before)
