"""
Prints the API's description, the document of `GET /openapi.json`: `python -m indico.openapi`. Generators of
clients take it. Neither a server nor MongoDB has to run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence

from indico.core.command_line import read_env_file


def main(words: Sequence[str] | None = None) -> None:
    """Print the description."""
    argparse.ArgumentParser(
        prog="python -m indico openapi",
        description="Print the API's description, for generators of clients.",
    ).parse_args(words)
    read_env_file()

    from indico.server import make_app

    try:
        battery = importlib.import_module("indico.batteries.openapi")
    except ModuleNotFoundError:
        sys.exit("The description is made by the battery openapi, which is not installed here.")
    print(json.dumps(battery.describe_application(make_app()), ensure_ascii=False, indent=2))
