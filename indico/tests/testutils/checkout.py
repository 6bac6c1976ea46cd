"""
Copies of this checkout, for tests that change one.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import indico
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import make_environment

ROOT = Path(indico.__file__).parents[1]
NOT_COPIED = (
    ".git",
    ".coverage*",
    ".indico",
    ".venv*",
    ".*_cache",
    "__pycache__",
    "_build",
    "build",
    "dist",
    "*.egg-info",
)
# Code in the copies does not count in this checkout's coverage.
NOT_COVERED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}


def needs_checkout(test: unittest.TestCase) -> None:
    if not (ROOT / "docs").is_dir():
        test.skipTest("there is no docs/: the package is installed without its checkout")


def needs(test: unittest.TestCase, *modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            test.skipTest(f"{module} is not installed")


def copy_checkout(folder: Path) -> None:
    """Copy this checkout, with uncommitted changes, into an existing folder."""
    shutil.copytree(ROOT, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*NOT_COPIED))


def run_python(test: unittest.TestCase, folder: Path, *arguments: str, **settings: str) -> str:
    """Run Python in a copy, with the copy's package. It has to succeed. Returns its output."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=make_environment({"PYTHONPATH": str(folder), **NOT_COVERED, **settings}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    test.assertEqual(result.returncode, 0, result.stdout)
    return result.stdout


def run_alone(test: unittest.TestCase, folder: Path, *command: str, **settings: str) -> str:
    """Run a command in a copy, with these settings and no packages of this suite's. It has to succeed."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name in kept or name.lower().startswith(("pip_", "http_", "https_", "no_", "ssl_"))
    }
    environment["PATH"] = f"{sys.base_prefix}/bin:{environment['PATH']}"  # of no other environment
    result = subprocess.run(
        command,
        cwd=folder,
        env={**environment, **NOT_COVERED, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if "No matching distribution" in result.stdout:
        test.skipTest("the package index can't be reached")
    test.assertEqual(result.returncode, 0, result.stdout)
    return result.stdout


class CheckoutTest(DatabaseTest):
    """A test in a copy of this checkout, `self.copy`."""

    def setUp(self) -> None:
        super().setUp()
        needs_checkout(self)
        folder = tempfile.TemporaryDirectory(prefix="indico-copy-")
        self.addCleanup(folder.cleanup)
        self.copy = Path(folder.name).resolve()
        copy_checkout(self.copy)

    def run_python(self, *arguments: str, **settings: str) -> str:
        return run_python(self, self.copy, *arguments, **settings)

    def needs(self, *modules: str) -> None:
        needs(self, *modules)
