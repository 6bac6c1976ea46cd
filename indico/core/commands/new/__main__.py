"""
The command line: each of COMMANDS is a module with one function, `add_command(commands)`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from indico.core.commands.new import CannotCreate

COMMANDS = ("indico.projects", "indico.projects.changes", "indico.core.commands.new.route")


def main(words: Sequence[str] | None = None) -> None:
    """Run with these arguments, by default those of the command line. Errors exit with one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m indico new",
        description="Make a project or a route, or change the parts and the version of a project.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(name).add_command(commands)
    words = sys.argv[1:] if words is None else words
    arguments = vars(parser.parse_args(words or ["--help"]))
    run = arguments.pop("run")
    try:
        print(run(**arguments))
    except CannotCreate as error:
        sys.exit(str(error))
