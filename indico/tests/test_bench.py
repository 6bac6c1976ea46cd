"""
The benchmark runs, where what it measures with is installed.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import unittest
from pathlib import Path

import indico
from indico.tests.testutils import slow
from indico.tests.testutils.process import linux
from indico.tests.testutils.strict import StrictTest

ROOT = Path(indico.__file__).parents[1]
MISSING = [tool for tool in ("wrk", "taskset") if shutil.which(tool) is None]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@slow
@linux
class BenchTest(StrictTest):
    @unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")
    @unittest.skipIf(importlib.util.find_spec("fiftyone") is None and not shutil.which("mongod"), "no mongod")
    def test_a_quick_run_compares_echo_of_our_server_and_bare_tornado(self) -> None:
        before = {path: path.stat().st_mtime for path in (ROOT / "docs").iterdir()}
        done = run_bench("compare", "--quick", "--only", "echo", "--servers", "indico,tornado")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        for name in ("indico ", "tornado/motor "):
            [row] = [line for line in done.stdout.splitlines() if line.startswith(name)]
            self.assertGreater(float(row.split()[1]), 0)  # requests a second
        after = {path: path.stat().st_mtime for path in (ROOT / "docs").iterdir()}
        self.assertEqual(after, before)

    def test_an_unknown_kind_is_one_sentence(self) -> None:
        done = run_bench("speed")
        self.assertEqual(done.returncode, 2)
        self.assertIn("there is no speed", done.stderr)

    def test_a_tool_that_is_missing_is_one_sentence(self) -> None:
        environment = {**os.environ, "PATH": "/nowhere"}
        command = [sys.executable, "-m", "bench"]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        self.assertEqual(done.stderr, "wrk is not on PATH: apt-get install wrk\n")
        self.assertEqual(done.returncode, 1)
