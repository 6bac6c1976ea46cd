"""
Measures our server beside others and beside what it should reach.
"""

from __future__ import annotations

import argparse
import signal
import sys
from importlib import import_module
from pathlib import Path

from bench.compare import ACTIONS, compare, find_targets
from bench.findings import Finding, show
from bench.machine import ROOT, Failure, check_tools, scratch
from bench.servers import choose

COMPARISONS = {"compare": False, "replica-set": True}  # kind: whether mongod is the only member of one
KINDS = {  # module: whether its `measure` takes seconds and rounds, or just whether to be quick, or nothing
    "waiting": False,
    "growth": True,
    "workers": True,
    "start": False,
    "answers": None,
    "layers": True,
    "jobs": True,
    "batteries": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog="Tables and the plot go to docs/ when a kind was measured in full, and to --output.",
    )
    parser.add_argument(
        "kinds",
        nargs="*",
        metavar="KIND",
        help=f"{', '.join(COMPARISONS)} (the default), {', '.join(KINDS)} or all",
    )
    parser.add_argument(
        "--quick", action="store_true", help="fewer and shorter turns: compare takes three minutes"
    )
    parser.add_argument("--only", help=f"some of {','.join(ACTIONS)}")
    parser.add_argument("--servers", default="", help="names, or their beginnings, with commas between")
    parser.add_argument("--seconds", type=int, help="of each turn (default 4)")
    parser.add_argument("--rounds", type=int, help="default 5")
    parser.add_argument("--output", type=Path, help="the folder for tables and the plot")
    given = parser.parse_args()
    kinds = given.kinds or [*COMPARISONS]
    kinds = [*COMPARISONS, *KINDS] if kinds == ["all"] else kinds
    given.seconds = given.seconds or (1 if given.quick else 4)
    given.rounds = given.rounds or (2 if given.quick else 5)
    given.only = given.only or ("echo,update" if given.quick else ",".join(ACTIONS))
    if unknown := set(kinds) - {*COMPARISONS, *KINDS} | set(given.only.split(",")) - set(ACTIONS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    full = not (given.quick or given.servers or given.only != ",".join(ACTIONS))
    output = given.output or (ROOT / "docs" if full else None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # and so stop what was started
    try:
        check_tools()
        for kind in kinds:
            print(f"\n{kind}\n{'=' * len(kind)}")
            with scratch() as folder:
                run(kind, given, folder, output)
    except Failure as failure:
        sys.exit(str(failure))
    except ImportError as error:
        sys.exit(f"{error}: pip install -e '.[dev]' -r bench/req.txt")


def run(kind: str, given: argparse.Namespace, folder: Path, output: Path | None) -> None:
    if kind in COMPARISONS:
        names = [name for name in given.servers.split(",") if name]
        wanted = {action: choose(names, action) for action in given.only.split(",")}
        results = compare(wanted, given.seconds, given.rounds, folder, COMPARISONS[kind])
        findings = find_targets(results)
    else:
        findings = measure(kind, given, folder)
    print()
    show(findings)
    if output is not None:
        from bench import report

        output.mkdir(exist_ok=True)
        report.save_findings(kind, findings, output)
        if kind in COMPARISONS:
            report.save_tables(results, output, "_replica_set" if COMPARISONS[kind] else "")


def measure(kind: str, given: argparse.Namespace, folder: Path) -> list[Finding]:
    module = import_module(f"bench.{kind}")
    timed = KINDS[kind]
    if timed is None:
        found = module.measure()
    elif timed:
        found = module.measure(folder, given.seconds, given.rounds)
    else:
        found = module.measure(folder, given.quick)
    return list(found)


if __name__ == "__main__":
    main()
