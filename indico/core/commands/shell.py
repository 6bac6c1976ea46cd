"""
A Python prompt with the database at hand and `await` at the top level: `python -m indico.shell`.

    >>> await UserDB.find_user("facebook1")
    >>> await db.mongodb.user.count_documents({})

What is piped into it runs as a script whose values are shown, and which ends at its first error.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import code
import inspect
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import CodeType
from typing import Any

import indico
import indico.db.auth_db as AuthDB
import indico.db.user_db as UserDB
from indico import config, db
from indico.core.development import make_folder
from indico.core.lifecycle import check_settings
from indico.core.mongo.mongod import MongodError
from indico.core.serving import make_mongod
from indico.server import make_app

NAMES: dict[str, Any] = {
    "__name__": "__console__",
    "asyncio": asyncio,
    "config": config,
    "db": db,
    "AuthDB": AuthDB,
    "UserDB": UserDB,
}


class Console(code.InteractiveConsole):
    """
    Runs what it is given in this thread, where Ctrl-C can interrupt it, on an event loop that goes on in
    another while the prompt waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(dict(NAMES))
        self.compile.compiler.flags |= ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self.loop = loop
        self._holds = False  # Ctrl-C has to wait
        self._pressed = False  # it came while it had to
        signal.signal(signal.SIGINT, self.on_interrupt)

    def raw_input(self, prompt: object = "") -> str:
        thread = threading.Thread(target=self.loop.run_forever)
        # Ctrl-C waits until the thread is sure to be stopped again, and never reaches it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        thread.start()
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
            return super().raw_input(str(prompt))
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            thread.join()

    def runcode(self, code: CodeType) -> None:
        try:
            self.execute(code)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.show(error)

    def execute(self, code: CodeType) -> None:
        """Run the code, await it if it awaits anything, and raise what it raises."""

        async def run() -> None:
            self._holds = False
            if self._pressed:
                raise KeyboardInterrupt
            outcome = eval(code, self.locals)
            if inspect.iscoroutine(outcome):
                await outcome

        task: asyncio.Task[None] | None = None
        try:
            self._holds = True
            task = self.loop.create_task(run())
            self.loop.run_until_complete(task)
        except (SystemExit, KeyboardInterrupt):  # which leave the loop, and the task where it was
            if task is not None:
                task.cancel()
                self.loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            raise
        finally:
            self._holds = self._pressed = False

    def on_interrupt(self, *_: Any) -> None:
        """Raise KeyboardInterrupt; while a statement becomes a task, only once that has begun."""
        if not self._holds:
            raise KeyboardInterrupt
        self._pressed = True

    def show(self, error: BaseException) -> None:
        """The traceback of an error, from where the given code begins."""
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != self.filename:
            trace = trace.tb_next
        self.write("".join(traceback.format_exception(type(error), error, trace)))

    def run_script(self, source: str) -> None:
        """Run each statement, showing values as the prompt does. SystemExit, with status 1, at an error."""
        try:
            for statement in ast.parse(source, self.filename).body:
                flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
                self.execute(compile(ast.Interactive([statement]), self.filename, "single", flags))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.show(error)
            sys.exit(1)


def set_up_line_editing(names: dict[str, Any]) -> None:
    """Completion by Tab and, in development, a history; where Python has readline."""
    try:
        import atexit
        import readline
        import rlcompleter
    except ImportError:
        return
    readline.set_completer(rlcompleter.Completer(names).complete)
    readline.parse_and_bind("tab: complete")
    if not config.PRODUCTION:
        history = make_folder() / "shell_history"
        with suppress(OSError):
            readline.read_history_file(history)
        atexit.register(readline.write_history_file, history)


async def connect() -> None:
    db.connect()


async def close() -> None:
    """End the connection, and what the user left running."""
    await db.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def run(console: Console) -> None:
    """Let the user at it, or run what is piped in."""
    if not sys.stdin.isatty():
        return console.run_script(sys.stdin.read())
    set_up_line_editing(console.locals)
    names = ", ".join(name for name in NAMES if not name.startswith("_"))
    banner = f"indico {indico.__version__}: {db.describe()}\nAt hand: {names}. Ctrl-D ends."
    return console.interact(banner, "")


def main() -> None:
    """Connect as the server does, with a mongod of its own in development, and close at the end."""
    argparse.ArgumentParser(
        prog="python -m indico.shell",
        description="A Python prompt with the database at hand, as `db`, and `await` at the top level."
        " What is piped into it runs as a script. The settings are the server's: see docs/settings.rst.",
    ).parse_args()
    mongod = None
    loop = asyncio.new_event_loop()
    # A signal that the loop knows wakes it, even one that comes in the moment before it sleeps; what the
    # signal then does is raise KeyboardInterrupt, even if who started this ignores it.
    loop.add_signal_handler(signal.SIGINT, int)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        loop.run_until_complete(check_settings(make_app()))
        mongod = make_mongod()
        if mongod is not None:
            mongod.start()
        loop.run_until_complete(connect())
        run(Console(loop))
    except (config.SettingError, MongodError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        loop.run_until_complete(close())
        loop.close()
        if mongod is not None:
            mongod.stop()
