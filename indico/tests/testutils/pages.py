"""
Runs or checks the code blocks of README.md and the guide. docs/testing.rst describes the conventions.
"""

from __future__ import annotations

import configparser
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import indico
from indico import config
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils.process import ServerProcess, make_environment

ROOT = Path(indico.__file__).parents[1]
DOCS = ROOT / "docs"
VARYING = ("_id", "created", "indico_key")  # fields that differ in each run
# Code in the copies does not count in this checkout's coverage.
NOT_COVERED = {"COVERAGE_PROCESS_CONFIG": "", "COVERAGE_PROCESS_START": ""}
SUFFIXES = {".env": "ini", ".service": "ini", ".yml": "yaml", ".py": "python", "": "docker"}
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")


class Block(NamedTuple):
    """A code block: its place, its language, the path of its file or "", and its text."""

    place: str
    language: str
    path: str
    code: str


def list_pages() -> list[str]:
    """Return README.md and the pages of the guide, as arguments of `read_blocks`."""
    guide = (path.relative_to(DOCS) for path in DOCS.rglob("*.rst") if "_build" not in path.parts)
    return ["README.md", *sorted(map(str, guide))] if DOCS.is_dir() else []


def read_blocks(page: str, *languages: str) -> list[Block]:
    """Return the code blocks of a page, in these languages or in all, as a reader would copy them."""
    if page.endswith(".md"):
        text = (ROOT / page).read_text()
        found = [
            Block(f"{page}:{text.count(chr(10), 0, match.start()) + 1}", match[1] or "none", "", match[2])
            for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        ]
    else:
        found = list(_read_rst(page, (DOCS / page).read_text().splitlines()))
    return [block for block in found if not languages or block.language in languages]


def _read_rst(page: str, lines: list[str]) -> Iterator[Block]:
    for number, line in enumerate(lines):
        place = f"{page}:{number + 1}"
        body = _indented(lines, number)
        options = dict(re.findall(r"^ *:([\w-]+): ?(.*)$", "\n".join(takewhile(str.strip, body)), re.M))
        directive = re.match(
            r" *\.\. (code-block|code|sourcecode|literalinclude|parsed-literal):: *(\S*)$", line
        )
        if directive is None:
            if line.endswith("::") and not line.lstrip().startswith(".. "):
                yield Block(place, "", "", "")
        elif directive[1] == "literalinclude":
            path = ((DOCS / page).parent / directive[2]).resolve()
            language = SUFFIXES.get(path.suffix, path.suffix[1:])
            if path.suffix == ".conf":
                language = "nginx"
            yield Block(place, language, str(path.relative_to(ROOT)), path.read_text())
        else:
            code = textwrap.dedent("\n".join(body[len(options) :])).strip() + "\n"
            yield Block(place, directive[2], options.get("caption", ""), code)


def _indented(lines: list[str], number: int) -> list[str]:
    """Return the lines below this one that are indented more."""
    own = len(lines[number]) - len(lines[number].lstrip())
    deeper = lambda line: not line.strip() or len(line) - len(line.lstrip()) > own  # noqa: E731
    return list(takewhile(deeper, lines[number + 1 :]))


# Blocks that are run


RUN_PAGE = """
import ast, asyncio, doctest, inspect, io, json, logging, sys
from contextlib import redirect_stdout
import indico.db.auth_db as AuthDB
import indico.db.user_db as UserDB
from indico import config, db

class Strict(logging.Handler):
    def emit(self, record):
        problems.append(record.getMessage())

problems = []
logging.getLogger().addHandler(Strict(logging.ERROR))

async def execute(place, code, mode, space):
    compiled = compile(code, place, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    outcome = eval(compiled, space)
    if compiled.co_flags & inspect.CO_COROUTINE:
        await outcome

async def main():
    db.connect()
    space = {"__name__": "page", "asyncio": asyncio, "config": config, "db": db}
    space.update(AuthDB=AuthDB, UserDB=UserDB)  # the names in the shell
    for place, language, _, code in json.load(sys.stdin):
        if language == "python":
            await execute(place, code, "exec", space)
            continue
        for example in doctest.DocTestParser().get_examples(code):
            with redirect_stdout(io.StringIO()) as printed:
                await execute(place, example.source, "single", space)
            got = printed.getvalue()
            if not doctest.OutputChecker().check_output(example.want, got, doctest.ELLIPSIS):
                sys.exit(f"{place}: {example.source}gave {got}not {example.want}")
    await db.ensure_indexes()
    await db.close()
    if problems:
        sys.exit(f"{place}: {problems}")

asyncio.run(main())
"""


