"""
`python -m indico.new project ../shop`: copies this checkout under another name. Files about the boilerplate
itself, and this command, are not copied.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from indico.core.commands.new import ROOT, CannotCreate, check_root
from indico.core.commands.new.formatting import format_files
from indico.core.commands.new.project.batteries import DEFAULT, find_batteries, list_batteries, remove_battery
from indico.core.commands.new.project.files import read_files, remove_file, replace_in, write_files
from indico.core.commands.new.project.names import OLD, check_name, rename_files

# Files and folders about the boilerplate itself.
LEFT_BEHIND = (
    *(
        f".ci/{name}"
        for name in ("all", "containers.sh", "debian.sh", "house.py", "lib.sh", "lowest.py", "readme.py")
    ),
    "CHANGELOG.md",
    "bench",
    "docs/original.rst",
    "docs/renaming.rst",
    f"{OLD}/core/commands/new/project",
    f"{OLD}/tests/core/commands/new/test_project.py",
    f"{OLD}/tests/test_data_of_2015.py",
    f"{OLD}/tests/test_repository.py",
)
CI_RUN = Path(__file__).parent / "templates" / "ci_run.txt"  # of a copy


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "project",
        help="make a renamed copy of this boilerplate, --with or --without some batteries",
        description="Make a renamed copy of this boilerplate in a new folder. The last part of FOLDER is the"
        " new name of the package, the settings and the classes.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where to make it, such as ../shop")
    parser.add_argument(
        "--with",
        dest="also",
        metavar="BATTERIES",
        default="",
        help=f"batteries besides {', '.join(DEFAULT)}, separated by commas, such as openid,sentry",
    )
    parser.add_argument(
        "--without",
        metavar="BATTERIES",
        default="",
        help="batteries to leave out, separated by commas, such as health,limit",
    )
    parser.set_defaults(run=make_project)


def make_project(folder: Path, also: str = "", without: str = "") -> str:
    """Make the copy, and return a message for the terminal. Raises CannotCreate."""
    check_root()
    folder = folder.resolve()
    files = read_files()
    check_name(folder.name, files)
    check_folder(folder)
    wanted = {*DEFAULT, *find_batteries(also, files)} - {*find_batteries(without, files)}
    for battery in list_batteries(files):
        if battery not in wanted:
            remove_battery(files, battery)
    for path in list(files):
        if any(path == left or path.startswith(f"{left}/") for left in LEFT_BEHIND):
            remove_file(files, path)
    files[".ci/run"] = CI_RUN.read_bytes()
    replace_in(files, f"{OLD}/core/commands/new/__main__.py", f'    "{OLD}.core.commands.new.project",\n', "")
    replace_in(files, "README.md", f"^`python -m {OLD}.new project.*\n", "")
    replace_in(files, "README.md", "^bench/ .*\n", "")
    # The machine room is tested here. What a copy covers of it depends on its batteries.
    omitted = f"omit =\n    {OLD}/tests/*\n    {OLD}/core/*"
    replace_in(files, "setup.cfg", r"^omit = .+$", omitted)
    replace_in(files, "setup.cfg", "^show_missing = true$", f"show_missing = true\n{omitted}")
    replace_in(files, "README.md", "starts a project of your own, or a route$", "starts a route")
    files = rename_files(files, folder.name)
    try:
        write_files(folder, files)
    except OSError as error:
        raise CannotCreate(f"{folder} can't be created: {error.strerror}.") from error
    hint = format_files(folder, [path for path in files if path.endswith(".py")])
    return f"Created {folder} with {len(files)} files. Its README.md says how to start and to test it.{hint}"


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
