"""
Checks the new name, and replaces the old one.
"""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import sys
from collections.abc import Callable, Mapping

from indico.core.commands.new import CannotCreate, read_names

OLD = "indico"
KEPT = ("LICENSE",)  # unchanged: it names the author


def check_name(name: str) -> None:
    """Raise CannotCreate unless a package can have this name."""
    if not re.fullmatch("(?=.{1,40}$)[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise CannotCreate(
            f"{name!r} can't be the name of a package: use lower-case letters, digits and single underscores,"
            " at most 40, and begin with a letter."
        )
    if OLD in name:
        raise CannotCreate(f"{name} contains the old name, {OLD}: choose another name.")
    if name in sys.stdlib_module_names or name in dir(builtins):
        raise CannotCreate(f"{name} is a name in Python itself: choose another name.")


def check_unused(name: str, files: Mapping[str, str]) -> None:
    """Raise CannotCreate if a package or something in these files has the name."""
    if any(path.startswith(f"{name}/") for path in files) or name in ("build", "dist"):
        raise CannotCreate(f"{name} is a folder beside the package: choose another name.")
    if importlib.util.find_spec(name) is not None:
        raise CannotCreate(f"{name} is an installed package: choose another name.")
    words = {path: {*re.findall(r"\w+", text)} for path, text in files.items() if path.endswith(".py")}
    old = {word for found in words.values() for word in found if OLD in word.lower()}
    new = {name, *map(make_rename(name), old)}
    for path in words:
        found = new & words[path]
        for word in sorted(found and found & read_names(files[path].encode())):
            raise CannotCreate(f"{word} is already a name in the code: choose another name than {name}.")


def make_rename(name: str) -> Callable[[str], str]:
    """Return a function that replaces all forms of the old name: indico, INDICO_ENV, IndicoHandler."""
    parts = [part.capitalize() for part in name.split("_")]

    def replace(match: re.Match[str]) -> str:
        old = match[1]
        if old.islower():
            return name
        return name.upper() if old.isupper() else ("_" if match[2] else "").join(parts)

    return lambda text: re.sub(rf"({OLD})(?=(_)?)", replace, text, flags=re.IGNORECASE)


def rename_files(files: Mapping[str, str], name: str) -> dict[str, str]:
    """Return the files with the new name in their paths and contents."""
    rename = make_rename(name)
    renamed = {}
    for path, text in files.items():
        new = text
        if path not in KEPT and "\0" not in text:  # no picture
            new = rename(text)
        if path.endswith((".rst", ".md")):
            new = fit_underlines(text, rename(fit_columns(text, rename)))
        if path.endswith((".py", ".rst")):
            new = sort_members(new)
        renamed[rename(path)] = new
    return renamed


def fit_columns(text: str, rename: Callable[[str], str]) -> str:
    """Return the text with tables renamed. Columns keep their positions if there is room."""

    def replace(cell: re.Match[str]) -> str:
        return rename(cell[1]).ljust(len(cell[0]) - 2) + "  "

    return re.sub(rf"(\S*{OLD}\S*(?: \S+)*) {{2,}}(?=\S)", replace, text, flags=re.IGNORECASE)


def fit_underlines(old: str, new: str) -> str:
    """Return the new text with each title's underline as long as the title."""
    titles, lines = old.split("\n"), new.split("\n")
    for number, line in enumerate(lines[1:]):
        if re.fullmatch(r"([=\-~^\"])\1+", line) and len(line) == len(titles[number]):
            lines[number + 1] = line[0] * len(lines[number])
    return "\n".join(lines)


def sort_members(text: str) -> str:
    """Return the text with imported names in ruff's order: CONSTANTS, Classes, others."""

    def key(member: str) -> tuple[int, str]:
        return 0 if member.isupper() else 1 if member[0].isupper() else 2, member.lower()

    def sort(match: re.Match[str]) -> str:
        return match[1] + match[3].join(sorted(re.findall(r"\w+", match[2]), key=key))

    text = re.sub(r"^( *from \S+ import )(\w+(?:(, )\w+)+)$", sort, text, flags=re.MULTILINE)
    return re.sub(r"^( *from \S+ import \(\n *)(\w+(?:(,\n *)\w+)+)", sort, text, flags=re.MULTILINE)
