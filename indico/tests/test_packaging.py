"""
What a release would be: an sdist that holds the checkout, and a wheel, made from it, that is all one needs.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile
from pathlib import Path

from indico import config
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.pages import NOT_COVERED, ROOT
from indico.tests.testutils.process import ProcessTest, ServerProcess, make_environment

PARTS = ("indico", "docs", "deploy")  # and what is beside them
LEFT_OUT = ("__pycache__", "_build", "*.egg-info", ".*")


def run(*command: str | Path, folder: Path) -> str:
    """Run it there, in an environment without this checkout; it has to succeed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env=make_environment({"PYTHONPATH": "", **NOT_COVERED}) | pip_settings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        raise AssertionError(done.stdout)
    return done.stdout


def pip_settings() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if re.match("PIP_|.*_(proxy|PROXY)$|SSL_", name)
    }


def list_files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


class RequirementsTest(unittest.TestCase):
    @slow
    def test_req_txt_may_be_edited_as_people_edit_it(self) -> None:
        if not ((ROOT / "setup.py").exists() and importlib.util.find_spec("setuptools")):
            raise unittest.SkipTest("this is no checkout, or setuptools is not installed")
        with tempfile.TemporaryDirectory(prefix="indico-test-") as folder:
            for path in ("setup.py", "README.md", "LICENSE", "indico/__init__.py"):
                target = Path(folder, path)
                target.parent.mkdir(exist_ok=True)
                shutil.copy(ROOT / path, target)
            Path(folder, "req.txt").write_bytes(
                b"\xef\xbb\xbf# for names\r\nidna>=3  # why\r\n\r\n"
                b'pywin32 >= 306; sys_platform == "win32"\r\n'
                b"pymongo [srv, tls] >=4.13, \\\r\n  <5\r\n  tornado~=6.5\r\n"
                b"shop @ https://example.com/shop.zip#sha256=00\r\n#six\r\n"
            )
            run(sys.executable, "setup.py", "-q", "egg_info", folder=Path(folder))
            written = Path(folder, "indico.egg-info/requires.txt").read_text()
        requires = written.replace("shop@ ", "shop @ ").splitlines()  # as old versions of setuptools write it
        for line in (
            "idna>=3",
            "pymongo[srv,tls]<5,>=4.13",
            "tornado~=6.5",
            "shop @ https://example.com/shop.zip#sha256=00",
            '[:sys_platform == "win32"]',
            "pywin32>=306",
        ):
            self.assertIn(line, requires)
        self.assertNotIn("six", requires)


@slow
class PackagingTest(ProcessTest):
    checkout: Path
    sdist: Path
    wheel: Path
    python: str  # of an environment with nothing but the wheel

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        if not (ROOT / "setup.py").exists():
            raise unittest.SkipTest("the package is installed, and not a checkout")
        temporary = tempfile.TemporaryDirectory(prefix="indico-build-")
        cls.addClassCleanup(temporary.cleanup)
        folder = Path(temporary.name).resolve()
        cls.checkout, built = folder / "checkout", folder / "built"
        cls.checkout.mkdir()
        for part in PARTS:
            shutil.copytree(ROOT / part, cls.checkout / part, ignore=shutil.ignore_patterns(*LEFT_OUT))
        for path in ROOT.glob("[!.]*"):
            if path.is_file():
                shutil.copy(path, cls.checkout)
        run(sys.executable, "-m", "venv", folder / "venv", folder=folder)
        cls.python = str(folder / "venv/bin/python")
        run(cls.python, "-m", "pip", "install", "-q", "build", folder=folder)
        # The sdist, and from that the wheel.
        run(cls.python, "-m", "build", "--outdir", built, folder=cls.checkout)
        [cls.wheel] = built.glob("*.whl")
        [cls.sdist] = built.glob("*.tar.gz")
        run(sys.executable, "-m", "venv", "--clear", folder / "venv", folder=folder)
        run(cls.python, "-m", "pip", "install", "-q", cls.wheel, folder=folder)

    def test_the_sdist_holds_the_checkout(self) -> None:
        with tarfile.open(self.sdist) as archive:
            held = {name.partition("/")[2] for name in archive.getnames()}
        self.assertEqual(list_files(self.checkout) - held, set())

    def test_the_wheel_holds_all_of_the_package_and_nothing_else(self) -> None:
        with zipfile.ZipFile(self.wheel) as archive:
            held = {name for name in archive.namelist() if ".dist-info/" not in name}
        self.assertEqual(held, {f"indico/{name}" for name in list_files(self.checkout / "indico")})
        self.assertIn("indico/py.typed", held)

    def test_installed_alone_it_serves(self) -> None:
        with ServerProcess(folder=self.folder, python=self.python, PYTHONPATH="", **NOT_COVERED) as server:
            self.assertEqual(server.post("auth/login", LOGIN_DATA)["status"], 200)
            self.assertEqual(server.post("auth/check")["data"], True)
        where = run(self.python, "-c", "import indico; print(indico.__file__)", folder=self.folder)
        self.assertIn("site-packages", where)

    def test_installed_alone_its_test_utilities_work(self) -> None:
        start_mongodb()
        self.assertTrue(config.MONGODB)
        output = run(self.python, "-m", "unittest", "indico.tests.routes.test_user", folder=self.folder)
        self.assertRegex(output, r"Ran \d\d? tests[^$]*\nOK")

    def test_it_asks_for_what_req_txt_names_and_no_more(self) -> None:
        run(self.python, "-m", "pip", "check", folder=self.folder)
        script = "from importlib.metadata import requires; print(*requires('indico'), sep='\\n')"
        printed = run(self.python, "-c", script, folder=self.folder).splitlines()
        required = [line for line in printed if "extra ==" not in line]
        self.assertEqual(sorted(required), sorted((ROOT / "req.txt").read_text().split()))
