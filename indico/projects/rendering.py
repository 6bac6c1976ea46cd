"""
The files of a copy, made in memory from those of this checkout.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase
from pathlib import Path

from tornado.testing import AsyncHTTPTestCase
from tornado.web import RequestHandler

from indico.core.commands.new import ROOT, CannotCreate
from indico.projects.names import OLD
from indico.projects.parts import PARTS, Part

Files = dict[str, str]  # by path, relative to the checkout. What is not UTF-8 is in surrogates

REGION = re.compile(
    r"^ *(?:#|\.\.|<!--) if (\w+(?: or \w+)*)(?: -->)?\n((?:.*\n)*?) *(?:#|\.\.|<!--) end if(?: -->)?\n(\n?)",
    re.MULTILINE,
)


# Commits of ours are the same whatever the user's settings are.
GIT = ("git", "-c", "core.autocrlf=false", "-c", "core.hooksPath=/dev/null", "-c", "commit.gpgsign=false")
NEW = {f"GIT_{role}_{what}": "new" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def call_git(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run git in this folder. Raises CannotCreate if there is none."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment.update(NEW, LC_ALL="C")
    try:
        return subprocess.run(
            [*GIT, *words],
            cwd=folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise CannotCreate("git is not installed, and copies are made with it.") from None


def run_git(folder: Path, *words: str) -> str:
    """Return what git prints in this folder. Raises CannotCreate with git's message if it fails."""
    git = call_git(folder, *words)
    if git.returncode:
        raise CannotCreate(f"git {words[0]} failed in {folder}: {git.stderr.strip()}")
    return git.stdout


def read_files() -> Files:
    """Read the files that git tracks, with uncommitted changes."""
    paths = [path for path in run_git(ROOT, "ls-files", "-z").split("\0") if (ROOT / path).is_file()]
    return {path: (ROOT / path).read_bytes().decode(errors="surrogateescape") for path in paths}


def remove_parts(files: Files, wanted: Collection[str]) -> None:
    """Remove all parts but those that are wanted, and what other files say of them."""
    absent = [part for part in PARTS.values() if part.name not in wanted]
    kept = {setting for name in wanted for setting in PARTS[name].settings}

    def is_of(path: str, names: Collection[str]) -> bool:
        return any(fnmatchcase(path, own) for name in names for own in PARTS[name].own_files)

    ci_run = files[f"{OLD}/projects/templates/ci_run.txt"]
    for path in [path for path in files if is_of(path, [*PARTS]) and not is_of(path, wanted)]:
        del files[path]
        if page := re.fullmatch(r"docs/(.*)\.rst", path):
            replace_in(files, "docs/*.rst", rf"^ +/?{page[1]}\n", "")  # in a table of contents
    files[".ci/run"] = ci_run
    keep_regions(files, wanted)
    for part in absent:
        remove_mentions(files, part, sorted({*part.settings} - kept))


def keep_regions(files: Files, wanted: Collection[str]) -> None:
    """Resolve the regions between the comments `if <part> or <part>` and `end if`."""
    has_battery = any(f"{OLD}/batteries/{name}" in path for path in files for name in wanted)
    known = {*wanted, *(["batteries"] if has_battery else [])}

    def keep(region: re.Match[str]) -> str:
        names = {*region[1].split(" or ")}
        if not names <= {*PARTS, "batteries"}:  # a comment like any other
            return region[0]
        return region[2].strip("\n") + "\n" + region[3] if names & known else ""

    replace_in(files, "*", REGION.pattern, keep)


