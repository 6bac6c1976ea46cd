"""
Removes batteries from the files of a copy.
"""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch

from indico.core.commands.new import CannotCreate
from indico.core.commands.new.project.files import Files, remove_file, replace_in
from indico.core.commands.new.project.names import OLD

DEFAULT = ("cors", "docs_page", "health", "limit", "logs", "metrics", "openapi")  # the others: --with


def list_batteries(files: Files) -> list[str]:
    """Return the batteries in server.py."""
    server = files[f"{OLD}/server.py"].decode()
    return re.findall(rf'^    "{OLD}\.batteries\.(\w+)",$', server, re.MULTILINE)


def find_batteries(text: str, files: Files) -> list[str]:
    """
    Return the batteries in server.py that have these names, separated by commas. The beginning of a name is
    enough if it is unique. Raises CannotCreate if there is no such battery.
    """
    existing = list_batteries(files)
    found: dict[str, None] = {}
    for word in filter(None, re.split("[ ,]+", text)):
        matching = [word] if word in existing else [name for name in existing if name.startswith(word)]
        if len(matching) != 1:
            raise CannotCreate(f"{word} is not one of the batteries: {', '.join(existing)}.")
        found[matching[0]] = None
    return list(found)


def remove_battery(files: Files, battery: str) -> None:
    """
    Remove a battery: its file or folder, its test and page, its line in server.py, its extra in setup.py, and
    the settings that nothing else mentions.
    """
    own = (
        f"{OLD}/batteries/{battery}",
        f"{OLD}/tests/batteries/test_{battery}",
        f"docs/batteries/{battery}",
    )
    beginnings = (*(f"{name}{end}" for name in own for end in "./"), f"{OLD}/tests/batteries/{battery}_")
    settings: set[str] = set()
    for path in list(files):
        if path.startswith(beginnings):
            if path.startswith(own[0]):
                settings.update(re.findall(r"\bconfig\.([A-Z_]+)\b", files[path].decode()))
            remove_file(files, path)
    if not any(fnmatch(path, "docs/batteries/*.rst") for path in files):
        replace_in(files, "docs/batteries.rst", r"\nThese come with the boilerplate:\n(.*\n)*", "")
    replace_in(files, f"{OLD}/server.py", rf'^    "{OLD}\.batteries\.{battery}",\n', "")
    remove_extra(files, battery)
    for name in sorted(settings):
        remove_setting(files, name)


def remove_extra(files: Files, battery: str) -> None:
    """Remove the battery's extra, and its packages from the extra `dev` if no other extra needs them."""
    extra = battery.replace("_", "[_-]")
    found = re.search(
        rf'^ +"{extra}": \[(.*?)\],(?:  #[^\n]*)?\n', files["setup.py"].decode(), re.MULTILINE | re.DOTALL
    )
    if found is not None:
        replace_in(files, "setup.py", re.escape(found[0]), "")
        for package in re.findall('"[^"]+"', found[1]):
            if files["setup.py"].decode().count(package) == 1:
                replace_in(files, "setup.py", rf"^ +{re.escape(package)},\n", "")


def remove_setting(files: Files, name: str) -> None:
    """Remove a setting from config.py and settings.rst, unless another file mentions it."""
    config, page = f"{OLD}/config.py", "docs/settings.rst"
    others = files.keys() - {".ci/lib.sh"}  # it unsets all settings
    mentioning = {path for path in others if re.search(rf"\b{name}\b".encode(), files[path])}
    source = files[config].decode()
    tree = ast.parse(source)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    if mentioning <= {config, page} and len(uses) == 1:
        lines = source.splitlines(keepends=True)
        [setting] = [node for node in tree.body if uses[0] in getattr(node, "targets", [])]
        del lines[setting.lineno - 1 : setting.end_lineno]
        files[config] = "".join(lines).encode()
        replace_in(files, config, r"^# .*\n\n", "")  # headings without settings
        replace_in(files, page, rf"^   \* - ``{name}``\n(     .*\n)*", "")
