"""
What is done to a copy that was made earlier: parts put in and taken out, and updates.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar
from unittest import mock

from tornado.testing import bind_unused_port

from indico import config
from indico.core import log
from indico.core.commands.new import CannotCreate
from indico.projects import RECORD, changes
from indico.projects.changes import change_parts, find_parts, update
from indico.projects.parts import DEFAULT, NAMES
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import NOT_COVERED, ROOT, needs, needs_checkout, run_alone, run_python
from indico.tests.testutils.mongo import name_database, start_mongodb
from indico.tests.testutils.pages import Console, matches, read_blocks
from indico.tests.testutils.process import make_environment
from indico.tests.testutils.strict import StrictTest

CHANGES = "indico.projects.changes"
PROJECT = "indico.projects"
GIT = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "init.defaultBranch=main")
FIRST = "627efdf"  # the last commit of version 1.0
EARLIER = "25d7a57"  # a commit whose copies have a record, and lack much that there is now
LINES = "".join(f"line {number}\n" for number in range(20))


def hide_progress(output: str) -> str:
    """Return the output without the lines about what takes longer than two seconds."""
    return re.sub(r"(?m)^Making a copy .* \.\.\.\n", "", output)


class GitTest(StrictTest):
    """A test with a copy, `self.copy`, in a git repository of its own."""

    def setUp(self) -> None:
        super().setUp()
        needs_checkout(self)
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name).resolve()
        self.copy = self.folder / "shop"

    def git(self, *words: str, folder: Path | None = None) -> str:
        return subprocess.check_output([*GIT, *words], cwd=folder or self.copy, text=True)

    def commit(self, message: str = "change", folder: Path | None = None) -> str:
        self.git("add", "-A", folder=folder)
        self.git("commit", "-q", "-m", message, folder=folder)
        return self.git("rev-parse", "HEAD", folder=folder).strip()

    def list_files(self) -> dict[str, bytes]:
        files = (path for path in self.copy.rglob("*") if path.is_file() and ".git" not in path.parts)
        return {path.relative_to(self.copy).as_posix(): path.read_bytes() for path in files}

    def assert_refused(self, reason: str, call: str, *arguments: object) -> None:
        before = self.list_files(), self.git("branch") if (self.copy / ".git").exists() else ""
        with self.assertRaisesRegex(CannotCreate, reason):
            getattr(changes, call)(*arguments)
        after = self.list_files(), self.git("branch") if (self.copy / ".git").exists() else ""
        self.assertEqual(after, before)


class SmallTest(GitTest):
    """Copies of three files, of a checkout with two commits."""

    made: ClassVar[Path]  # what each test begins with

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        place = tempfile.TemporaryDirectory(prefix="indico-test-")
        cls.addClassCleanup(place.cleanup)
        cls.made = Path(place.name)

    def setUp(self) -> None:
        super().setUp()
        self.root = self.folder / "root"
        for name in (f"{CHANGES}.ROOT", f"{PROJECT}.ROOT", "indico.core.commands.new.ROOT"):
            self.enterContext(mock.patch(name, self.root))
        self.enterContext(mock.patch(f"{CHANGES}.write_copy", self.write))
        self.enterContext(mock.patch(f"{CHANGES}.write_earlier_copy", self.write_earlier))
        if (self.made / "root").exists():
            shutil.copytree(self.made, self.folder, dirs_exist_ok=True)
        else:
            self.make()
            shutil.copytree(self.folder, self.made, dirs_exist_ok=True)
        self.old, self.new = self.git("rev-list", "--reverse", "--all", folder=self.root).split()

    def make(self) -> None:
        self.root.mkdir()
        (self.root / "setup.py").touch()
        self.git("init", "-q", folder=self.root)
        self.old = self.commit(folder=self.root)
        (self.root / "setup.py").write_text("new\n")
        self.new = self.commit(folder=self.root)
        self.git("checkout", "-q", self.old, folder=self.root)
        self.write(self.copy, ["cors"])
        self.git("init", "-q")
        self.commit()

    def write(self, folder: Path, wanted: Collection[str]) -> int:
        commit = self.git("rev-parse", "HEAD", folder=self.root).strip()
        record = {"name": "shop", "version": "1", "commit": commit, "parts": sorted(wanted)}
        lines = LINES.replace("line 9\n", "line 9\n" + "".join(f"{name}\n" for name in sorted(wanted)))
        if commit == self.new:
            lines = lines.replace("line 2\n", "line two\n")
        folder.mkdir()
        for name, text in {RECORD: json.dumps(record, indent=2), "lines": lines, "script": "#!\n"}.items():
            (folder / name).write_text(text)
        for name in wanted:
            (folder / name).write_text(name)
        return 1

    def write_earlier(self, commit: str, folder: Path, options: list[str]) -> None:
        self.options = options
        self.git("checkout", "-q", commit, folder=self.root)
        self.write(folder, ["cors"])
        self.git("checkout", "-q", self.new, folder=self.root)

    def edit(self, old: str, new: str) -> None:
        path = self.copy / "lines"
        path.write_text(path.read_text().replace(old, new))
        self.commit()


class AddTest(SmallTest):
    def test_a_part_is_put_in_and_what_the_owner_changed_stays(self) -> None:
        self.edit("line 3\n", "line three\n")
        self.assertIn("committed nothing", change_parts("add", "limit", self.copy))
        files = self.list_files()
        self.assertEqual(files["limit"], b"limit")
        self.assertIn(b"line three\n", files["lines"])
        self.assertIn(b"limit\n", files["lines"])
        self.assertEqual(json.loads(files[RECORD])["parts"], ["cors", "limit"])

    @slow
    def test_what_was_put_in_is_taken_out_to_the_byte(self) -> None:
        before = self.list_files()
        change_parts("add", "limit,logs", self.copy)
        self.commit()
        change_parts("remove", "logs,limit", self.copy)
        self.assertEqual(self.list_files(), before)

    def test_a_line_that_the_owner_changed_is_a_conflict_and_nothing_is_written(self) -> None:
        self.edit("cors\n", "sorc\n")
        self.assert_refused(
            r"^Nothing was changed in .*:\n  lines \(content\)$", "change_parts", "remove", "cors", self.copy
        )

    def test_a_part_that_is_there_or_is_not_there(self) -> None:
        self.assert_refused("already has cors", "change_parts", "add", "limit,cors", self.copy)
        self.assert_refused("has no limit", "change_parts", "remove", "cors,limit", self.copy)
        self.assert_refused("horn is not one of the parts", "change_parts", "add", "horn", self.copy)

    def test_another_commit_than_the_recorded_one(self) -> None:
        self.git("checkout", "-q", self.new, folder=self.root)
        self.assert_refused("another commit: update it, or", "change_parts", "add", "limit", self.copy)

    def test_changes_that_are_not_committed(self) -> None:
        (self.copy / "note").touch()
        self.assert_refused(
            f"{self.copy} has changes that are not committed", "change_parts", "add", "limit", self.copy
        )
        (self.copy / "note").unlink()
        (self.root / "setup.py").write_text("changed")
        self.assert_refused(
            f"{self.root} has changes that are not committed", "change_parts", "add", "limit", self.copy
        )

    def test_a_folder_that_is_no_copy(self) -> None:
        self.assert_refused("is not a folder", "change_parts", "add", "limit", self.folder / "nowhere")
        (self.copy / "below").mkdir()
        self.assert_refused("is not a git repository", "change_parts", "add", "limit", self.copy / "below")
        self.assert_refused("is not a git repository", "change_parts", "add", "limit", self.folder)
        for text, reason in (
            ("{}", "can be read"),
            ('{"name": "a", "commit": null, "parts": []}', "never committed"),
        ):
            (self.copy / RECORD).write_text(text)
            self.commit()
            self.assert_refused(reason, "change_parts", "add", "limit", self.copy)


class UpdateTest(SmallTest):
    def update(self, **options: str) -> str:
        self.git("checkout", "-q", self.new, folder=self.root)
        return update(self.copy, **options)

    def read(self, name: str) -> str:
        return self.git("show", f"update-{self.new[:7]}:{name}")

    def test_a_branch_has_what_is_new_and_what_the_owner_changed(self) -> None:
        self.edit("line 5\n", "line five\n")
        self.git("mv", "lines", "moved")
        self.commit()
        before = self.list_files(), self.git("log", "-1")
        message = self.update()
        self.assertIn(f"Made the branch update-{self.new[:7]} in {self.copy}.", message)
        self.assertNotIn("Changed in both", message)
        self.assertEqual((self.list_files(), self.git("log", "-1")), before)
        self.assertIn("line two\nline 3\nline 4\nline five\n", self.read("moved"))
        self.assertEqual(json.loads(self.read(RECORD))["commit"], self.new)
        self.assertEqual(self.options, ["--parts", "cors"])

    @slow
    def test_lines_that_both_changed_are_in_the_branch_with_markers(self) -> None:
        self.edit("line 2\n", "line 2!\n")
        before = self.list_files()
        message = self.update()
        self.assertIn("Changed in both:\n  lines (content)\n", message)
        self.assertIn("resolve what stands between", message)
        self.assertEqual(self.list_files(), before)
        markers = "<<<<<<< HEAD\nline 2!\n=======\nline two\n>>>>>>> boilerplate\n"
        self.assertIn(markers, self.read("lines"))

    def test_a_copy_that_records_nothing_is_told_apart_by_the_commit(self) -> None:
        (self.copy / RECORD).unlink()
        self.commit()
        self.assert_refused("records no commit: name the commit", "update", self.copy)
        self.update(commit=self.old[:7], also="sentry", without="cors")
        self.assertEqual(self.options, ["--with", "sentry", "--without", "cors"])

    def test_a_copy_that_records_its_commit_needs_no_options(self) -> None:
        self.assert_refused("leave out the options", "update", self.copy, self.old)

    def test_a_copy_of_this_commit_is_up_to_date(self) -> None:
        self.assertEqual(update(self.copy), f"{self.copy} is up to date.")

    def test_a_commit_that_is_not_there(self) -> None:
        (self.copy / RECORD).unlink()
        self.commit()
        self.assert_refused("The commit 1234567 is not in this clone", "update", self.copy, "1234567")

    def test_a_branch_that_is_there_already(self) -> None:
        self.git("branch", f"update-{self.new[:7]}")
        self.git("checkout", "-q", self.new, folder=self.root)
        self.assert_refused("merge it, or delete it", "update", self.copy)


class EarlierTest(GitTest):
    def test_the_command_of_the_earlier_commit_makes_the_copy(self) -> None:
        root, package = self.folder / "root", self.folder / "root/indico/new"
        package.mkdir(parents=True)
        (root / "indico/__init__.py").touch()
        (package / "__init__.py").touch()
        (package / "__main__.py").write_text(
            "import os, sys\nassert len(sys.argv) == 4\nos.mkdir(sys.argv[2])\n"
        )
        self.git("init", "-q", folder=root)
        commit = self.commit(folder=root)
        with mock.patch(f"{CHANGES}.ROOT", root):
            base = self.folder / "base" / "shop"
            base.parent.mkdir()
            changes.write_earlier_copy(commit, base, ["--parts="])
            self.assertTrue(base.is_dir())
            with self.assertRaisesRegex(CannotCreate, f"(?s){commit[:7]} does not make it: .*AssertionError"):
                changes.write_earlier_copy(commit, base, [])
        self.assertEqual(self.git("worktree", "list", "--porcelain", folder=root).count("worktree "), 1)

    @slow
    def test_it_says_so_when_it_takes_long(self) -> None:
        with (
            mock.patch.object(log, "SILENT_SECONDS", 0.01),
            mock.patch(f"{CHANGES}.run_git", side_effect=lambda *_: time.sleep(0.1)),
            mock.patch(f"{CHANGES}.subprocess.run", return_value=mock.Mock(returncode=0)),
            self.assertLogs("indico", "WARNING") as logged,
        ):
            changes.write_earlier_copy("abc", self.copy, [])
        self.assertEqual(
            [record.getMessage() for record in logged.records],
            ["Making a copy with the code of the earlier commit ..."],
        )

    def test_the_parts_of_a_copy_that_records_nothing_are_found_by_its_files(self) -> None:
        for name in ("batteries/cors.py", "batteries/logs/__init__.py", "batteries/login_rate.py", "asgi.py"):
            path = self.copy / "shop" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        self.assertEqual(find_parts(self.copy, self.copy), ["cors", "limit", "logs", "asgi"])

    def test_a_battery_that_its_owner_deleted_is_not_made_again(self) -> None:
        base = self.folder / "base/shop"
        for folder in (base, self.copy):
            (folder / "shop/batteries").mkdir(parents=True)
            (folder / "shop/batteries/logs.py").touch()
        (base / "shop/batteries/cors.py").touch()
        (base / RECORD).write_text('{"name": "shop", "commit": "1", "parts": ["cors", "logs", "facebook"]}')
        self.assertEqual(find_parts(base, self.copy), ["logs", "facebook"])


class CloneTest(GitTest):
    """A test with a clone of this checkout, `self.clone`, in which all that was changed here is committed."""

    def setUp(self) -> None:
        super().setUp()
        needs(self, "ruff")
        self.origin, self.clone = self.folder / "origin", self.folder / "indico"
        if not (ROOT / ".git").exists():
            self.skipTest("this checkout has no git")
        self.git("clone", "-q", str(ROOT), str(self.origin), folder=self.folder)
        for path in self.git("ls-files", "-z", folder=self.origin).split("\0")[:-1]:
            (self.origin / path).unlink()
        for path in filter(None, self.git("ls-files", "-z", folder=ROOT).split("\0")):
            if (ROOT / path).is_file():
                (self.origin / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, self.origin / path)
        self.git("add", "-A", folder=self.origin)
        self.git("commit", "-q", "--allow-empty", "-m", "now", folder=self.origin)
        self.git("clone", "-q", str(self.origin), str(self.clone), folder=self.folder)

    def new(self, *words: str) -> str:
        command = [sys.executable, "-m", "indico.new", *words]
        environment = make_environment({"PYTHONPATH": str(self.clone), **NOT_COVERED})
        result = subprocess.run(command, cwd=self.clone, env=environment, capture_output=True, text=True)
        self.assertEqual((result.returncode, hide_progress(result.stderr)), (0, ""))
        return result.stdout

    def run_readme(self) -> None:
        """Run both commands of the copy's README, in an environment that has what the copy needs alone."""
        script = str(ROOT / ".ci/readme.py")
        suite = run_alone(self, self.copy, sys.executable, script, "test")
        self.assertRegex(run_alone(self, self.copy, "bash", "-c", suite), r"\nRan \d+ tests in ")
        # Its port and its MongoDB may be in use on this machine.
        database, mongodb = name_database(self.id()), start_mongodb()
        self.addCleanup(mongodb.drop_database, database)
        socket, port = bind_unused_port()
        socket.close()
        settings = {"MONGODB": config.MONGODB, "MONGODB_DATABASE": database, "PORT": str(port)}
        started = run_alone(self, self.copy, sys.executable, script, "start", **settings)
        self.assertRegex(started, r"\nRan 3 tests in ")


