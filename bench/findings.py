"""
What a measurement found, beside what it should have found.
"""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    what: str
    measured: str
    goal: str = ""
    met: bool | None = None


def at_most(what: str, value: float, limit: float, unit: str = "", digits: int = 2) -> Finding:
    goal = f"at most {limit:g} {unit}".strip()
    return Finding(what, f"{value:.{digits}f} {unit}".strip(), goal, value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "", digits: int = 2) -> Finding:
    goal = f"at least {limit:g} {unit}".strip()
    return Finding(what, f"{value:.{digits}f} {unit}".strip(), goal, value >= limit)


def show(findings: list[Finding]) -> None:
    for finding in findings:
        verdict = {None: "", True: "  met", False: "  MISSED"}[finding.met]
        print(f"{finding.what}: {finding.measured}" + f"  ({finding.goal})" * bool(finding.goal) + verdict)
