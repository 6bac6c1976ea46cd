"""
The files of a copy, in memory until all changes are made.
"""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch
from pathlib import Path

from indico.core.commands.new import ROOT

Files = dict[str, bytes]  # by path, relative to the checkout


def read_files() -> Files:
    """Read the files that git tracks, with uncommitted changes. Without git: all files not in .gitignore."""
    return {path: (ROOT / path).read_bytes() for path in list_tracked() or list_all()}


def list_tracked() -> list[str]:
    """Return the files that git tracks. Without git or a git repository, there are none."""
    try:
        git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True)
    except FileNotFoundError:
        return []
    return [path for path in git.stdout.decode().split("\0") if (ROOT / path).is_file()]


def list_all() -> list[str]:
    ignored = [".git", *(ROOT / ".gitignore").read_text(encoding="utf-8").split()]

    def is_ignored(path: Path) -> bool:
        name = path.relative_to(ROOT).as_posix()
        # As in git, a pattern with a slash before its end matches paths. Other patterns match names.
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


def replace_in(files: Files, path: str, pattern: str, new: str) -> None:
    """Replace a pattern in one of the files. ^ and $ match at each line."""
    files[path] = re.sub(pattern, new, files[path].decode(), flags=re.MULTILINE).encode()


def remove_file(files: Files, path: str) -> None:
    """Remove one of the files, and the links to it in README.md and the guide."""
    del files[path]
    for other in {"README.md", "MANIFEST.in"} & set(files):
        replace_in(files, other, rf"\[[^\]]+\]\({path}\)\. ?|^include {path}\n", "")
    if path.startswith("docs/") and path.endswith(".rst"):
        page = path[5:-4]
        name = page.rpartition("/")[2]
        for other in [other for other in files if fnmatch(other, "docs/*.rst")]:
            replace_in(files, other, rf"^ +/?{page}\n", "")
            replace_in(files, other, rf":doc:`([^`<]+) <[\w/]*\b{name}>`", r"\1")
            replace_in(files, other, rf":doc:`[\w/]*\b{name}`", f"``{name}``")


def write_files(folder: Path, files: Files) -> None:
    for path, content in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if content.startswith(b"#!"):
            file.chmod(0o755)
