"""
The options of `python -m indico serve`, and the file `.env` that all commands read in development.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pymongo
import tornado
from tornado import autoreload

import indico
from indico import config

ENV_FILE = Path(".env")  # in the working directory

ADDRESS_HELP = "the address to listen on (default: 127.0.0.1; in production, all addresses)"
EXAMPLES = """
examples:
  python -m indico serve                      for development
  python -m indico serve --port 5001          on another port
  python -m indico serve --address 0.0.0.0    reachable from other machines
  INDICO_ENV=production python -m indico serve --workers 4

An option overrides the environment variable of the same name. All other
settings, such as MONGODB, are environment variables: docs/settings.rst lists
them.
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve with these options, by default those of the command line. Options override the environment."""
    parser = argparse.ArgumentParser(
        prog="python -m indico serve",
        description="Serve until stopped by Ctrl-C or SIGTERM.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    version = f"indico {indico.__version__}, Tornado {tornado.version}, PyMongo {pymongo.version}"
    parser.add_argument("--version", action="version", version=version)
    parser.add_argument("--port", dest="PORT", metavar="PORT", help="0: any free port (default: 5000)")
    parser.add_argument("--address", dest="ADDRESS", metavar="ADDRESS", help=ADDRESS_HELP)
    parser.add_argument("--workers", dest="WORKERS", metavar="WORKERS", help="processes (default: 1)")
    parser.add_argument("--http", dest="HTTP_SERVER", metavar="SERVER", help="own (default), or tornado")
    options = vars(parser.parse_args(arguments))
    read_env_file()
    config.override(**options)

    from indico import server

    server.main(debug=not config.PRODUCTION, port=config.PORT)


def read_env_file() -> None:
    """
    In development, set the variables of `.env` that are not in the environment. Exits with a message if the
    file can't be read.
    """
    if config.PRODUCTION or not ENV_FILE.is_file():
        return
    try:
        import dotenv
    except ImportError:
        print(".env is not read. To read it, pip install python-dotenv.", file=sys.stderr)
        return
    try:
        found = dotenv.dotenv_values(ENV_FILE)
    except (OSError, UnicodeDecodeError) as error:
        sys.exit(f".env can't be read: {error}.")
    if found.pop("INDICO_ENV", None):
        print("INDICO_ENV is not taken from .env: set it in the environment.", file=sys.stderr)
    variables = {name: value for name, value in found.items() if value and not os.environ.get(name)}
    os.environ.update(variables)
    config.override(**variables)
    for name in variables:  # so that the process after an autoreload reads the file again
        autoreload.add_reload_hook(functools.partial(os.unsetenv, name))
