"""
The guide does what it says: its code is run as printed, its answers are compared, its tables are complete.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import indico
from indico import config
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import ServerProcess, make_environment
from indico.tests.testutils.strict import StrictTest

ROOT = Path(indico.__file__).parents[1]
DOCS = ROOT / "docs"
COPIED = ("setup.cfg", "setup.py", "req.txt", "pyproject.toml", "README.md")
SERVER = "indico/server.py"
VARYING = ("_id", "created", "indico_key")  # what differs from run to run
# What the copies run is no part of this checkout's coverage.
NOT_COVERED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}


class Block(NamedTuple):
    """A code block of a page."""

    language: str
    path: str  # its caption, or nothing
    code: str


def read_blocks(page: str, language: str = "python") -> list[Block]:
    """The code blocks of README.md, or of a page of the guide, as whoever copies them gets them."""
    if page == "README.md":
        found = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
        blocks = [Block(name, "", code) for name, code in found]
    else:
        found = re.findall(
            r"^\.\. code-block:: (\w+)\n(?:   :caption: (\S+)\n)?\n((?:   .*\n|\n)+)",
            (DOCS / page).read_text() + "\n",
            re.MULTILINE,
        )
        blocks = [Block(name, path, textwrap.dedent(code).strip() + "\n") for name, path, code in found]
    return [block for block in blocks if block.language == language]


def read_files(*pages: str) -> dict[str, str]:
    """The files that these pages have their reader write."""
    return {block.path: block.code for page in pages for block in read_blocks(page) if block.path}


def name_modules(files: dict[str, str], below: str) -> list[str]:
    return [path[:-3].replace("/", ".") for path in files if path.startswith(below)]


def normalise(text: str) -> Any:
    """An answer without what varies, its fields in their order."""
    return json.loads(text, object_pairs_hook=lambda pairs: [p for p in pairs if p[0] not in VARYING])


def needs_docs(test: unittest.TestCase) -> None:
    if not DOCS.is_dir():
        test.skipTest("docs/ is not there: the package is installed, and not a checkout")


class PagesTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        needs_docs(self)

    def test_python_blocks_compile(self) -> None:
        pages = ["README.md", *sorted(path.name for path in DOCS.glob("*.rst"))]
        blocks = [(page, block) for page in pages for block in read_blocks(page)]
        self.assertGreater(len(blocks), 10)
        for page, block in blocks:
            compile(block.code, page, "exec")

    def test_the_first_route_takes_at_most_60_lines(self) -> None:
        lines = "".join(read_files("first_route.rst").values()).splitlines()
        self.assertLessEqual(len([line for line in lines if line.strip()]), 60)

    def test_readme_and_quick_start_say_the_same(self) -> None:
        for language in ("sh", "console"):
            shown = [block.code for block in read_blocks("README.md", language)]
            for block in read_blocks("quickstart.rst", language)[:3]:
                self.assertIn(block.code, shown)

    def test_every_test_that_the_security_page_names_exists(self) -> None:
        needs_docs(self)
        names = re.findall(r"``((?:\w+\.)*test_\w+(?:\.\w+)?)``", (DOCS / "security.rst").read_text())
        self.assertGreater(len(names), 20)
        for name in names:
            with self.subTest(name):
                module, test = re.fullmatch(r"(.*?\btest_\w+)(?:\.(\w+))?", name).groups()  # type: ignore[union-attr]
                source = (ROOT / "indico/tests" / module.replace(".", "/")).with_suffix(".py").read_text()
                self.assertIn(f"\nclass {test}(" if test else "\nclass ", source)

    def test_readme_and_routes_have_the_same_action(self) -> None:
        self.assertEqual(read_blocks("README.md")[0].code, read_files("routes.rst")["indico/routes/name.py"])


class SettingsTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        needs_docs(self)
        rows = re.findall(r"^   \* - ``([A-Z_]+)``\n     - (.*)$", (DOCS / "settings.rst").read_text(), re.M)
        self.defaults = {name: "" if text == "none" else text.strip("`") for name, text in rows}

    def test_every_setting_has_a_row_and_every_row_a_setting(self) -> None:
        source = (ROOT / "indico/config.py").read_text()
        self.assertEqual(
            sorted(re.findall(r"environment\.\w+\(\s*\"([A-Z_]+)\"", source)), sorted(self.defaults)
        )

    def test_the_defaults_in_the_environment_change_nothing(self) -> None:
        script = (
            "from indico import config; "
            "print({name: value for name, value in vars(config).items() if name.isupper()})"
        )
        shown = [
            subprocess.check_output([sys.executable, "-c", script], cwd=ROOT, env=environment, text=True)
            for environment in ({}, self.defaults)
        ]
        self.assertEqual(*shown)
        for name in self.defaults:
            self.assertIn(f"'{name}': ", shown[0])

    def test_a_setting_that_makes_no_sense_stops_the_start_as_printed(self) -> None:
        command, sentence = read_blocks("settings.rst", "console")[0].code.splitlines()
        self.assertEqual(command, "$ PORT=eighty python -m indico.server")
        server = subprocess.run(
            [sys.executable, "-m", "indico.server"],
            env=make_environment({"PORT": "eighty"}),
            capture_output=True,
            text=True,
        )
        self.assertEqual((server.returncode, server.stderr.strip()), (1, sentence))


class CopyTest(DatabaseTest):
    """A test in a copy of this checkout, in which what the pages say was done."""

    def setUp(self) -> None:
        super().setUp()
        needs_docs(self)
        folder = tempfile.TemporaryDirectory(prefix="indico-docs-")
        self.addCleanup(folder.cleanup)
        self.copy = Path(folder.name).resolve()
        leave = shutil.ignore_patterns("__pycache__", "_build")
        for name in ("indico", "docs"):
            shutil.copytree(ROOT / name, self.copy / name, ignore=leave)
        for name in COPIED:
            shutil.copy(ROOT / name, self.copy)

    def write(self, files: dict[str, str]) -> None:
        for path, code in files.items():
            if path == SERVER:
                self.add_route(code)
            else:
                self.assertFalse((self.copy / path).exists(), path)
                (self.copy / path).write_text(code)

    def add_route(self, code: str) -> None:
        new_import, new_routes = code.splitlines()
        text = (self.copy / SERVER).read_text()
        routes = re.findall(r"^ROUTES: .*$", text, re.MULTILINE)[0]
        self.assertEqual(new_routes, f"{routes[:-1]}, {new_import.split()[-1]}]")
        neighbour = "from indico.routes.user import"
        self.assertIn(neighbour, text)
        text = text.replace(neighbour, f"{new_import}\n{neighbour}").replace(routes, new_routes)
        (self.copy / SERVER).write_text(text)

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy, and on it; it has to succeed."""
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.copy,
            env=make_environment({"PYTHONPATH": str(self.copy), **NOT_COVERED}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(result.returncode, 0, result.stdout)
        return result

    def run_modules(self, files: dict[str, str], *before: str) -> None:
        output = self.run_python(*before, "-m", "unittest", *name_modules(files, "indico/tests/")).stdout
        count = sum(code.count("def test_") for code in files.values())
        self.assertGreater(count, 0)
        self.assertIn(f"Ran {count} tests", output)

    def needs(self, *modules: str) -> None:
        for module in modules:
            if importlib.util.find_spec(module) is None:
                self.skipTest(f"{module} is not installed")

    def test_the_first_route_passes_its_tests(self) -> None:
        files = read_files("first_route.rst")
        self.write(files)
        self.run_modules(files)

    def test_the_first_route_is_covered_whole(self) -> None:
        self.needs("coverage")
        files = read_files("first_route.rst")
        self.write(files)
        options = (f"--rcfile={os.devnull}", f"--data-file={self.copy / '.coverage'}")
        self.run_modules(files, "-m", "coverage", "run", *options, "--branch")
        paths = [path for path in files if path != SERVER and "/tests/" not in path]
        report = ("-m", "coverage", "report", *options, "--fail-under=100", f"--include={','.join(paths)}")
        output = self.run_python(*report).stdout
        for path in paths:
            self.assertIn(path, output)

    def test_the_examples_of_the_guide_pass_their_tests(self) -> None:
        files = read_files("routes.rst", "testing.rst")
        self.write(files)
        self.run_modules(files)

    @slow
    def test_the_code_to_copy_is_as_strict_as_the_package(self) -> None:
        self.needs("mypy", "ruff")
        files = read_files("first_route.rst", "routes.rst", "testing.rst")
        self.write(files)
        modules = name_modules(files, "indico/")
        self.run_python("-m", "mypy", *(word for module in modules for word in ("-m", module)))
        self.run_python("-m", "ruff", "check", *files)
        self.run_python("-m", "ruff", "format", "--check", *files)

    def test_the_script_runs_beside_the_server(self) -> None:
        self.database.user.insert_one({"user_id": "facebook1", "name": "Ada"})
        self.write(read_files("database.rst"))
        self.assertEqual(self.run_python("greet.py", "facebook1").stdout, "Hello Ada!\n")
        self.assertEqual(self.run_python("greet.py", "facebook2").stdout, "Who is facebook2?\n")

    def test_commands_are_answered_as_printed(self) -> None:
        self.write(read_files("first_route.rst"))
        printed = "".join(
            block.code
            for page in ("quickstart.rst", "first_route.rst")
            for block in read_blocks(page, "console")
        )
        steps = re.findall(r"^\$ (curl .*)\n(.*)\n", printed, re.MULTILINE)
        self.assertGreater(len(steps), 5)
        key = ""
        with ServerProcess(folder=self.copy, PYTHONPATH=str(self.copy), **NOT_COVERED) as server:
            for command, expected in steps:
                command = command.replace("http://127.0.0.1:5000", server.url)
                answer = run_curl(command.replace("<token>", config.DEV_TOKEN).replace("$KEY", key))
                self.assertEqual(normalise(answer), normalise(expected), command)
                found = re.search('"indico_key": ?"([0-9a-f]{56})"', answer)
                key = found[1] if found else key


def run_curl(command: str) -> str:
    """What a curl of the pages would print: `curl URL [-H HEADER] -d BODY`."""
    _, url, *options = shlex.split(command)
    given = dict(zip(options[::2], options[1::2]))
    name, _, value = given.get("-H", "").partition(": ")
    headers = {name: value} if name else {}
    request = urllib.request.Request(url, given["-d"].encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return str(response.read().decode())
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode()
