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


def is_wanted(item: Any) -> bool:
    if item.module.__name__ in MODULES:
        return True
    return not slow_tests.isdisjoint([item.obj.__func__, *item.cls.__mro__])


def pytest_collection_modifyitems(config: Any, items: list[Any]) -> None:
    config.hook.pytest_deselected(items=[item for item in items if not is_wanted(item)])
    items[:] = [item for item in items if is_wanted(item)]
