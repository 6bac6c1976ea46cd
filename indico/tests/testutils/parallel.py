"""
A plugin of nosetests, which setup.py registers: several processes share the tests.
"""

from __future__ import annotations

import functools
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coverage import Coverage
from nose.failure import Failure
from nose.plugins import Plugin
from nose.plugins.multiprocess import TestLet


class ParallelPlugin(Plugin):  # type: ignore[misc]
    """
    Runs the whole suite in as many processes as `numprocesses` in setup.cfg says. Each process takes the next
    class of tests that no other has taken. A part of the suite runs in one process.

    The plugin `multiprocess` of pynose starts and saves coverage for each test. That takes most of the time
    that a second process saves.
    """

    name = "parallel"

    def options(self, parser: Any, env: Any) -> None:
        parser.add_option("--numprocesses", type=int, default=1, help="how many processes share the tests")

    def configure(self, options: Any, conf: Any) -> None:
        self.conf = conf
        self.count = options.numprocesses
        self.enabled = self.count > 1 and not conf.testNames

    def prepareTest(self, suite: Any) -> Callable[[Any], None]:
        return functools.partial(self.run, suite)

    def run(self, suite: Any, result: Any) -> None:
        """Run the suite in all processes. `result` gets the results of all."""
        self.folder = Path(tempfile.mkdtemp())
        children = []
        for _ in range(1, self.count):
            child = os.fork()
            if child == 0:
                self.run_child(suite, result)
            children.append(child)
        try:
            suite(result)
        finally:
            for child in children:
                self.add_results(child, result)
            shutil.rmtree(self.folder)

    def run_child(self, suite: Any, result: Any) -> None:
        """Run the suite, and leave the results in a file named by the pid. Ends the process."""
        coverage = None
        for plugin in self.conf.plugins:
            if plugin.name == "coverage":
                plugin.coverInstance.stop()
                coverage = Coverage()  # with a data file of its own, which the parent combines with its own
                coverage.start()
        try:
            suite(result)
        finally:
            if coverage:
                coverage.stop()
                coverage.save()
            lists = [[(TestLet(test), text) for test, text in each] for each in get_lists(result)]
            (self.folder / str(os.getpid())).write_bytes(pickle.dumps((result.testsRun, lists)))
            sys.exit()

    def add_results(self, child: int, result: Any) -> None:
        """Wait for a child, and add its results to the parent's. A child that left none is an error."""
        _, status = os.waitpid(child, 0)
        try:
            count, lists = pickle.loads((self.folder / str(child)).read_bytes())
        except FileNotFoundError:
            Failure(RuntimeError, RuntimeError(f"a process of the tests ended with status {status}"))(result)
            return
        result.testsRun += count
        for ours, theirs in zip(get_lists(result), lists):
            ours.extend(theirs)

    def prepareTestCase(self, test: Any) -> Callable[[Any], None] | None:
        """Return None to run the test, or a function that does not run it."""
        case = type(test.test)
        return None if self.take(f"{case.__module__}.{case.__qualname__}") else lambda result: None

    @functools.cache  # noqa: B019 - there is one plugin, until the end
    def take(self, name: str) -> bool:
        """Return whether this process took the class of this name first."""
        try:
            (self.folder / name).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def get_lists(result: Any) -> tuple[list[tuple[Any, str]], ...]:
    return result.errors, result.failures, result.skipped
