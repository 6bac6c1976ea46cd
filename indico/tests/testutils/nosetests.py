"""
A plugin of nosetests, which setup.py registers.
"""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from nose.plugins import Plugin

PACKAGE = __name__.partition(".")[0]


class SuitePlugin(Plugin):  # type: ignore[misc]
    """Says why tests were skipped, and requires no coverage of a part of the suite."""

    name = f"{PACKAGE}-suite"
    enabled = True

    def options(self, parser: Any, env: Any) -> None:
        """Add no option: the plugin is always on."""

    def configure(self, options: Any, conf: Any) -> None:
        self.conf = conf

    def begin(self) -> None:
        # Loading this plugin imported modules before coverage began. The tests import them again.
        for name in list(sys.modules):
            if name.partition(".")[0] == PACKAGE:
                del sys.modules[name]
        if self.conf.testNames:
            for plugin in self.conf.plugins:
                if plugin.name == "coverage":
                    plugin.coverMinPercentage = None

    def finalize(self, result: Any) -> None:
        reasons = Counter(str(reason) for _, reason in result.skipped)
        for reason, count in reasons.most_common():
            result.stream.writeln(f"skipped {count}: {reason}")
