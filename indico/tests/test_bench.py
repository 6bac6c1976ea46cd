"""
The benchmark runs, where what it measures with is installed.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path
from unittest import mock

import indico
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import linux, make_environment
from indico.tests.testutils.strict import StrictTest

ROOT = Path(indico.__file__).parents[1]
MISSING = [tool for tool in ("wrk", "taskset") if shutil.which(tool) is None]


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@slow
@linux
class LayersTest(DatabaseTest):
    def test_its_steps_and_operations_are_those_of_this_version(self) -> None:
        layers = importlib.import_module("bench.layers")

        self.database.user.insert_many({"user_id": f"facebook{number}"} for number in range(32))
        with mock.patch.multiple(layers, OPERATIONS=32, TURNS=1):
            names = [name for name, *_ in asyncio.run(layers.run_operations())]
        self.assertEqual(len(names), 4)
        for finding in layers.measure_steps():
            self.assertRegex(finding.measured, r"^[0-9.]+ µs$")


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
            self.assertGreater(float(row.split()[1]), 0)  # processor time
        self.assertRegex(done.stdout, r"\necho: indico against tornado/motor: 0\.\d\d  \(at most 0\.25\)")
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


@slow
@linux
class BatteriesTest(DatabaseTest):
    def run_jobs(self, module: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, "20"],
            cwd=ROOT,
            env=make_environment({}),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(float(done.stdout.split()[-1]), 0)  # jobs a second

    def test_our_worker_runs_a_few_jobs(self) -> None:
        self.run_jobs("bench.jobs")

    @unittest.skipIf(importlib.util.find_spec("taskiq_mongodb") is None, "not installed: bench/req.txt")
    def test_a_worker_of_taskiq_runs_a_few_jobs(self) -> None:
        self.run_jobs("bench.peers.taskiq_mongodb")

    @unittest.skipIf(MISSING, f"not installed: {', '.join(MISSING)}")
    def test_a_quick_run_measures_what_batteries_add(self) -> None:
        done = run_bench("batteries", "--quick", "--rounds", "1")
        self.assertEqual((done.returncode, done.stderr), (0, ""), done.stdout)
        rates = re.findall(r"µs, (\d+) a second", done.stdout)
        self.assertEqual((len(rates), rates.count("0")), (5, 0), done.stdout)
