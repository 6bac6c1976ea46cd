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


def at_most(what: str, value: float, limit: float, unit: str = "", digits: int | None = None) -> Finding:
    goal = f"at most {limit:g} {unit}".strip()
    return Finding(what, f"{round_figure(value, digits)} {unit}".strip(), goal, value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "", digits: int | None = None) -> Finding:
    goal = f"at least {limit:g} {unit}".strip()
    return Finding(what, f"{round_figure(value, digits)} {unit}".strip(), goal, value >= limit)


def round_figure(value: float, digits: int | None = None) -> str:
    """As a text, by default with two decimals below 1 and one from there: rounds differ by more."""
    return f"{value:.{(2 if value < 1 else 1) if digits is None else digits}f}"


def show(findings: list[Finding]) -> None:
    for finding in findings:
        verdict = {None: "", True: "  met", False: "  MISSED"}[finding.met]
        print(f"{finding.what}: {finding.measured}" + f"  ({finding.goal})" * bool(finding.goal) + verdict)
