"""
What the boilerplate costs: its echo beside that of a bare Tornado handler.
"""

from __future__ import annotations

from pathlib import Path

from bench.compare import compare, median, ratio
from bench.findings import Finding, at_least
from bench.machine import Server

BARE = Server("bare Tornado", "bench.peers.tornado")
CORE = Server("the core alone", "bench.ours", {"BATTERIES": "none"})
ALL = Server("all batteries", "bench.ours")


def measure(folder: Path, seconds: int, rounds: int) -> list[Finding]:
    turns = compare({"echo": [BARE, CORE, ALL]}, seconds, rounds, folder)["echo"]
    return [
        at_least("echo: the core alone against bare Tornado", ratio(turns, CORE.name, BARE.name), 0.95),
        at_least("echo: with all batteries against bare Tornado", ratio(turns, ALL.name, BARE.name), 0.85),
        *[
            Finding(f"echo: processor time for a request, {name}", f"{median(of, 'cpu'):.0f} µs")
            for name, of in turns.items()
        ],
    ]