def run_python(blocks: list[Block], folder: Path) -> None:
    """Run the blocks of a page in one namespace. They can use `await`, and `>>>` prompts."""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_PAGE],
        cwd=folder,
        env=make_environment({"PYTHONPATH": str(folder), **NOT_COVERED}),
        input=json.dumps(blocks),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout


class Console:
    """
    A shell in a folder, and a server, to run the commands of a page.

    The first command starts the server, logs in the user Ada, and sets $KEY. If a command itself starts a
    server, that replaces the running one, with the settings in the command.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server: ServerProcess | None = None
        self.failed = False  # whether the last command failed
        self.values = {"<token>": config.DEV_TOKEN}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.shell = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            cwd=folder,
            env=make_environment({"PYTHONPATH": str(folder), "PATH": path, **NOT_COVERED}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.run_in_shell('curl() { command curl -sS "$@"; }')

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.kill()
        self.shell.wait()
        self.shell.stdin.close()
        self.shell.stdout.close()
        if self.server is not None:
            self.server.close()

    def run_block(self, block: Block) -> None:
        """Run each `$ command` of the block. Its output has to match the lines below it."""
        for command, expected in re.findall(r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n?)*)", block.code, re.M):
            for name, value in self.values.items():
                command = command.replace(name, value)
            output = self.run(command)
            for name, field, length in (("<key>", "(?:indico_)?key", 56), ("<id>", "job", 24)):
                if found := re.search(f'"{field}": ?"([0-9a-f]{{{length}}})"', output):
                    self.values[name] = found[1]
            if not matches(expected, output) if expected.strip() else self.failed:
                raise AssertionError(f"{block.place}: {command}\ngave\n{output}\nand not\n{expected}")

    def run(self, command: str) -> str:
        if re.search(r"python -m indico\.server\b(?!.*--help)", command):
            return self.start_server(command)
        if self.server is None:
            self.start_server("python -m indico.server")
            assert self.server is not None
        if ADDRESS.search(command):
            command = ADDRESS.sub(self.server.url, command)
        return self.run_in_shell(command)

    def run_in_shell(self, command: str) -> str:
        assert self.shell.stdin is not None and self.shell.stdout is not None
        self.shell.stdin.write(
            f"{{\n{command}\n}} < /dev/null\nstatus=$?; echo; echo the status is $status\n"
        )
        self.shell.stdin.flush()
        output = ""
        while (found := re.search(r"\n?the status is (\d+)\n\Z", output)) is None:
            line = self.shell.stdout.readline()
            assert line, f"{command} ended the shell:\n{output}"
            output += line
        self.failed = found[1] != "0"
        return output[: found.start()]

    def start_server(self, command: str) -> str:
        """Start a server with this command, on a free port, instead of the running one."""
        if self.server is not None:
            self.server.close()
        words = shlex.split(command)
        settings = dict(word.split("=", 1) for word in takewhile(lambda word: "=" in word, words))
        if settings.get("PORT", "").isdigit():
            settings["PORT"] = "0"
        arguments = shlex.split(re.sub(r"--port[ =]\d+", "", command.partition("indico.server")[2]))
        environment = {"PYTHONPATH": str(self.folder), **NOT_COVERED, **settings}
        self.server = ServerProcess(*arguments, folder=self.folder, **environment)
        try:
            self.server.wait_ready()
        except AssertionError:  # it has ended, as the page may expect
            return self.server.output
        if settings.get("INDICO_ENV") != "production":
            login = {**LOGIN_DATA, "oauth_id": "1", "user": {"name": "Ada"}}
            self.values["<key>"] = self.server.post("auth/login", login)["data"]["indico_key"]
            self.run_in_shell(f"KEY={self.values['<key>']}")
        return self.server.output


def matches(expected: str, output: str) -> bool:
    """Whether the output is as expected. `...` and `<name>` match anything; VARYING fields may differ."""
    try:
        return _is_like(json.loads(expected), json.loads(output))
    except ValueError:
        pattern = re.sub(r"\\\.\\\.\\\.|<\w+>", ".*", re.escape(expected.strip()))
        return (
            re.fullmatch(pattern, ADDRESS.sub("http://127.0.0.1:5000", output.strip()), re.DOTALL) is not None
        )


def _is_like(expected: Any, value: Any) -> bool:
    if isinstance(expected, dict) and isinstance(value, dict):
        return list(expected) == list(value) and all(
            name in VARYING or _is_like(expected[name], value[name]) for name in expected
        )
    if isinstance(expected, list) and isinstance(value, list):
        return len(expected) == len(value) and all(map(_is_like, expected, value))
    is_name = isinstance(expected, str) and re.fullmatch(r"<\w+>", expected)
    return bool(is_name or expected in ("...", value))


# Blocks that are only checked


def check_shell(code: str) -> None:
    """Bash can parse it, and the commands of this package in it exist with these options and settings."""
    check = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True)
    assert check.returncode == 0 and not check.stderr, check.stderr
    for command in re.split(r"\n|&&|\|\|?|;", code.replace("\\\n", " ")):
        found = re.search(r"^ *((?:\w+=(?:'[^']*'|\"[^\"]*\"|\S*) +)*)python -m (indico[\w.]*)(.*)", command)
        if found is None:
            continue
        settings = dict(word.split("=", 1) for word in shlex.split(found[1]))
        if settings and "..." not in found[1]:
            run_module("-c", "from indico import config; config.check()", **settings)
        assert importlib.util.find_spec(found[2]) is not None, found[2]
        options = re.findall(r"--[\w-]+", found[3])
        subcommand = re.findall(r"^ +([a-z]+)\b", found[3])
        printed = run_module("-m", found[2], *subcommand, "--help") if options else ""
        for option in options:
            assert option in printed, option


def run_module(*arguments: str, **settings: str) -> str:
    run = subprocess.run(
        [sys.executable, *arguments],
        env=make_environment({**NOT_COVERED, **settings}),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def check_ini(code: str) -> None:
    text = code if re.search(r"^\[", code, re.MULTILINE) else f"[all]\n{code}"
    configparser.ConfigParser(strict=False, interpolation=None).read_string(text)


def check_yaml(code: str) -> None:
    try:
        import yaml
    except ImportError:
        return
    yaml.safe_load(code)


def check_toml(code: str) -> None:
    tomllib.loads(code)


def check_docker(code: str) -> None:
    for line in code.replace("\\\n", " ").splitlines():
        assert re.match(
            "(#|$|FROM|COPY|RUN|ENV|WORKDIR|USER|EXPOSE|CMD|ARG|ENTRYPOINT|HEALTHCHECK|LABEL)\\b|#|$", line
        ), line


def check_welcome(code: str) -> None:
    """The server's output when it is ready."""
    for line in code.splitlines():
        assert re.match("indico listens on http|  [a-z ]+  [a-z]|Log in with$|  curl http", line), line


