"""
Leaves batteries out.
"""

from __future__ import annotations

import ast
import re
from fnmatch import fnmatch

from indico.core.commands.new import Refused
from indico.core.commands.new.project.checkout import Files, edit, forget
from indico.core.commands.new.project.names import OLD


def find_batteries(text: str, files: Files) -> list[str]:
    """
    The batteries of server.py that are meant by names with commas between; as much of a name as tells it
    from the others will do. Raises Refused for any other.
    """
    there = re.findall(rf'^    "{OLD}\.batteries\.(\w+)",$', files[f"{OLD}/server.py"].decode(), re.MULTILINE)
    found: dict[str, None] = {}
    for word in filter(None, re.split("[ ,]+", text)):
        meant = [word] if word in there else [name for name in there if name.startswith(word)]
        if len(meant) != 1:
            raise Refused(f"{word} is none of the batteries, which are {', '.join(there)}.")
        found[meant[0]] = None
    return list(found)


def leave_out(files: Files, battery: str) -> None:
    """
    Leave a battery out: its file, test and page, its line in server.py, its extra in setup.py, and the
    settings that nothing else speaks of.
    """
    source = files[f"{OLD}/batteries/{battery}.py"].decode()
    own = (f"{OLD}/batteries/{battery}.py", f"{OLD}/tests/batteries/test_{battery}.py")
    for path in list(files):
        if path in own or fnmatch(path, f"docs/batteries/{battery}.*"):
            forget(files, path)
    if not any(fnmatch(path, "docs/batteries/*.rst") for path in files):
        edit(files, "docs/batteries.rst", r"\nThose that are here:\n(.*\n)*", "")
    edit(files, f"{OLD}/server.py", rf'^    "{OLD}\.batteries\.{battery}",\n', "")
    drop_extra(files, battery)
    for name in sorted(set(re.findall(r"\bconfig\.([A-Z_]+)\b", source))):
        drop_setting(files, name)


def drop_extra(files: Files, battery: str) -> None:
    """Drop the battery's extra, and from the lines of the extra `dev` what nothing else needs."""
    extra = battery.replace("_", "[_-]")
    found = re.search(
        rf'^ +"{extra}": \[(.*?)\],(?:  #[^\n]*)?\n', files["setup.py"].decode(), re.MULTILINE | re.DOTALL
    )
    if found is not None:
        edit(files, "setup.py", re.escape(found[0]), "")
        for package in re.findall('"[^"]+"', found[1]):
            if files["setup.py"].decode().count(package) == 1:
                edit(files, "setup.py", rf"^ +{re.escape(package)},\n", "")


def drop_setting(files: Files, name: str) -> None:
    """Drop a setting from config.py and settings.rst, unless anything else speaks of it."""
    config, page = f"{OLD}/config.py", "docs/settings.rst"
    others = [path for path in files if not path.startswith(".ci/")]  # where all are unset
    speaking = {path for path in others if re.search(rf"\b{name}\b".encode(), files[path])}
    source = files[config].decode()
    tree = ast.parse(source)
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    if speaking <= {config, page} and len(uses) == 1:
        lines = source.splitlines(keepends=True)
        [setting] = [node for node in tree.body if uses[0] in getattr(node, "targets", [])]
        del lines[setting.lineno - 1 : setting.end_lineno]
        files[config] = "".join(lines).encode()
        edit(files, page, rf"^   \* - ``{name}``\n(     .*\n)*", "")
