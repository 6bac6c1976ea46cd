"""
Base classes of tests: `ServerTest` for routes, `MongoTest` for database helpers, and `StrictTest`.
"""

import os
import unittest
from typing import Any, TypeVar

Test = TypeVar("Test", bound=Any)


def slow(test: Test) -> Test:
    """
    Mark a test or a class of tests as slow: it takes a tenth of a second or more, and other tests cover its
    lines too. It is skipped unless SLOW_TESTS is set, as in .ci/run.
    """
    if os.environ.get("SLOW_TESTS"):
        return test
    if isinstance(test, type):
        setattr(test, "setUpClass", classmethod(lambda cls: None))  # noqa: B010 - nose would run it
        setattr(test, "tearDownClass", classmethod(lambda cls: None))  # noqa: B010
    return unittest.skip("slow: set SLOW_TESTS to run it")(test)
