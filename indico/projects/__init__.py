"""
`python -m indico.new project ../shop`: makes a copy of this checkout under another name, with the parts that
it is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import indico
from indico.core.commands.new import ROOT, CannotCreate, check_root
from indico.core.commands.new.formatting import format_files
from indico.core.log import announce
from indico.projects.names import check_name, check_unused, rename_files
from indico.projects.parts import DEFAULT, NAMES, check_needs, sort_names, split_names
from indico.projects.rendering import Files, read_files, remove_parts, run_git

RECORD = ".boilerplate.json"  # in a copy: what it was made from

# Imports all modules of a copy but its tests, asks each command for its help, and makes the application. A
# package of an extra may be missing here.
START = """
import contextlib, importlib, pkgutil, sys
name = sys.argv[1]
for module in pkgutil.walk_packages(importlib.import_module(name).__path__, name + "."):
    if "tests" not in module.name:
        importlib.import_module(module.name)
for module, _ in importlib.import_module(name + ".__main__").COMMANDS.values():
    with contextlib.suppress(SystemExit):
        importlib.import_module(module).main(["--help"])
with contextlib.suppress(importlib.import_module(name + ".config").SettingError):
    importlib.import_module(name + ".server").make_app()
"""


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "project",
        help="make a renamed copy of this boilerplate, with the parts that you choose",
        description="Make a renamed copy of this boilerplate in a new folder. The last part of FOLDER is the"
        f" new name of the package, the settings and the classes. The parts: {', '.join(NAMES)}.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the new folder, such as ../shop")
    add_options(parser)
    parser.add_argument("--parts", metavar="PARTS", help="exactly these parts, whatever the default is")
    parser.set_defaults(run=make_project)


def add_options(parser: Any) -> None:
    also = f"parts besides {', '.join(DEFAULT)}, separated by commas, such as openid,sentry"
    parser.add_argument("--with", dest="also", metavar="PARTS", default="", help=also)
    less = "parts to leave out, separated by commas, such as health,limit"
    parser.add_argument("--without", metavar="PARTS", default="", help=less)


def make_project(folder: Path, also: str = "", without: str = "", parts: str | None = None) -> str:
    """Make the copy, and return a message for the terminal. Raises CannotCreate."""
    wanted = {*DEFAULT, *split_names(also)} - split_names(without)
    if parts is not None:
        wanted = split_names(parts)
    count = write_copy(folder.resolve(), wanted)
    hint = "" if find_commit() else "\nIt can't be updated later, because this checkout has changes."
    return f"Created {folder} with {count} files.\nIts README.md says how to start and test it.{hint}"


@announce("Making a copy and starting it once")
def write_copy(folder: Path, wanted: Collection[str]) -> int:
    """Write a copy and start it once; if anything fails, there is none. Returns the number of its files."""
    check_root()
    if importlib.util.find_spec("ruff") is None:
        raise CannotCreate("ruff, which formats the copy, is not installed: pip install -e '.[dev]'")
    check_needs(wanted)
    check_name(folder.name)
    check_folder(folder)
    files = read_files()
    check_unused(folder.name, files)
    record = {"name": folder.name, "version": indico.__version__, "commit": find_commit()}
    remove_parts(files, wanted)
    files = rename_files(files, folder.name)
    files[RECORD] = json.dumps({**record, "parts": sort_names(wanted)}, indent=2) + "\n"
    try:
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as place:
            made = Path(place, folder.name)
            write_files(made, files)
            if problem := format_files(made, [path for path in files if path.endswith(".py")]):
                raise CannotCreate(problem.strip())
            start = [sys.executable, "-Bc", START, folder.name]
            result = subprocess.run(start, cwd=made, capture_output=True, text=True)
            if result.returncode:
                line = result.stderr.strip().rpartition("\n")[2]
                raise CannotCreate(f"A copy is what git tracks. It did not start, so it was not made: {line}")
            made.rename(folder)
    except OSError as error:
        raise CannotCreate(f"{folder} can't be created: {error.strerror or error}.") from error
    return len(files)


def find_commit() -> str | None:
    """Return the commit of this checkout, or None if it has changes that are not committed."""
    is_changed = run_git(ROOT, "status", "--porcelain", "--untracked-files=no")
    return None if is_changed else run_git(ROOT, "rev-parse", "HEAD").strip()


def check_folder(folder: Path) -> None:
    """Raise CannotCreate unless the folder can be created, outside this checkout."""
    if folder.exists():
        raise CannotCreate(f"{folder} already exists. It was not changed.")
    if not folder.parent.is_dir():
        raise CannotCreate(f"{folder.parent} is not a folder, so the copy can't be created in it.")
    if folder.is_relative_to(ROOT):
        raise CannotCreate(
            f"{folder} is inside this checkout: choose one beside it, such as ../{folder.name}."
        )


def write_files(folder: Path, files: Files) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode(errors="surrogateescape"))
        if content.startswith("#!"):
            file.chmod(0o755)
