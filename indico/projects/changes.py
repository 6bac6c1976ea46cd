"""
`python -m indico.new add`, `remove` and `update`: change a copy that was made earlier. It is made again, as
it was and as it should be, and git merges the difference into what its owner has made of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import indico
from indico.core.commands.new import ROOT, CannotCreate, check_root
from indico.core.log import announce
from indico.projects import RECORD, add_options, find_commit, write_copy
from indico.projects.names import OLD, make_rename
from indico.projects.parts import NAMES, PARTS, split_names
from indico.projects.rendering import call_git, run_git


def add_command(commands: Any) -> None:
    for word, text in (("add", "add parts to a copy"), ("remove", "remove parts from a copy")):
        parser = commands.add_parser(word, help=text, description=f"{text.capitalize()}: {', '.join(NAMES)}.")
        parser.add_argument("parts", metavar="PARTS", help="separated by commas, such as openid,sentry")
        parser.add_argument("folder", metavar="FOLDER", type=Path, help="the copy, such as ../shop")
        parser.set_defaults(run=change_parts, word=word)
    text = "merge the new version of the boilerplate into a new branch of a copy"
    parser = commands.add_parser("update", help=text, description=f"{text.capitalize()}.")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the copy, such as ../shop")
    origin = "the commit that made the copy, if it records none; add the options of that time"
    parser.add_argument("--from", dest="commit", metavar="COMMIT", default="", help=origin)
    add_options(parser)
    parser.set_defaults(run=update)


def change_parts(word: str, parts: str, folder: Path) -> str:
    """Add or remove parts, and return a message for the terminal. Raises CannotCreate, with the conflicts."""
    changed = split_names(parts)
    copy, commit = check_folders(folder)
    record = read_record(folder)
    present = {*record["parts"]}
    for name in sorted(changed & present if word == "add" else changed - present):
        raise CannotCreate(f"{folder} {'already has' if word == 'add' else 'has no'} {name}.")
    if record["commit"] != commit:
        raise CannotCreate(f"{folder} was made from another commit: update it, or check out that commit.")
    with tempfile.TemporaryDirectory(prefix="indico-new-") as place:
        base, wanted = (Path(tempfile.mkdtemp(dir=place), record["name"]) for _ in range(2))
        write_copy(base, present)
        write_copy(wanted, present ^ changed)
        merge = merge_copies(Path(place), base, wanted, copy)
        if merge.conflicts:
            raise CannotCreate("\n".join([f"Nothing was changed in {folder}:", *merge.conflicts]))
        run_git(merge.scratch, "diff", "--binary", "--output=patch", merge.yours, merge.result)
        run_git(folder, "apply", "--whitespace=nowarn", str(merge.scratch / "patch"))
    return (
        f"Changed the files of {folder}, and committed nothing: look at git diff.\n"
        "Then install what it needs now: pip install -e '.[dev]'"
    )


def update(folder: Path, commit: str = "", also: str = "", without: str = "") -> str:
    """Make a branch with what is new, and return a message for the terminal. Raises CannotCreate."""
    copy, new = check_folders(folder)
    options = [*(["--with", also] if also else []), *(["--without", without] if without else [])]
    if not (folder / RECORD).exists():
        if not commit:
            raise CannotCreate(f"{folder} records no commit: name the commit that made it with --from.")
        name = copy.name
    elif commit or options:
        raise CannotCreate(f"{folder} records what made it, in {RECORD}: leave out the options.")
    else:
        record = read_record(folder)
        name, commit, options = record["name"], record["commit"], ["--parts", ",".join(record["parts"])]
    if call_git(ROOT, "cat-file", "-e", f"{commit}^{{commit}}").returncode:
        raise CannotCreate(f"The commit {commit} is not in this clone: git fetch, or look for another clone.")
    commit = run_git(ROOT, "rev-parse", f"{commit}^{{commit}}").strip()
    if commit == new:
        return f"{folder} is up to date."
    branch = f"update-{new[:7]}"
    if call_git(folder, "rev-parse", "-q", "--verify", f"refs/heads/{branch}").returncode == 0:
        raise CannotCreate(f"{folder} has a branch {branch}: merge it, or delete it to start again.")
    with tempfile.TemporaryDirectory(prefix="indico-new-") as place:
        base, wanted = (Path(tempfile.mkdtemp(dir=place), name) for _ in range(2))
        write_earlier_copy(commit, base, options)
        write_copy(wanted, find_parts(base, folder))
        merge = merge_copies(Path(place), base, wanted, copy)
        message = f"Update from {commit[:7]} to {new[:7]}, version {indico.__version__}"
        tree = f"{merge.result}^{{tree}}"
        update = run_git(merge.scratch, "commit-tree", "-m", message, "-p", "FETCH_HEAD", tree).strip()
        run_git(merge.scratch, "branch", branch, update)
        run_git(folder, "fetch", "-q", "--no-tags", str(merge.scratch), f"{branch}:{branch}")
    lines = [f"Made the branch {branch} in {folder}.", "Your branch and your files are as they were.", ""]
    if merge.conflicts:
        lines += ["Changed in both:", *merge.conflicts, ""]
    resolve = "resolve what stands between <<<<<<< and >>>>>>>, commit,\n" if merge.conflicts else ""
    lines += [f"In {folder}: git switch {branch},", f"{resolve}pip install -e '.[dev]' && nosetests."]
    return "\n".join([*lines, f"Then git switch -, git merge {branch}."])


def check_folders(folder: Path) -> tuple[Path, str]:
    """Return the copy's folder and the commit of this checkout. Raises CannotCreate if one has changes."""
    check_root()
    folder = folder.resolve()
    commit = find_commit()
    if not folder.is_dir():
        raise CannotCreate(f"{folder} is not a folder.")
    git = call_git(folder, "rev-parse", "--show-toplevel")
    if git.returncode or Path(git.stdout.strip()).resolve() != folder:
        raise CannotCreate(f"{folder} is not a git repository: run git init, git add . and git commit there.")
    for place, is_dirty in ((ROOT, not commit), (folder, run_git(folder, "status", "--porcelain"))):
        if is_dirty:
            raise CannotCreate(f"{place} has changes that are not committed: commit or stash them.")
    return folder, commit or ""


