"""
A Python prompt with the database, and `await` at the top level: `python -m indico.shell`. It uses IPython if
that is installed.

    >>> await UserDB.find_user("facebook1")

Input from a pipe runs as a script: the values of expressions are printed, and it ends at the first error.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import code
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from types import CodeType
from typing import Any

import indico
from indico import config
from indico.core.command_line import read_env_file

NAMES = "Names: asyncio, config, db, AuthDB, UserDB. Ctrl-D ends."
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
FILE = "<console>"  # file name in tracebacks


class Console(code.InteractiveConsole):
    """Python's own prompt. The event loop runs only while a statement is executed."""

    def __init__(self, names: dict[str, Any], runner: asyncio.Runner) -> None:
        super().__init__(names, FILE)
        self.compile.compiler.flags |= FLAGS
        self.runner = runner

    def runcode(self, code: CodeType) -> None:
        try:
            self.runner.run(self.execute(code))
        except (Exception, asyncio.CancelledError) as error:
            self.write(format_error(error))

    async def execute(self, code: CodeType) -> None:
        outcome = eval(code, self.locals)
        if inspect.iscoroutine(outcome):
            await outcome

    async def run_script(self, source: str) -> None:
        """Run each statement as the prompt does, in one task: a Ctrl-C between two would be lost."""
        for statement in ast.parse(source, FILE).body:
            await asyncio.sleep(0)  # a Ctrl-C ends it here
            await self.execute(compile(ast.Interactive([statement]), FILE, "single", FLAGS))


def format_error(error: BaseException) -> str:
    """Return the traceback without the frames above the user's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename != FILE:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def run(names: dict[str, Any], runner: asyncio.Runner, banner: str) -> None:
    if not sys.stdin.isatty():
        try:
            runner.run(Console(names, runner).run_script(sys.stdin.read()))
        except Exception as error:
            sys.exit(format_error(error).rstrip())
    elif importlib.util.find_spec("IPython"):
        import IPython
        from traitlets.config import Config

        # IPython copies its configuration, and a runner can't be copied.
        options = {"banner1": f"{banner}\n", "loop_runner": lambda coroutine: runner.run(coroutine)}
        IPython.start_ipython([], user_ns=names, config=Config(TerminalInteractiveShell=options))
    else:
        with suppress(ImportError):
            import readline  # noqa: F401 - it adds the arrow keys
        Console(names, runner).interact(banner, "")


def main(words: Sequence[str] | None = None) -> None:
    """Connect as the server does, run the prompt, and close. In development, starts mongod if needed."""
    argparse.ArgumentParser(
        prog="python -m indico shell",
        description="Open a Python prompt with the database, as `db`, and `await` at the top level. Input"
        " from a pipe runs as a script. The settings are those of the server: see docs/settings.rst.",
    ).parse_args(words)
    read_env_file()

    import indico.db.auth_db as AuthDB
    import indico.db.user_db as UserDB
    from indico import db
    from indico.core.lifecycle import check_settings
    from indico.core.serving import exit_on_errors, run_mongod
    from indico.server import make_app

    async def connect() -> None:
        db.connect()

    names = {"__name__": "__console__", "asyncio": asyncio, "config": config, "db": db}
    names.update(AuthDB=AuthDB, UserDB=UserDB)
    with exit_on_errors(), asyncio.Runner() as runner:
        runner.run(check_settings(make_app()))
        with run_mongod():
            runner.run(connect())
            try:
                run(names, runner, f"indico {indico.__version__}: {db.describe()}\n{NAMES}")
            finally:
                runner.run(db.close())
