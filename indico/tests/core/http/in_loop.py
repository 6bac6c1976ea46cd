"""
HTTP servers of tests that make their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tornado.testing import AsyncHTTPTestCase


def make_in_loop(test: AsyncHTTPTestCase, make: Callable[[Any], Any]) -> Any:
    """Return the server that `make` makes of the test's application, while its event loop runs."""

    async def call() -> Any:
        return make(test._app)

    return test.io_loop.run_sync(call)
