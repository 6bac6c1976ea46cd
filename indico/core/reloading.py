"""
Restarts the development server after a change of the source.

`python -m indico.core.reloading -m indico.server` runs the command `python -m indico.server`. If it fails,
this module shows why, waits for the next change, and runs it again. The process stays the same, so its mongod
goes on running.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
POLL_INTERVAL = 0.2  # seconds between checks of the source


def restart() -> None:
    """Run the command of this process again, in the same process. Tornado calls it after a change."""
    spec = sys.modules["__main__"].__spec__  # None for a script
    execute([*(["-m", spec.name] if spec else sys.argv[:1]), *sys.argv[1:]])


def execute(command: list[str]) -> None:
    """Replace the program that this process runs. Does not return."""
    os.execv(sys.executable, [sys.executable, "-m", "indico.core.reloading", *command])


def run(command: list[str]) -> None:
    """Run a command. If it fails, wait for a change of the source, and restart it."""
    before = read_times()
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path[0] = str(Path(command[0]).parent)
            runpy.run_path(command[0], run_name="__main__")
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            raise
        text = error.code if isinstance(error, SystemExit) else traceback.format_exc().rstrip()
        print(f"{text}\nThe server waits for the next change of the source.", file=sys.stderr, flush=True)
        while read_times() == before:
            time.sleep(POLL_INTERVAL)
        execute(command)


def read_times() -> dict[Path, int]:
    """Return when each file of the source was last changed."""
    times = {}
    for path in (*PACKAGE.rglob("*.py"), *Path(sys.path[0]).glob("*.py")):
        with suppress(FileNotFoundError):  # an editor has just replaced it
            times[path] = path.stat().st_mtime_ns
    return times


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        run(sys.argv[1:])
