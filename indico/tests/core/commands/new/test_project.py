"""
Renamed copies of this checkout: what is in them and what is not, what is refused, and that they work.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

from indico.core.commands.new import CannotCreate
from indico.core.commands.new.__main__ import main
from indico.core.commands.new.project import LEFT_BEHIND, make_project
from indico.core.commands.new.project import files as project_files
from indico.core.commands.new.project.batteries import find_batteries, remove_battery
from indico.core.commands.new.project.names import check_name, make_rename, rename_files
from indico.server import BATTERIES
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import ROOT, needs, needs_checkout, run_python
from indico.tests.testutils.process import linux
from indico.tests.testutils.strict import StrictTest

OLD = "indico"
NAMES = [battery.rpartition(".")[2] for battery in BATTERIES]


class ProjectTest(StrictTest):
    """A test that makes copies, in `self.folder`."""

    def setUp(self) -> None:
        super().setUp()
        needs_checkout(self)
        folder = tempfile.TemporaryDirectory(prefix=f"{OLD}-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()

    def make(self, name: str, also: str = "", without: str = "") -> Path:
        make_project(self.folder / name, also, without)
        return self.folder / name

    def assert_refused(self, reason: str, path: str | Path, without: str = "") -> None:
        before = sorted(self.folder.rglob("*"))
        with self.assertRaisesRegex(CannotCreate, reason):
            make_project(self.folder / path, without=without)
        self.assertEqual(sorted(self.folder.rglob("*")), before)


class CopyTest(ProjectTest):
    @slow
    def test_a_copy_has_all_but_what_is_about_the_boilerplate_and_no_trace_of_its_name(self) -> None:
        copy = self.make("tea_shop", ",".join(NAMES))
        paths = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        expected = {
            make_rename("tea_shop")(path)
            for path in project_files.read_files()
            if not any(path == left or path.startswith(f"{left}/") for left in LEFT_BEHIND)
        }
        self.assertEqual(paths, expected)
        self.assertFalse([path for path in paths if OLD in path.lower()])
        traces = [path for path in paths if OLD.encode() in (copy / path).read_bytes().lower()]
        self.assertLessEqual(set(traces), {"LICENSE"})
        self.assertEqual((copy / "LICENSE").read_bytes(), (ROOT / "LICENSE").read_bytes())
        for name, text in (
            ("routes/handler.py", "class TeaShopHandler("),
            ("error/__init__.py", "class TeaShopError("),
            ("config.py", 'environment.choice("TEA_SHOP_ENV", '),
            ("utils/auth/auth_utils.py", '"tea_shop_key"'),
            ("core/development.py", 'Path(".tea_shop")'),
        ):
            self.assertIn(text, (copy / "tea_shop" / name).read_text())

    def test_a_copy_has_the_default_batteries_and_those_that_it_is_asked_for(self) -> None:
        with mock.patch("indico.core.commands.new.project.format_files", return_value=""):
            default = self.make("shop")
            other = self.make("pub", also="sentry,openid", without="docs_page,logs")
        for copy, expected in (
            (default, {"cors", "docs_page", "health", "limit", "logs", "metrics", "openapi"}),
            (other, {"cors", "health", "limit", "metrics", "openapi", "openid", "sentry"}),
        ):
            found = {path.stem for path in (copy / copy.name / "batteries").glob("[!_]*")}
            listed = re.findall(r'"\w+\.batteries\.(\w+)"', (copy / copy.name / "server.py").read_text())
            self.assertEqual((found, set(listed)), (expected, expected))

    @slow
    def test_a_copys_readme_says_nothing_of_what_was_left_behind(self) -> None:
        copy = self.make("shop")
        readme = (copy / "README.md").read_text()
        self.assertNotIn("new project", readme)
        self.assertNotIn("a project of your own", readme)
        house = readme.partition("## The house\n\n```\n")[2].partition("\n```")[0]
        self.assertIn("  server.py ", house)
        for name in re.findall(r"^(\w+/) ", house, re.MULTILINE):
            self.assertTrue((copy / name).exists(), name)
        for name in re.findall(r"^  (\S+) ", house, re.MULTILINE):
            self.assertTrue((copy / "shop" / name).exists(), name)

    def test_every_page_of_the_copys_guide_that_is_linked_is_there(self) -> None:
        docs = self.make("shop", without=",".join(NAMES)) / "docs"
        pages = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.rst")}
        for page in sorted(pages):
            text = (docs / f"{page}.rst").read_text()
            toctree = re.findall(r"^\.\. toctree::\n(?:   :.*\n)*\n((?:   \S+\n)+)", text, re.MULTILINE)
            linked = {*"".join(toctree).split(), *re.findall(r":doc:`(?:[^`<]+ <)?([\w/]+)>?`", text)}
            self.assertLessEqual(linked, pages, page)

    @slow
    def test_the_command_says_what_it_made_and_what_it_refuses(self) -> None:
        command = [sys.executable, "-m", "indico.new", "project", str(self.folder / "shop")]
        first, second = (subprocess.run(command, cwd=ROOT, capture_output=True, text=True) for _ in range(2))
        self.assertEqual((first.returncode, first.stderr), (0, ""))
        self.assertIn(f"Created {self.folder / 'shop'} with ", first.stdout)
        refusal = f"{self.folder / 'shop'} already exists. It was not changed.\n"
        self.assertEqual((second.returncode, second.stderr), (1, refusal))

    @slow
    def test_without_ruff_it_says_how_to_get_it(self) -> None:
        with mock.patch.object(importlib.util, "find_spec", return_value=None):
            self.assertIn("pip install -e '.[dev]'", make_project(self.folder / "shop"))

    def test_without_git_what_it_would_ignore_is_left_behind(self) -> None:
        for path in ("setup.py", "a/b.py", "a/b.pyc", "build/c", "a/build/d", ".git/e", "docs/_build/f"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).touch()
        (self.folder / ".gitignore").write_text("*.py[cod]\n/build/\n/docs/_build/\n")
        for settings in ({}, {"PATH": ""}):  # git says that this is no checkout of its, or there is no git
            with mock.patch.object(project_files, "ROOT", self.folder), mock.patch.dict(os.environ, settings):
                files = project_files.read_files()
                self.assertEqual(set(files), {".gitignore", "setup.py", "a/b.py", "a/build/d"})

    def test_with_git_what_it_tracks_is_copied_as_it_is_now(self) -> None:
        for name in ("changed", "gone", "other"):
            (self.folder / name).touch()
        for words in (("init", "-q"), ("add", "changed", "gone")):
            subprocess.run(["git", *words], cwd=self.folder, check=True)
        (self.folder / "changed").write_text("now")
        (self.folder / "gone").unlink()
        with mock.patch.object(project_files, "ROOT", self.folder):
            self.assertEqual(project_files.read_files(), {"changed": b"now"})


class RefusedTest(ProjectTest):
    def test_a_name_that_no_package_can_have(self) -> None:
        for name in (
            "my-shop",
            "Shop",
            "2shop",
            "_shop",
            "shop_",
            "a__b",
            "class",
            "caf\u00e9",
            "a shop",
            300 * "a",
        ):
            with self.subTest(name):
                self.assert_refused("can't be the name of a package", name)

    def test_a_name_that_something_else_has(self) -> None:
        for name, reason in (
            ("json", "in Python itself"),
            ("socket", "in Python itself"),
            ("list", "in Python itself"),
            ("test", "an installed package"),
            ("tornado", "an installed package"),
            ("docs", "a folder beside"),
            ("build", "a folder beside"),
            ("handler", "handler is already a name in the code"),
            ("server", "ServerError is already a name in the code|server is already a name in the code"),
            (f"my_{OLD}", "contains the old name"),
        ):
            with self.subTest(name):
                self.assert_refused(reason, name)

    def test_a_class_that_is_there_already(self) -> None:
        source = {"a.py": b"class IndicoHandler: ...\nclass TeaHandler: ...\n"}
        with self.assertRaisesRegex(CannotCreate, "TeaHandler is already a name"):
            check_name("tea", source)

    def test_a_folder_that_is_there_or_can_not_be_made(self) -> None:
        (self.folder / "shop").mkdir()
        (self.folder / "teapot").touch()
        self.assert_refused("already exists", "shop")
        self.assert_refused("already exists", "teapot")
        self.assert_refused("is not a folder", "nowhere/shop")
        self.assert_refused("is not a folder", "teapot/shop")
        self.assert_refused("inside this checkout", ROOT / "shop")
        self.assertFalse((ROOT / "shop").exists())

    @linux
    def test_a_place_where_nothing_can_be_made(self) -> None:
        self.assert_refused(r"/proc/shop can't be created: .*\.$", "/proc/shop")

    def test_a_battery_that_is_not_there_or_not_told_from_another(self) -> None:
        self.assert_refused("horn is not one of the batteries:", "shop", "horn")
        files = {"indico/server.py": b'    "indico.batteries.docs_one",\n    "indico.batteries.docs_two",\n'}
        with self.assertRaisesRegex(CannotCreate, "docs is not one of the batteries: docs_one, docs_two"):
            find_batteries("docs", files)

    def test_an_installed_package_has_nothing_to_copy(self) -> None:
        with (
            mock.patch("indico.core.commands.new.ROOT", self.folder),
            self.assertRaises(SystemExit) as raised,
        ):
            main(["project", str(self.folder / "shop")])
        self.assertEqual(
            str(raised.exception),
            "indico is installed here without its checkout: clone it, and run this in the clone.",
        )


class StrippingTest(ProjectTest):
    @slow
    def test_each_battery_can_be_left_out(self) -> None:
        for name in NAMES:
            with self.subTest(name):
                files = project_files.read_files()
                remove_battery(files, name)
                self.assertFalse(
                    [path for path in files if re.search(rf"\bbatteries/(test_)?{name}[./]", path)]
                )
                self.assertNotIn(f"batteries.{name}".encode(), files["indico/server.py"])

    def test_a_beginning_names_a_battery(self) -> None:
        files = {"indico/server.py": b'    "indico.batteries.bell",\n    "indico.batteries.bell_rope",\n'}
        self.assertEqual(find_batteries("bell_, bell,bell_rope", files), ["bell_rope", "bell"])

    def test_an_extra_goes_with_all_that_nothing_else_needs(self) -> None:
        files = self.make_files()
        remove_battery(files, "horn")
        packages = re.findall(r"\w+", files["setup.py"].decode())
        self.assertEqual(packages, ["extras", "dev", "rest", "both", "check", "ruff", "both", "last", "rest"])

    def test_a_setting_that_nothing_else_speaks_of_goes_too(self) -> None:
        files = self.make_files()
        remove_battery(files, "horn")
        self.assertEqual(files["indico/config.py"].decode(), "# Others\nB = 1\nC = 2\nSUM = C + 1\n")
        self.assertEqual(
            files["docs/settings.rst"].decode(), "   * - ``B``\n     - 1\n   * - ``C``\n     - 2\n"
        )

    def test_a_battery_that_is_a_folder_goes_with_all_that_is_in_it(self) -> None:
        files = self.make_files()
        files["indico/batteries/horn/__init__.py"] = files.pop("indico/batteries/horn.py")
        files["indico/batteries/horn/page.html"] = b""
        files["indico/batteries/horn_two.py"] = files["indico/tests/batteries/test_horn/test_a.py"] = b""
        remove_battery(files, "horn")
        self.assertEqual([path for path in files if "horn" in path], ["indico/batteries/horn_two.py"])
        self.assertNotIn("A = ", files["indico/config.py"].decode())

    def test_what_leads_to_its_page_goes_too(self) -> None:
        files = self.make_files()
        remove_battery(files, "horn")
        self.assertEqual(
            files["docs/index.rst"].decode(), "See a page and ``horn``.\n\n.. toctree::\n\n   other\n"
        )

    def test_what_leads_to_a_file_from_the_readme_goes_with_it(self) -> None:
        readme, manifest = (
            b"[Changes](CHANGELOG.md). [Licence](LICENSE).",
            b"include CHANGELOG.md\ngraft docs\n",
        )
        files = {"CHANGELOG.md": b"", "README.md": readme, "MANIFEST.in": manifest}
        project_files.remove_file(files, "CHANGELOG.md")
        self.assertEqual(files, {"README.md": b"[Licence](LICENSE).", "MANIFEST.in": b"graft docs\n"})

    def make_files(self) -> project_files.Files:
        texts = {
            "indico/batteries/horn.py": "print(config.A, config.B, config.C)\n",
            "indico/tests/batteries/test_horn.py": "",
            "indico/other.py": "print(config.B)\n",
            "indico/server.py": 'BATTERIES: list[str] = [\n    "indico.batteries.horn",\n]\n',
            "indico/config.py": "# Horn\nA = call(\n    0,\n)\n\n# Others\nB = 1\nC = 2\nSUM = C + 1\n",
            ".ci/lib.sh": "unset A B C\n",
            "setup.py": "extras = {\n"
            '        "dev": [\n            "alone",\n            "rest",\n            "both",\n        ],\n'
            '        "check": ["ruff", "both"],\n        "horn": ["alone", "both"],  # why\n'
            '        "last": ["rest"],\n}\n',
            "docs/settings.rst": "".join(f"   * - ``{name}``\n     - {i}\n" for i, name in enumerate("ABC")),
            "docs/batteries.rst": "Batteries\n",
            "docs/batteries/horn.rst": "Horn\n",
            "docs/batteries/bell.rst": "Bell\n",
            "docs/index.rst": "See :doc:`a page <batteries/horn>` and :doc:`/batteries/horn`.\n\n"
            ".. toctree::\n\n   other\n   batteries/horn\n",
        }
        return {path: text.encode() for path, text in texts.items()}


class RenamingTest(StrictTest):
    def rename(self, text: str, name: str = "tea", path: str = "a.py") -> str:
        return rename_files({path: text.encode()}, name)[path].decode()

    def test_each_way_of_writing_the_name_stays_one(self) -> None:
        text = "indico Indico INDICO indico_key Indico_Key INDICO_ENV IndicoHandler .indico"
        for name, expected in (
            ("tea", "tea Tea TEA tea_key Tea_Key TEA_ENV TeaHandler .tea"),
            (
                "tea_shop",
                "tea_shop TeaShop TEA_SHOP tea_shop_key Tea_Shop_Key TEA_SHOP_ENV TeaShopHandler .tea_shop",
            ),
        ):
            self.assertEqual(self.rename(text, name), expected)

    def test_imports_stay_sorted(self) -> None:
        text = "from indico.error import AuthError, IndicoError, InvalidJSON, to_answer\n"
        self.assertEqual(
            self.rename(text), "from tea.error import AuthError, InvalidJSON, TeaError, to_answer\n"
        )
        text = (
            "from indico.error import (\n    LOGGER,\n    IndicoError,\n    InvalidJSON,\n    to_answer,\n)\n"
        )
        expected = (
            "from tea.error import (\n    LOGGER,\n    InvalidJSON,\n    TeaError,\n    to_answer,\n)\n"
        )
        self.assertEqual(self.rename(text), expected)

    def test_titles_stay_underlined(self) -> None:
        text = "indico\n======\n\nOther\n-----\n\n=====  ====\n"
        self.assertEqual(self.rename(text, path="a.rst"), "tea\n===\n\nOther\n-----\n\n=====  ====\n")

    def test_columns_stay_where_they_are(self) -> None:
        text = "an indico, indico too    first\nelse                     second  third indico\n"
        for name in ("tea", "teashop"):
            lines = self.rename(text, name, path="a.rst").splitlines()
            self.assertEqual(lines[0], f"an {name}, {name} too".ljust(25) + "first")
            self.assertEqual(lines[1], f"else                     second  third {name}")
        self.assertEqual(self.rename("indico  a\n", "teashop", path="a.rst"), "teashop  a\n")

    def test_what_is_no_text_is_copied_as_it_is(self) -> None:
        self.assertEqual(rename_files({"indico.png": b"indico \xff"}, "tea"), {"tea.png": b"indico \xff"})


@slow
class WorkingTest(ProjectTest):
    """Copies that are used as their README says, but with what is installed here."""

    def run_suite(self, copy: Path) -> None:
        """`nosetests` in the copy, which wants a coverage of 100 %, with no setting of this suite's."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        suite = subprocess.run(
            [sys.executable, "-m", "nose"],
            cwd=copy,
            env={**kept, "PYTHONPATH": str(copy)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.assertEqual(suite.returncode, 0, suite.stdout)

    def test_names_of_any_usual_length_leave_code_and_guide_as_clean(self) -> None:
        needs(self, "mypy", "ruff", "sphinx")
        everything = ",".join(NAMES)
        for name, also, without in (
            ("pub", "", everything),
            ("bookstore", "", ""),
            ("mountaineering", everything, ""),
        ):
            with self.subTest(name):
                copy = self.make(name, also, without)
                for command in (
                    "ruff check .",
                    "ruff format --check .",
                    "mypy",
                    "sphinx -W --keep-going -q docs docs/_build",
                ):
                    run_python(self, copy, "-m", *command.split())

    def test_a_copy_with_another_route_passes_its_suite(self) -> None:
        needs(self, "nose")
        copy = self.make("shop")
        run_python(self, copy, "-m", "shop.new", "route", "order")
        self.run_suite(copy)

    def test_a_copy_without_any_battery_passes_its_suite(self) -> None:
        needs(self, "nose")
        self.run_suite(self.make("shop", without=",".join(NAMES)))