def check_javascript(code: str) -> None:
    if shutil.which("node"):
        with tempfile.NamedTemporaryFile("w", suffix=".mjs") as file:
            file.write(code)
            file.flush()
            check = subprocess.run(["node", "--check", file.name], capture_output=True, text=True)
        assert check.returncode == 0, check.stderr


def check_typescript(code: str) -> None:
    """test_clients compiles and runs it."""
    assert code


def check_nginx(code: str) -> None:
    """Its braces and semicolons match. Another test runs it."""
    bare = re.sub(r"'[^']*'|\"[^\"]*\"|#.*", "", code)
    assert bare.count("{") == bare.count("}")
    for line in bare.splitlines():
        assert not line.strip() or line.rstrip()[-1] in ";{}", line


def check_tree(code: str) -> None:
    """It is a crontab, or a tree of existing files, each with a description."""
    folders: list[tuple[int, Path]] = [(-1, ROOT)]
    for line in code.splitlines():
        if re.match(r"(\S+ ){5}", line):
            check_shell(re.split(" +", line, maxsplit=5)[5])
            continue
        depth = len(line) - len(line.lstrip())
        names = re.split("  +", line.strip())[0].split(", ")
        while folders[-1][0] >= depth:
            folders.pop()
        for name in names:
            path = folders[-1][1] / name
            assert path.exists(), f"{name}: a block without a language is a tree of files, or a crontab"
        if path.is_dir():
            folders.append((depth, path))


CHECKS: dict[str, Callable[[str], object]] = {
    "sh": check_shell,
    "none": check_tree,
    "text": check_welcome,
    "json": json.loads,
    "ini": check_ini,
    "yaml": check_yaml,
    "toml": check_toml,
    "docker": check_docker,
    "nginx": check_nginx,
    "javascript": check_javascript,
    "ts": check_typescript,
}
RUN = ("python", "pycon", "console")  # the languages in CHECKS are only checked
