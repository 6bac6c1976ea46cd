"""
The new name, and how it takes the place of the old one.
"""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import sys
from collections.abc import Callable

from indico.core.commands.new import Refused, read_names
from indico.core.commands.new.project.checkout import Files

OLD = "indico"
KEPT = ("LICENSE",)  # it names whoever wrote this


def check_name(name: str, files: Files) -> None:
    """Raise Refused unless a package can have the name, and nothing else has it."""
    if not re.fullmatch("(?=.{1,40}$)[a-z][a-z0-9]*(_[a-z0-9]+)*", name) or keyword.iskeyword(name):
        raise Refused(
            f"{name!r} can't be the name of a package: take lower-case letters, then also digits and single"
            " underscores, 40 at most."
        )
    if OLD in name:
        raise Refused(f"{name} holds the old name, {OLD}: take another.")
    if name in sys.stdlib_module_names or name in dir(builtins):
        raise Refused(f"{name} is a name of Python's own: take another.")
    if any(path.startswith(f"{name}/") for path in files) or name in ("build", "dist"):
        raise Refused(f"{name} is a folder beside the package: take another name.")
    if importlib.util.find_spec(name) is not None:
        raise Refused(f"{name} is a package that is installed here: take another name.")
    sources = [source for path, source in files.items() if path.endswith(".py")]
    old = {word for source in sources for word in re.findall(rf"\w*{OLD}\w*", source.decode(), re.IGNORECASE)}
    new = {name, *map(make_rename(name), old)}
    for source in sources:
        found = new.intersection(re.findall(r"\w+", source.decode()))
        for word in sorted(found and found & read_names(source)):
            raise Refused(f"{word} is a name that the code has already: take another than {name}.")


def make_rename(name: str) -> Callable[[str], str]:
    """A function that renames all there is in a text: indico, INDICO_ENV, IndicoHandler, Indico_Key."""
    parts = [part.capitalize() for part in name.split("_")]

    def replace(match: re.Match[str]) -> str:
        old = match[1]
        if old.islower():
            return name
        return name.upper() if old.isupper() else ("_" if match[2] else "").join(parts)

    return lambda text: re.sub(rf"({OLD})(?=(_)?)", replace, text, flags=re.IGNORECASE)


def rename_files(files: Files, name: str) -> Files:
    """The files, with the new name in their paths and texts."""
    rename = make_rename(name)
    renamed = {}
    for path, content in files.items():
        try:
            text = content.decode()
        except UnicodeDecodeError:  # a picture
            renamed[rename(path)] = content
            continue
        if path.endswith((".rst", ".md")):
            new = fit_underlines(text, rename(fit_columns(text, rename)))
        else:
            new = rename(text) if path not in KEPT else text
        if path.endswith((".py", ".rst")):
            new = sort_members(new)
        renamed[rename(path)] = new.encode()
    return renamed


def fit_columns(text: str, rename: Callable[[str], str]) -> str:
    """The text, renamed where columns follow, which stay where they are if there is room."""

    def replace(cell: re.Match[str]) -> str:
        return rename(cell[1]).ljust(len(cell[0]) - 2) + "  "

    return re.sub(rf"(\S*{OLD}\S*(?: \S+)*) {{2,}}(?=\S)", replace, text, flags=re.IGNORECASE)


def fit_underlines(old: str, new: str) -> str:
    """The new text, in which titles that were underlined to their ends are so again."""
    titles, lines = old.split("\n"), new.split("\n")
    for number, line in enumerate(lines[1:]):
        if re.fullmatch(r"([=\-~^\"])\1+", line) and len(line) == len(titles[number]):
            lines[number + 1] = line[0] * len(lines[number])
    return "\n".join(lines)


def sort_members(text: str) -> str:
    """The text, with what is imported in the order that ruff wants: CONSTANTS, Classes, and the others."""

    def key(member: str) -> tuple[int, str]:
        return 0 if member.isupper() else 1 if member[0].isupper() else 2, member.lower()

    def sort(match: re.Match[str]) -> str:
        return match[1] + match[3].join(sorted(re.findall(r"\w+", match[2]), key=key))

    text = re.sub(r"^( *from \S+ import )(\w+(?:(, )\w+)+)$", sort, text, flags=re.MULTILINE)
    return re.sub(r"^( *from \S+ import \(\n *)(\w+(?:(,\n *)\w+)+)", sort, text, flags=re.MULTILINE)
