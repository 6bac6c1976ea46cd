"""
The command line of the server.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable

import pymongo
import tornado

import indico
from indico import config

HELP = """
examples:
  python -m indico.server                      for development
  python -m indico.server --port 5001          beside another server
  python -m indico.server --address 0.0.0.0    for other machines to reach it
  INDICO_ENV=production python -m indico.server --workers 4

An option goes before the environment variable of its name. The environment
sets all else, MONGODB for example: docs/settings.rst lists it.
"""


def run_command_line(main: Callable[[bool, int], None]) -> None:
    """`python -m indico.server`: what the command line says goes before the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m indico.server",
        description="Serve until stopped by Ctrl-C or SIGTERM.",
        epilog=HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"indico {indico.__version__}, Tornado {tornado.version}, PyMongo {pymongo.version}"
    parser.add_argument("--version", action="version", version=version)
    for group, options in {
        "where to listen": {
            "PORT": "a port, or 0 for any free one (default: 5000)",
            "ADDRESS": "an address (default: 127.0.0.1; in production, all)",
        },
        "how many": {"WORKERS": "processes that share the port (default: 1)"},
        "by what": {"HTTP_SERVER": "own (default), or tornado for Tornado's"},
    }.items():
        arguments = parser.add_argument_group(group)
        for name, text in options.items():
            option = f"--{name.lower().removesuffix('_server')}"
            arguments.add_argument(option, metavar=name, dest=name, help=text)
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    os.environ.update(given)
    importlib.reload(config)
    main(not config.PRODUCTION, config.PORT)
