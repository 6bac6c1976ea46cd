"""
A plugin of pytest: it keeps the tests that are `slow`, which the README's test command skips, and those of
MODULES, of which some need the extra `check`.
"""

from typing import Any

import indico.tests.testutils

MODULES = ("indico.tests.batteries.test_openapi", "indico.tests.test_deploy")
slow_tests: set[Any] = set()


def slow(test: Any) -> Any:
    slow_tests.add(test)
    return test


indico.tests.testutils.slow = slow


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    others = [
        item
        for item in items
        if item.module.__name__ not in MODULES
        and slow_tests.isdisjoint([item.obj.__func__, *item.cls.__mro__])
    ]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if item not in others]
