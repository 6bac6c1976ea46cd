"""
What docs/performance.rst shows: tables and a plot, from the last measurement of each kind.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from bench.compare import COLUMNS, Turns, cpu_ratio, find_best_peer, median, rows
from bench.findings import Finding

ACTIONS = ("echo", "check", "update", "login")


def save_tables(results: dict[str, Turns], folder: Path, suffix: str) -> None:
    """A table an action, `performance_<action><suffix>.csv`, and the plot, `performance<suffix>.png`."""
    for action, turns in results.items():
        with (folder / f"performance_{action}{suffix}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["Server", *COLUMNS], *rows(turns)])
    plot(results, folder / f"performance{suffix}.png")


def save_findings(name: str, findings: list[Finding], folder: Path) -> None:
    """The findings of one kind, `performance_<name>.csv`."""
    name = name.replace("-", "_")
    met = {None: "", True: "yes", False: "no"}
    with (folder / f"performance_{name}.csv").open("w", newline="") as file:
        table = [[finding.what, finding.measured, finding.goal, met[finding.met]] for finding in findings]
        csv.writer(file).writerows([["What", "Measured", "Goal", "Met"], *table])


def plot(results: dict[str, Turns], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(5.2 * len(results), 6.5), squeeze=False)
    for axis, (action, turns) in zip(axes[0], results.items()):
        best = find_best_peer(turns) or next(iter(turns))
        names = sorted(turns, key=lambda name: -median(turns[name], "cpu"))
        values = [cpu_ratio(turns, name, best) for name in names]
        colors = ["#c0504d" if name.startswith("indico") else "#9aa5b1" for name in names]
        spread = [[turn.cpu / median(turns[name], "cpu") for turn in turns[name]] for name in names]
        low = [value * (1 - min(each)) for value, each in zip(values, spread)]
        high = [value * (max(each) - 1) for value, each in zip(values, spread)]
        axis.barh(names, values, color=colors, xerr=[low, high], error_kw={"ecolor": "#555", "capsize": 2})
        axis.axvline(1, color="#333", linewidth=0.8)
        axis.set_title(f"{action}: processor time for a request, {best} = 1", fontsize=10)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def save_raw(results: dict[str, Turns], path: Path) -> None:
    """Every turn, for whoever wants to look closer."""
    plain: dict[str, Any] = {
        action: {name: [turn._asdict() for turn in of] for name, of in turns.items()}
        for action, turns in results.items()
    }
    path.write_text(json.dumps(plain, indent=1))
