"""
The commands: `python -m indico serve`, `python -m indico migrate` and so on.
"""

from __future__ import annotations

import importlib
import sys

COMMANDS = {
    "serve": ("indico.core.command_line", "start the server"),
    "migrate": ("indico.core.commands.migrate", "run migrations and build indexes"),
    "shell": ("indico.core.commands.shell", "open a Python prompt with the database and `await`"),
    "worker": ("indico.core.commands.worker", "run jobs, and serve no requests"),
    "openapi": ("indico.core.commands.openapi", "print the API's description, for generators of clients"),
    "new": ("indico.core.commands.new.__main__", "make a project or a route, or change a project"),
}


def main() -> None:
    """Run the command that the command line names, or list the commands."""
    name, *words = sys.argv[1:] or [""]
    lines = [f"  {command:9}{text}" for command, (_, text) in COMMANDS.items()]
    usage = ["usage: python -m indico COMMAND ...", "", *lines, "", "Options of a command: COMMAND --help"]
    if name in COMMANDS:
        importlib.import_module(COMMANDS[name][0]).main(words)
    elif name in ("", "-h", "--help"):
        print("\n".join(usage))
    else:
        sys.exit("\n".join([f"{name} is not a command.", "", *usage]))


if __name__ == "__main__":
    main()
