"""
The folder of development, and its secrets.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

from indico import config
from indico.core import development
from indico.tests.testutils import slow
from indico.tests.testutils.checkout import ROOT
from indico.tests.testutils.process import make_environment, make_folder, remove_folder
from indico.tests.testutils.strict import StrictTest


class DevelopmentTest(StrictTest):
    """Each test has a working folder of its own."""

    def setUp(self) -> None:
        super().setUp()
        folder = make_folder()
        self.addCleanup(remove_folder, folder)
        self.addCleanup(os.chdir, os.getcwd())
        os.chdir(folder)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class FolderTest(DevelopmentTest):
    def test_the_folder_is_its_owners_alone_whatever_the_umask(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.assertEqual(mode(development.make_folder()), 0o700)
        self.assertEqual(mode(development.make_folder("mongodb")), 0o700)

    @unittest.skipUnless(shutil.which("git"), "needs git")
    def test_git_ignores_all_that_is_in_it(self) -> None:
        development.make_folder("mongodb").joinpath("data").write_text("data")
        development.get_secret("user_salt")
        subprocess.run(["git", "init", "--quiet"], check=True)
        status = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True)
        self.assertEqual(status.stdout, b"")

    @unittest.skipUnless(shutil.which("git"), "needs git")
    def test_git_ignores_the_file_of_settings(self) -> None:
        path = ROOT / ".gitignore"
        if not path.exists():
            self.skipTest("the package is installed, and not a checkout")
        Path(".gitignore").write_text(path.read_text())
        for name in (".env", "indico/.env", ".indico/dev_token"):
            Path(name).parent.mkdir(exist_ok=True)
            Path(name).touch()
        subprocess.run(["git", "init", "--quiet"], check=True)
        status = subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True)
        self.assertEqual(status.stdout, b"?? .gitignore\n")

    def test_a_folder_that_is_there_stays_as_it_is(self) -> None:
        path = development.make_folder("mongodb") / "data"
        path.write_text("data")
        self.assertEqual(development.make_folder("mongodb"), path.parent)
        self.assertEqual(path.read_text(), "data")

    def test_a_folder_that_can_not_be_made_is_a_sentence(self) -> None:
        development.FOLDER.write_text("a file")
        with self.assertRaises(config.SettingError) as raised:
            development.make_folder()
        self.assertEqual(
            str(raised.exception),
            f"Development keeps its data in {Path.cwd() / '.indico'}, which can't be made: File exists.",
        )


class SecretTest(DevelopmentTest):
    def test_a_secret_is_64_hex_digits_for_its_owners_eyes_only(self) -> None:
        self.addCleanup(os.umask, os.umask(0))
        self.assertRegex(development.get_secret("user_salt"), "^[0-9a-f]{64}$")
        self.assertEqual(mode(development.FOLDER / "user_salt"), 0o600)
        self.assertEqual(mode(development.FOLDER), 0o700)

    def test_nothing_is_left_beside_it(self) -> None:
        development.get_secret("user_salt")
        self.assertEqual(sorted(os.listdir(development.FOLDER)), [".gitignore", "user_salt"])

    @slow
    def test_a_secret_is_kept(self) -> None:
        secret = development.get_secret("user_salt")
        self.assertEqual(development.get_secret("user_salt"), secret)
        program = "from indico.core.development import get_secret; print(get_secret('user_salt'))"
        other = subprocess.run(
            [sys.executable, "-c", program],
            env=make_environment({}),
            check=True,
            capture_output=True,
            text=True,
        )
        self.assertEqual(other.stdout.strip(), secret)

    def test_each_name_has_a_secret_of_its_own(self) -> None:
        self.assertNotEqual(development.get_secret("user_salt"), development.get_secret("dev_token"))

    def test_two_who_ask_at_once_get_the_same(self) -> None:
        both_ask = threading.Barrier(2, timeout=10)
        made: list[str] = []

        def ask(_: int) -> str:
            both_ask.wait()
            return development.get_secret("user_salt")

        def token_hex(size: int) -> str:
            made.append(os.urandom(size).hex())
            time.sleep(0.05)  # the other one waits meanwhile, or finds none
            return made[-1]

        with mock.patch("secrets.token_hex", token_hex), ThreadPoolExecutor(2) as pool:
            first, second = pool.map(ask, range(2))
        self.assertEqual([first, second], [made[0]] * 2)
        self.assertEqual((len(made), (development.FOLDER / "user_salt").read_text()), (1, first))

    def test_neither_hard_links_nor_locks_are_needed(self) -> None:
        refused = OSError(errno.ENOTSUP, "Operation not supported")
        with mock.patch("os.link", side_effect=refused), mock.patch("fcntl.flock", side_effect=refused):
            secret = development.get_secret("user_salt")
        self.assertEqual(development.get_secret("user_salt"), secret)

    def test_one_that_was_made_is_read_where_nothing_can_be_written(self) -> None:
        secret = development.get_secret("user_salt")
        with mock.patch.object(development, "make_folder", side_effect=config.SettingError("read-only")):
            self.assertEqual(development.get_secret("user_salt"), secret)

    def test_where_none_can_be_stored_the_process_keeps_it_and_says_so_once(self) -> None:
        self.addCleanup(development._unsaved.clear)
        development.FOLDER.write_text("a file")
        with self.assertLogs("indico", "WARNING") as logs:
            first, second = development.get_secret("user_salt"), development.get_secret("user_salt")
        self.assertRegex(first, "^[0-9a-f]{64}$")
        self.assertEqual(first, second)
        [line] = logs.output
        self.assertIn("user_salt changes with each start, because it can't be stored: ", line)

    def test_the_server_makes_those_that_are_not_set_before_its_workers(self) -> None:
        with mock.patch.multiple(config, DEV_TOKEN="", USER_SALT="given"):
            development.make_secrets()
        self.assertEqual(sorted(os.listdir(development.FOLDER)), [".gitignore", "dev_token"])

    def test_production_makes_none(self) -> None:
        with mock.patch.multiple(config, DEV_TOKEN="", USER_SALT="", PRODUCTION=True):
            development.make_secrets()
        self.assertFalse(development.FOLDER.exists())
