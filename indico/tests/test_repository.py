"""
What the repository has for those who work on it, and that a copy has what it needs of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from indico.core.commands.new.project import make_project
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import NOT_COVERED, ROOT, needs, needs_checkout
from indico.tests.testutils.strict import StrictTest

WORKFLOW = ".github/workflows/test.yml"


class RepositoryTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        needs_checkout(self)

    def read(self, path: str) -> str:
        return (ROOT / path).read_text(encoding="utf-8")

    def test_the_workflow_tests_on_each_python_that_setup_py_names(self) -> None:
        [versions] = re.findall(r"^ +python: \[(.*)\]$", self.read(WORKFLOW), re.MULTILINE)
        named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', self.read("setup.py"))
        self.assertEqual(re.findall(r'"(.+?)"', versions), named)

    def test_the_workflow_checks_what_a_copy_checks(self) -> None:
        template = self.read("indico/core/commands/new/project/templates/ci_run.txt")
        for command in template.splitlines()[6:]:
            with self.subTest(command):
                self.assertIn(f"      - run: {command}\n", self.read(WORKFLOW))

    def test_pre_commit_runs_ruff_and_mypy_which_come_with_dev(self) -> None:
        [dev] = re.findall(r'"dev": \[(.*?)\n        \]', self.read("setup.py"), re.DOTALL)
        programs = set(re.findall(r"^ +entry: (\w+)", self.read(".pre-commit-config.yaml"), re.MULTILINE))
        self.assertEqual(programs, {"ruff", "mypy"})
        for program in programs:
            self.assertIn(f'"{program}>=', dev)

    def test_docker_gets_all_that_the_dockerfile_copies(self) -> None:
        copied = re.findall(r"^COPY (?!--from)(.*) \S+$", self.read("deploy/Dockerfile"), re.MULTILINE)
        allowed = re.findall("^!(.*)$", self.read(".dockerignore"), re.MULTILINE)
        self.assertEqual(sorted(name for names in copied for name in names.split()), sorted(allowed))

    def test_every_path_and_module_that_agents_md_names_is_there(self) -> None:
        text = self.read("AGENTS.md")
        self.assertLess(len(text.splitlines()), 50)
        paths = re.findall(r"`([\w./]+(?:/|\.py|\.rst))`", text)
        paths += [f"{module.replace('.', '/')}.py" for module in re.findall(r"-m (indico[\w.]+)", text)]
        paths = [path for path in paths if not (ROOT / path.removesuffix(".py") / "__main__.py").exists()]
        self.assertGreater(len(paths), 8)
        for path in paths:
            self.assertTrue((ROOT / path).exists(), path)

    @slow
    def test_workflow_and_dependabot_follow_their_schemas(self) -> None:
        needs(self, "check_jsonschema")
        for schema, path in (("github-workflows", WORKFLOW), ("dependabot", ".github/dependabot.yml")):
            with self.subTest(path):
                self.run_program(
                    sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", path
                )

    @slow
    def test_actionlint_finds_nothing(self) -> None:
        if shutil.which("actionlint") is None:
            self.skipTest("actionlint is not installed")
        self.run_program("actionlint", WORKFLOW)

    def run_program(self, *command: str) -> None:
        run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertEqual(run.returncode, 0, run.stdout)


@slow
class CopyTest(StrictTest):
    def test_run_passes_in_a_copy(self) -> None:
        needs_checkout(self)
        folder = Path(self.enterContext(tempfile.TemporaryDirectory(prefix="indico-test-"))).resolve()
        make_project(folder / "shop")
        copy = folder / "shop"
        self.assertEqual([path.name for path in (copy / ".ci").iterdir()], ["run"])
        settings = ("PATH", "HOME", "LANG", "TMPDIR")
        environment = {
            name: value
            for name, value in os.environ.items()
            if name in settings or name.lower().startswith(("pip_", "http_", "https_", "no_", "ssl_"))
        }
        environment["PATH"] = f"{sys.base_prefix}/bin:{environment['PATH']}"  # of no other environment
        run = subprocess.run(
            [".ci/run"],
            cwd=copy,
            env={**environment, **NOT_COVERED},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if "No matching distribution" in run.stdout:
            self.skipTest("the package index can't be reached")
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertRegex(run.stdout, r"\nRan \d+ tests in ")