@slow
class RealTest(CloneTest):
    def test_each_part_comes_out_of_a_copy_as_it_came_in(self) -> None:
        self.new("project", str(self.copy))
        self.git("init", "-q")
        self.commit()
        before = self.list_files()
        for first, second, names in (
            ("add", "remove", [name for name in NAMES if name not in DEFAULT]),
            ("remove", "add", DEFAULT),
        ):
            for parts in [",".join(names), names[0]]:
                with self.subTest(parts):
                    for word in (first, second):
                        self.new(word, parts, str(self.copy))
                        self.commit()
                    self.assertEqual(self.list_files(), before)

    def test_the_guide_and_the_readme_show_what_happens(self) -> None:
        printed: dict[str, str] = {}

        def run(command: str) -> str:
            printed[command] = output = hide_progress(console.run_in_shell(command))
            return output

        path = self.origin / "indico/db/user_db.py"
        line = '    "location": (str, False),\n'
        self.assertIn(line, path.read_text())
        path.write_text(path.read_text().replace(line, line + '    "language": (str, False),\n'))
        self.commit(folder=self.origin)
        with Console(self.clone) as console, mock.patch.object(console, "run", run):
            for name in ("AUTHOR", "COMMITTER"):
                console.run_in_shell(f"export GIT_{name}_NAME=Ada GIT_{name}_EMAIL=ada@example.com")
            for block in read_blocks("updating.rst", "console"):
                console.run_block(block)
            run("python -m indico.new route coupon")
        table = re.findall(r"(?m)^\| `(python -m .*)` \| `(.*)` \|$", (ROOT / "README.md").read_text())
        self.assertEqual(len(table), 4)
        for command, cell in table:
            self.assertTrue(matches(cell.replace("`<br>`", "\n"), printed[command]), printed[command])
            for line in printed[command].splitlines():
                self.assertLessEqual(len(line), 80)

    def test_a_copy_of_version_1_0_is_updated(self) -> None:
        without = ("--without", "sentry,opentelemetry")
        self.make_earlier(FIRST, "openid", *without)
        expected = ["shop/routes/auth.py", "shop/server.py", "shop/tests/utils/auth/test_facebook_utils.py"]
        self.assertEqual(self.update("--from", FIRST, *without), [(path, "content") for path in expected])
        self.assertFalse((self.copy / "shop/batteries/openid").exists())
        self.resolve(*expected)
        self.edit(
            "shop/server.py", "(from shop.routes.auth .*\n)", r"\1from shop.routes.order import OrderRoute\n"
        )
        # What docs/updating says of version 1.0.
        self.edit("shop/db/order_db.py", r"\bblank\b", "empty_document")
        self.edit("shop/db/order_db.py", r"(?s)(mongo_obj\(ORDER_SCHEMA.*?)\)", r"\1, operators=True)")
        self.edit("shop/tests/db/test_order_db.py", r"order = self\.wait\(\)", "order, _ = self.wait()")
        self.edit("shop/tests/db/test_order_db.py", r"self\.wait\(\), order", "self.wait()[0], order")
        self.run_readme()

    def test_a_copy_of_an_earlier_commit_with_a_record_is_updated(self) -> None:
        self.make_earlier(EARLIER, "cors")
        self.assertEqual(self.update(), [])
        self.assertFalse((self.copy / "shop/batteries/cors.py").exists())
        self.assertIn("OrderRoute", (self.copy / "shop/server.py").read_text())
        self.assertIn("auth.facebook import", (self.copy / "shop/routes/auth.py").read_text())
        self.run_readme()

    def make_earlier(self, commit: str, deleted: str, *options: str) -> None:
        """Make the copy by the command of an earlier commit, and change it as an owner does."""
        if subprocess.run(["git", "cat-file", "-e", commit], cwd=ROOT, capture_output=True).returncode:
            self.skipTest(f"the history of this checkout does not go back to {commit}")
        source = self.folder / "earlier"
        self.git("worktree", "add", "-q", "--detach", str(source), commit, folder=self.clone)
        run_python(self, source, "-m", "indico.new", "project", str(self.copy), *options)
        self.git("init", "-q")
        self.commit()
        # A route, a changed schema, a deleted battery and a renamed file.
        run_python(self, self.copy, "-m", "shop.new", "route", "order")
        self.edit("shop/db/user_db.py", '("location": .str.*\n)', r'\1    "size": (int, False),\n')
        for path in ("shop/batteries/{}.py", "shop/tests/batteries/test_{}.py", "docs/batteries/{}.rst"):
            (self.copy / path.format(deleted)).unlink()
        self.edit("shop/server.py", f'    "shop.batteries.{deleted}",\n', "")
        self.git("mv", "shop/utils/auth/facebook_utils.py", "shop/utils/auth/facebook.py")
        for path in ("shop/routes/auth.py", "shop/tests/utils/auth/test_facebook_utils.py"):
            self.rename_facebook(path)
        self.commit()

    def update(self, *options: str) -> list[tuple[str, str]]:
        """Update the copy, switch to the branch, and return the conflicts."""
        message = self.new("update", *options, str(self.copy))
        branch = self.git("branch", "--list", "update-*", "--format", "%(refname:short)").strip()
        self.git("switch", "-q", branch)
        self.assertIn('"size": (int, False)', (self.copy / "shop/db/user_db.py").read_text())
        return re.findall(r"^  (\S+) \((\S+)\)$", message, re.MULTILINE)

    def resolve(self, *paths: str) -> None:
        """Take what is new, with the owner's names."""
        for path in paths:
            self.edit(path, "(?s)<<<<<<< HEAD\n.*?=======\n(.*?)>>>>>>> boilerplate\n", r"\1")
            self.rename_facebook(path)

    def rename_facebook(self, path: str) -> None:
        self.edit(path, r"auth\.facebook_utils", "auth.facebook")
        self.edit(path, "import facebook_utils", "import facebook as facebook_utils")

    def edit(self, path: str, pattern: str, new: str) -> None:
        file = self.copy / path
        file.write_text(re.sub(pattern, new, file.read_text()))
