"""
What the repository has for those who work on it, and that a copy has what it needs of it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from indico.projects import make_project
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import ROOT, needs, needs_checkout, run_alone
from indico.tests.testutils.strict import StrictTest

WORKFLOW = ".github/workflows/test.yml"
DEPENDABOT = ".github/dependabot.yml"


def list_missing_paths(root: Path, package: str) -> list[str]:
    """Return the paths and modules that AGENTS.md names and that are not there."""
    text = (root / "AGENTS.md").read_text(encoding="utf-8")
    paths = re.findall(r"`([\w./]+(?:/|\.py|\.rst))`", text)
    paths += [f"{module.replace('.', '/')}.py" for module in re.findall(rf"-m ({package}[\w.]+)", text)]
    return [path for path in paths if not (root / path).exists()]


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
        template = self.read("indico/projects/templates/ci_run.txt")
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
        self.assertLess(len(self.read("AGENTS.md").splitlines()), 50)
        self.assertGreater(self.read("AGENTS.md").count("`indico/"), 7)
        self.assertEqual(list_missing_paths(ROOT, "indico"), [])

    @slow
    def test_workflow_and_dependabot_follow_their_schemas(self) -> None:
        needs(self, "check_jsonschema")
        for schema, path in (("github-workflows", WORKFLOW), ("dependabot", DEPENDABOT)):
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
        self.assertRegex(run_alone(self, copy, ".ci/run"), r"\nRan \d+ tests in ")
