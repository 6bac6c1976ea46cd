"""
The command line: `python -m bench --help`.
"""

from __future__ import annotations

import argparse
import sys

from bench.compare import ACTIONS, compare
from bench.machine import Failure, check_tools, scratch


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default=",".join(ACTIONS), help="actions, with commas between")
    parser.add_argument("--servers", default="", help="names, or their beginnings, with commas between")
    parser.add_argument("--seconds", type=int, default=4, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--replica-set", action="store_true")
    given = parser.parse_args()
    try:
        check_tools()
        with scratch() as folder:
            compare(
                given.only.split(","),
                list(filter(None, given.servers.split(","))),
                given.seconds,
                given.rounds,
                folder,
                given.replica_set,
            )
    except Failure as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
