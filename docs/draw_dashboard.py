"""
Draws the panels of the dashboard `batteries/grafana.json` and the metrics of each: `batteries/grafana.svg`.
`python -m unittest indico.tests.test_pictures` compares the two, and with `PICTURES=1` writes the picture.
"""

from __future__ import annotations

import re
from html import escape
from typing import Any

UNITS = {"reqps": "requests a second", "ops": "a second", "s": "seconds", "short": "number"}
SCALE, ROW = 32, 12  # pixels of a column and a row in Grafana's grid
GAP, TOP = 8, 40  # pixels between the panels, and above them
STYLE = """
text { font: 13px sans-serif; fill: #444 } .title { font-weight: bold; fill: #1a1a1a }
.code { font: 12px monospace }
rect { fill: #e8eef7; stroke: #3a5a8c }
"""


def draw(dashboard: dict[str, Any]) -> str:
    """Return the picture of a dashboard, in SVG."""
    parts = [f'<text class="title" x="{GAP}" y="24">{escape(dashboard["title"])}</text>']
    bottom = 0
    for panel in dashboard["panels"]:
        place = {name: value * (SCALE if name in "xw" else ROW) for name, value in panel["gridPos"].items()}
        x, y = place["x"] + GAP, place["y"] + TOP
        bottom = max(bottom, y + place["h"])
        queries = " ".join(target["expr"] for target in panel["targets"])
        names = sorted(set(re.findall(r"\b(?:http|mongodb|event_loop)_\w+", queries)))
        legend = ", ".join(dict.fromkeys(target["legendFormat"] for target in panel["targets"]))
        lines = [
            ("title", panel["title"]),
            ("", f"{UNITS[panel['fieldConfig']['defaults']['unit']]}: {re.sub('[{}]', '', legend)}"),
            *(("code", name) for name in names),
        ]
        parts.append(f'<rect x="{x}" y="{y}" width="{place["w"] - GAP}" height="{place["h"] - GAP}"/>')
        for number, (kind, text) in enumerate(lines):
            parts.append(
                f'<text class="{kind}" x="{x + 10}" y="{y + 20 + 20 * number}">{escape(text)}</text>'
            )
    size = f"{24 * SCALE + GAP} {bottom}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img">'
    title = f"<title>The panels of the dashboard {escape(dashboard['title'])}</title>"
    return "\n".join([head, title, f"<style>{STYLE}</style>", *parts, "</svg>\n"])