def remove_mentions(files: Files, part: Part, settings: Collection[str]) -> None:
    """Remove what shared files have of a part."""
    config, extra = f"{OLD}/config.py", part.name.replace("_", "-")
    replace_in(files, f"{OLD}/server.py", rf'^    "{OLD}\.batteries\.{part.name}",\n', "")
    replace_in(files, "setup.py", rf'^    "{extra}": \[[^\]]*(?:\[\w+\][^\]]*)?\],(?:  #.*)?\n', "")
    for name in settings:
        replace_in(files, "docs/settings.rst", rf"^   \* - ``{name}``\n(?:     .*\n)*", "")
        replace_in(files, "deploy/*", rf"^ *{name}[:=].*\n", "")
    for path, names in {config: settings, **part.definitions}.items():
        if path in files:
            files[path] = remove_definitions(files[path], names)
    for path, names in part.tests.items():
        if path in files:
            files[path] = keep_tests(files[path], names)
    replace_in(files, config, r"\n{3,}(?=# )", r"\n\n")
    replace_in(files, f"{OLD}/__init__.py", "^__version__ = .*", '__version__ = "0.1.0"')
    for path, line in part.lines:
        replace_in(files, path, f"^(?:{line})\n", "")
    for path, old, new in part.replacements:
        replace_in(files, path, re.escape(old), new.replace("\\", r"\\"))


def replace_in(files: Files, paths: str, pattern: str, new: str | Callable[[re.Match[str]], str]) -> None:
    """Replace a pattern in the files whose paths match, all but binary ones. ^ and $ match at each line."""
    for path in [path for path in files if fnmatchcase(path, paths) and "\0" not in files[path]]:
        files[path] = re.sub(pattern, new, files[path], flags=re.MULTILINE)


@functools.lru_cache(maxsize=1)
def parse(source: str) -> list[ast.stmt]:
    """Return the statements of a module. `keep_tests` asks for those of one module many times."""
    return ast.parse(source).body


def keep_tests(source: str, kept: Collection[str]) -> str:
    """Return the source of a module with these tests and classes of tests alone, and what they use."""
    removed: list[str] = []
    for node in parse(source):
        if isinstance(node, ast.ClassDef) and node.name not in kept:
            tests = [f"{node.name}.{name}" for name in list_tests(node)]
            removed += [node.name] if tests and not {*tests} & {*kept} else {*tests} - {*kept}
    while removed:
        source = remove_definitions(source, removed)
        removed = [name for name in list_helpers(source) if is_unused(source, name)]
    return source


def is_unused(source: str, definition: str) -> bool:
    name = definition.rpartition(".")[2]
    if name.startswith("__") or hasattr(RequestHandler, name) or hasattr(AsyncHTTPTestCase, name):
        return False  # others call it
    return not re.search(rf"\b{name}\b", remove_definitions(source, [definition]))


def list_helpers(source: str) -> list[str]:
    """Return what the tests in this module may use: names of its top level, and methods."""
    nodes = [node for node in parse(source) if find_name(node)]
    methods = [
        f"{node.name}.{each.name}"
        for node in nodes
        if isinstance(node, ast.ClassDef)
        for each in node.body
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and not each.name.startswith("test_")
    ]
    return [*(find_name(node) for node in nodes if not list_tests(node)), *methods]


def list_tests(node: ast.stmt) -> list[str]:
    """Return the names of the tests in a class."""
    return [name for name in map(find_name, getattr(node, "body", [])) if name.startswith("test_")]


def find_name(node: ast.stmt) -> str:
    """Return the name of a function, a class or a variable that is set."""
    return getattr(node, "name", "") or "".join(map(ast.unparse, getattr(node, "targets", [])))


def remove_definitions(source: str, names: Collection[str]) -> str:
    """Return the source without these settings, functions, classes and methods, each with its comment."""
    lines = source.splitlines(keepends=True)

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            found = find_name(node)
            first = min(each.lineno for each in (node, *getattr(node, "decorator_list", []))) - 1
            if prefix + found in names:
                while first and lines[first - 1].lstrip().startswith("#"):
                    first -= 1
                lines[first : node.end_lineno] = [""] * ((node.end_lineno or 0) - first)
            elif isinstance(node, ast.ClassDef):
                walk(node.body, f"{found}.")

    walk(parse(source), "")
    return "".join(lines)