def read_record(folder: Path) -> dict[str, Any]:
    """Return what the copy records of itself. Raises CannotCreate."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        names = {key: record[key] for key in ("name", "commit", "parts")}
    except (OSError, ValueError, KeyError, TypeError):
        raise CannotCreate(f"{folder} has no {RECORD} that can be read: see new update --from.") from None
    if not names["commit"]:
        raise CannotCreate(f"{folder} was made from changes that were never committed: make the copy again.")
    return names


@announce("Making a copy with the code of the earlier commit")
def write_earlier_copy(commit: str, folder: Path, options: list[str]) -> None:
    """Have the command of an earlier commit write a copy, formatted by the ruff that is installed now."""
    source = folder.parents[1] / "source"
    run_git(ROOT, "worktree", "add", "-q", "--detach", str(source), commit)
    try:
        command = [sys.executable, "-Bm", "indico.new", "project", str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": str(source)}
        made = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    finally:
        run_git(ROOT, "worktree", "remove", "--force", str(source))
    if made.returncode:
        raise CannotCreate(f"The commit {commit[:7]} does not make it: {made.stderr.strip()}")


def find_parts(base: Path, copy: Path) -> list[str]:
    """Return the parts that a copy has by its record, or else by its files, without those deleted since."""
    rename = make_rename(base.name)

    def has(folder: Path, name: str) -> bool:
        signs = PARTS[name].signs or (f"{OLD}/batteries/{name}", f"{OLD}/batteries/{name}.py")
        return any((folder / rename(sign)).exists() for sign in signs)

    recorded = read_record(base)["parts"] if (base / RECORD).exists() else None
    found = [name for name in NAMES if (has(base, name) if recorded is None else name in recorded)]
    deleted = [name for name in found if PARTS[name].is_battery and has(base, name) and not has(copy, name)]
    return [name for name in found if name not in deleted]


class Merge(NamedTuple):
    scratch: Path  # a repository
    yours: str  # a commit: the copy as it is
    result: str  # a commit: with what is new
    conflicts: list[str]  # a sentence each


def merge_copies(place: Path, base: Path, wanted: Path, copy: Path) -> Merge:
    """Merge what differs between the first two folders into what the third has committed."""
    scratch = place / "scratch"
    run_git(place, "init", "-q", str(scratch))

    def git(*words: str) -> str:
        return run_git(scratch, *words).strip()

    def commit_files(folder: Path, *parents: str) -> str:
        git(f"--work-tree={folder}", "add", "-A", "-f", ".")
        return git("commit-tree", "-m", "files", *parents, git("write-tree"))

    old = commit_files(base)
    git("branch", "boilerplate", commit_files(wanted, "-p", old))
    git("fetch", "-q", "--no-tags", str(copy), "HEAD")
    yours = git("commit-tree", "-m", "yours", "-p", old, "FETCH_HEAD^{tree}")
    git("checkout", "-q", "-f", "--detach", yours)
    merged = call_git(scratch, "merge", "-q", "--no-commit", "--no-ff", "boilerplate")
    found = re.findall(r"(?m)^CONFLICT \((.*?)\): (?:Merge conflict in )?(.*)$", merged.stdout)
    conflicts = [f"  {what} ({kind})" for kind, what in found]
    result = commit_files(scratch, "-p", yours)
    return Merge(scratch, yours, result, conflicts)
