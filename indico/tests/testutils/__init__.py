"""
What tests are built on: `server.ServerTest` for routes, `mongo.MongoTest` for database helpers, and
`strict.StrictTest` for all else.
"""

import os
import unittest
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Any)


def slow(test: Test) -> Test:
    """
    A test, or a class of tests, that takes a third of a second or more and runs no line that no other runs.
    It runs when SLOW_TESTS is set, as .ci/run does.
    """
    if os.environ.get("SLOW_TESTS"):
        return test
    if isinstance(test, type):
        setattr(test, "setUpClass", classmethod(lambda cls: None))  # noqa: B010 - nose would run it
        setattr(test, "tearDownClass", classmethod(lambda cls: None))  # noqa: B010
    return unittest.skip("slow: set SLOW_TESTS to run it")(test)
