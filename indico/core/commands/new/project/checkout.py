"""
The files of the checkout, in memory until all that is to be done with them is done.
"""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from indico.core.commands.new import ROOT

Files = dict[str, bytes]  # by their paths below the checkout


def read_files() -> Files:
    """What git tracks in this checkout, as it is now; without git, all but what git would ignore."""
    return {path: (ROOT / path).read_bytes() for path in list_tracked() or list_all()}


def list_tracked() -> list[str]:
    """None where there is no git, or the checkout is in none."""
    try:
        git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    except FileNotFoundError:
        return []
    return [path for path in git.stdout.decode().split("\0") if (ROOT / path).is_file()]


def list_all() -> list[str]:
    ignored = [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").split()]

    def is_ignored(path: Path) -> bool:
        name = path.relative_to(ROOT).as_posix()
        # As git has it, a pattern with a slash before its end is about a path and any other about a name.
        return any(
            fnmatch(name if "/" in pattern[:-1] else path.name, pattern.strip("/")) for pattern in ignored
        )

    def walk(folder: Path) -> list[str]:
        found = []
        for path in sorted(folder.iterdir()):
            if not is_ignored(path):
                found += walk(path) if path.is_dir() else [path.relative_to(ROOT).as_posix()]
        return found

    return walk(ROOT)


def edit(files: Files, path: str, pattern: str, new: str) -> None:
    """Replace the pattern, in which ^ and $ mean lines, in one of the files."""
    files[path] = re.sub(pattern, new, files[path].decode(), flags=re.MULTILINE).encode()


def forget(files: Files, path: str) -> None:
    """Remove one of the files, and what leads to it: from the README, or from page to page of the guide."""
    del files[path]
    for other in {"README.md", "MANIFEST.in"} & set(files):
        edit(files, other, rf"\[[^\]]+\]\({path}\)\. ?|^include {path}\n", "")
    if path.startswith("docs/") and path.endswith(".rst"):
        page = path[5:-4]
        name = page.rpartition("/")[2]
        for other in [other for other in files if fnmatch(other, "docs/*.rst")]:
            edit(files, other, rf"^ +/?{page}\n", "")
            edit(files, other, rf":doc:`([^`<]+) <[\w/]*\b{name}>`", r"\1")
            edit(files, other, rf":doc:`[\w/]*\b{name}`", f"``{name}``")


def write_files(folder: Path, files: Files) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if content.startswith(b"#!"):
            file.chmod(0o755)
