"""
The guide does what it says: its code is run as printed, its answers are compared, its tables are complete.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.pages import (
    CHECKS,
    DOCS,
    NOT_COVERED,
    ROOT,
    RUN,
    Console,
    check_shell,
    list_pages,
    matches,
    read_blocks,
    run_python,
)
from indico.tests.testutils.process import ServerProcess, make_environment
from indico.tests.testutils.strict import StrictTest

COPIED = ("setup.cfg", "setup.py", "req.txt", "pyproject.toml", "README.md")
SERVER = "indico/server.py"
ELSEWHERE = "updating.rst"  # its commands are run by projects/test_changes.py
COUNT_SERVER = """
from indico import server
from indico.routes.count import CountRoute

server.ROUTES.append(CountRoute)
server.main(debug=False, port=0)
"""


def read_files(*pages: str) -> dict[str, str]:
    """The Python files that these pages have their reader write."""
    blocks = [block for page in pages for block in read_blocks(page, "python") if block.path]
    files = {block.path: block.code for block in blocks}
    for block in blocks:  # a file has one text, or pages contradict each other
        assert block.path == SERVER or files[block.path] == block.code, block.place
    if SERVER in files:  # each page adds a route of its own
        files[SERVER] = "".join(block.code for block in blocks if block.path == SERVER)
    return files


def name_modules(files: dict[str, str], below: str) -> list[str]:
    paths = [path[:-3].removesuffix("/__init__") for path in files if path.startswith(below)]
    return [path.replace("/", ".") for path in paths]


def needs_docs(test: unittest.TestCase) -> None:
    if not DOCS.is_dir():
        test.skipTest("docs/ is not there: the package is installed, and not a checkout")


class PagesTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        needs_docs(self)

    def test_every_block_is_of_a_kind_that_is_run_or_looked_at(self) -> None:
        blocks = [block for page in list_pages() for block in read_blocks(page)]
        self.assertGreater(len(blocks), 40)
        for block in blocks:
            self.assertIn(block.language, {*CHECKS, *RUN}, f"{block.place}: see docs/testing.rst")

    @slow
    def test_every_block_that_is_looked_at_is_as_it_should_be(self) -> None:
        for page in list_pages():
            for block in read_blocks(page, *CHECKS):
                with self.subTest(block.place):
                    CHECKS[block.language](block.code)

    @slow
    def test_every_file_that_a_page_has_its_reader_write_is_run(self) -> None:
        for page in list_pages():
            commands = "".join(block.code for block in read_blocks(page, "console"))
            for path in read_files(page):
                run_elsewhere = path.startswith(("indico/", "docs/clients/"))
                self.assertTrue(run_elsewhere or f"python {path}" in commands, f"{page}: {path}")

    def test_what_a_page_prints_is_compared_with_what_comes(self) -> None:
        for expected, output in (
            ('{"a": 1, "_id": "..."}', '{"a": 1, "_id": "7"}'),
            ('[{"a": "..."}]', '[{"a": {"b": 2}}]'),
            ('{"a": "<id>"}', '{"a": "7"}'),
            ("at http://127.0.0.1:5000", "at http://127.0.0.1:41234\n"),
            ("one\n...\nthree", "one\ntwo\nthree"),
            ("hello <name>", "hello Ada"),
        ):
            self.assertTrue(matches(expected, output), expected)
            self.assertFalse(matches(expected, output.replace("a", "b").replace("o", "0")), expected)
        self.assertFalse(matches('{"a": 1, "b": 2}', '{"b": 2, "a": 1}'))
        self.assertFalse(matches("[1]", "[1, 1]"))

    @slow
    def test_a_command_with_a_setting_an_option_or_a_module_that_there_is_not_is_found(self) -> None:
        for command in (
            "PORT=eighty python -m indico.server",
            "python -m indico.server --prot 80",
            "python -m indico.sever",
            "if true; do",
        ):
            with self.assertRaises(AssertionError):
                check_shell(command)

    def test_the_first_route_takes_at_most_60_lines_and_an_api_with_a_model_120(self) -> None:
        for page, most in (("first_route.rst", 60), ("thinking.rst", 120)):
            lines = "".join(read_files(page).values()).splitlines()
            self.assertLessEqual(len([line for line in lines if line.strip()]), most, page)

    def test_readme_and_quick_start_say_the_same(self) -> None:
        for language in ("sh", "console"):
            shown = [block.code for block in read_blocks("README.md", language)]
            for block in read_blocks("quickstart.rst", language)[:3]:
                self.assertIn(block.code, shown)

    def test_every_test_that_the_security_page_names_exists(self) -> None:
        names = re.findall(r"``((?:\w+\.)*test_\w+(?:\.\w+)?)``", (DOCS / "security.rst").read_text())
        self.assertGreater(len(names), 20)
        for name in names:
            with self.subTest(name):
                module, test = re.fullmatch(r"(.*?\btest_\w+)(?:\.(\w+))?", name).groups()  # type: ignore[union-attr]
                path = (ROOT / "indico/tests" / module.replace(".", "/")).with_suffix(".py")
                if path.exists() or path.parent.name != "batteries":  # one that was taken out
                    self.assertIn(f"\nclass {test}(" if test else "\nclass ", path.read_text())

    def test_the_readme_begins_with_code_and_its_blocks_are_not_wide(self) -> None:
        [python] = read_blocks("README.md", "python")
        self.assertLess(int(python.place.rpartition(":")[2]), 10)
        self.assertLessEqual(len([line for line in python.code.splitlines() if line]), 12)
        for block in read_blocks("README.md", "console", "text", "none"):
            for line in block.code.splitlines():
                self.assertLessEqual(len(line), 100, block.place)

    def test_readme_and_routes_have_the_same_action(self) -> None:
        self.assertEqual(
            read_blocks("README.md", "python")[0].code, read_files("routes.rst")["indico/routes/greeting.py"]
        )


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

    @slow
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
                self.add_routes(code)
                continue
            # Lines that are added, or a file that is new unless whoever reads this has written it already.
            mode = "a" if (ROOT / path).exists() and "import " not in code else "w"
            with (self.copy / path).open(mode) as file:
                file.write(code if mode == "w" else f"\n\n{code}")

    def add_routes(self, code: str) -> None:
        text = (self.copy / SERVER).read_text()
        [routes] = re.findall(r"^ROUTES: list\[Route\] = \[[^\]]*\]$", text, re.MULTILINE)
        neighbour = "from indico.routes.user import"
        self.assertIn(neighbour, text)
        lines = code.splitlines()
        names = [new_import.split()[-1] for new_import in lines[::2]]
        self.assertEqual(lines[1::2], [f"{routes[:-1]}, {name}]" for name in names])
        text = text.replace(routes, f"{routes[:-1]}, {', '.join(names)}]")
        imports = "\n".join(sorted(lines[::2]))
        (self.copy / SERVER).write_text(text.replace(neighbour, f"{imports}\n{neighbour}"))

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

    @slow
    def test_the_first_route_passes_its_tests(self) -> None:
        files = read_files("first_route.rst")
        self.write(files)
        self.run_modules(files)

    @slow
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

    @slow
    def test_the_examples_of_the_guide_pass_their_tests(self) -> None:
        files = read_files(*list_pages())
        self.write(files)
        self.run_modules(files)

    @slow
    def test_the_javascript_of_the_guide_reads_a_stream(self) -> None:
        if shutil.which("node") is None:
            self.skipTest("node is not installed")
        self.write(read_files("streams.rst"))
        [block] = read_blocks("streams.rst", "javascript")
        environment = {"PYTHONPATH": str(self.copy), **NOT_COVERED}
        with ServerProcess(folder=self.copy, script=COUNT_SERVER, **environment) as server:
            key = server.post("auth/login", LOGIN_DATA)["data"]["indico_key"]
            script = block.code.replace("20", "3").replace('"/count/up"', f'"{server.url}/count/up"')
            run = subprocess.run(
                ["node", "--input-type=module"],
                input=f'{script}\nawait countUp("{key}");\nawait countUp("").catch(console.log);',
                capture_output=True,
                text=True,
            )
        self.assertIn("0\n1\n2\nError: User not authenticated\n", run.stdout, run.stderr)

    @slow
    def test_the_migration_of_the_guide_runs_once(self) -> None:
        self.write(read_files("changing.rst"))
        self.database.order.insert_one({"item": "tea"})
        output = self.run_python("-m", "indico.migrate", "--apply").stdout
        self.assertIn("run      0001_count_is_required ... done\n", output)
        self.assertEqual(self.database.order.count_documents({"count": 1}), 1)
        self.assertNotIn("0001", self.run_python("-m", "indico.migrate", "--apply").stdout)

    @slow
    def test_the_code_to_copy_is_as_strict_as_the_package(self) -> None:
        self.needs("mypy", "ruff")
        files = read_files(*list_pages())
        self.write(files)
        modules = name_modules(files, "indico/")
        self.run_python("-m", "mypy", *(word for module in modules for word in ("-m", module)))
        self.run_python("-m", "ruff", "check", *files)
        self.run_python("-m", "ruff", "format", "--check", *files)

    @slow
    def test_python_without_a_file_runs_a_page_at_a_time(self) -> None:
        self.write(read_files(*list_pages()))
        for page in list_pages():
            blocks = [block for block in read_blocks(page, "python", "pycon") if not block.path]
            if blocks:
                with self.subTest(page):
                    self.database.client.drop_database(self.database.name)
                    self.database.user.insert_one(
                        {"user_id": "facebook1", "name": "Ada", "location": "London"}
                    )
                    run_python(blocks, self.copy)

    @slow
    def test_commands_are_answered_as_printed(self) -> None:
        if shutil.which("curl") is None:
            self.skipTest("curl is not installed")
        self.write(read_files(*list_pages()))
        for page in list_pages():
            blocks = read_blocks(page, "console")
            if blocks and page != ELSEWHERE:
                shutil.copy(ROOT / SERVER, self.copy / SERVER)  # with the route of this page alone
                self.write({path: code for path, code in read_files(page).items() if path == SERVER})
                self.database.client.drop_database(self.database.name)
                with self.subTest(page), Console(self.copy) as console:
                    for block in blocks:
                        console.run_block(block)
