"""
Draws a request's way through the server, `request.svg`, from the calls that a request really makes.
`python -m unittest indico.tests.test_pictures` compares the file with them, and with `PICTURES=1` writes it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from types import FrameType

import indico

PACKAGE = Path(indico.__file__).parent
STEPS = {  # functions, and what each does. Their order, file and column are found out
    "ServerConnection.data_received": "receives bytes from the client",
    "parse_head": "parses the request line and the headers",
    "Dispatcher.find_handler": "finds the handler for the path",
    "LimitedHandler.data_received": "receives the body: 413 if it is too large",
    "IndicoHandler.post": "finds and runs the action: 404 if there is none",
    "auth.wrapper": "@auth: 401 without a valid key",
    "get_user_id": "asks MongoDB for the user of the key",
    "unpack.decorator.pass_fields": "@unpack: 400 if a field is missing",
    "type_check.decorator.checked": "@type_check: 400 if a type is wrong",
    "UserHandler.update": "the action",
    "mongo_obj.decorator.checked_later": "@mongo_obj: 400 if the schema does not allow it",
    "update": "the helper asks MongoDB: 503 if it is out of reach",
    "EnvelopeHandler.send_envelope": "puts the result into the envelope",
    "encode": "encodes it as JSON",
    "ResponseWriter.write_response": "sends headers and body to the client",
}
WIDTH, ROW, BOX, TOP = 400, 62, 46, 44  # pixels
STYLE = """
text { font: 13px sans-serif; fill: #1a1a1a } .code { font: 12px monospace; fill: #444 }
.yours { fill: #e3f2e6; stroke: #2e7d32 } .core { fill: #e8eef7; stroke: #3a5a8c }
path { fill: none; stroke: #666; marker-end: url(#arrow) } .title { font-weight: bold }
"""


def trace(request: Callable[[], object]) -> list[tuple[str, str]]:
    """Make a request to a server in this thread. Returns the path and name of each function that it calls."""
    seen: dict[tuple[str, str], None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and PACKAGE in path.parents and path.parts[len(PACKAGE.parts)] != "tests":
            name = frame.f_code.co_qualname.replace(".<locals>", "")
            seen.setdefault((path.relative_to(PACKAGE.parent).as_posix(), name))

    sys.setprofile(note)
    try:
        request()
    finally:
        sys.setprofile(None)
    return list(seen)


def draw(calls: list[tuple[str, str]]) -> str:
    """Return the picture of these calls, in SVG. Raises KeyError if one of the steps is not among them."""
    steps = [(path, name) for path, name in calls if name in STEPS]
    missing = STEPS.keys() - {name for _, name in steps}
    if missing:
        raise KeyError(*missing)
    parts = []
    places = []
    for row, (path, name) in enumerate(steps):
        column = int(path.startswith("indico/core/"))
        x, y = 10 + column * (WIDTH + 40), TOP + row * ROW
        places.append((x, y))
        parts += [
            f'<rect class="{("yours", "core")[column]}" x="{x}" y="{y}" width="{WIDTH}" height="{BOX}"/>',
            f'<text x="{x + 12}" y="{y + 19}">{row + 1}. {escape(STEPS[name])}</text>',
            f'<text class="code" x="{x + 12}" y="{y + 37}">{escape(path)}</text>',
        ]
    for (x, y), (next_x, next_y) in zip(places, places[1:], strict=False):
        middle = WIDTH // 2
        parts.append(f'<path d="M{x + middle} {y + BOX} L{next_x + middle} {next_y - 4}"/>')
    height = TOP + len(steps) * ROW
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH + 60} {height}" role="img">',
            "<title>The way of POST /user/update through the server</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="arrow" markerWidth="8" markerHeight="8" refX="6" refY="4" orient="auto">',
            '<path d="M0 0 L8 4 L0 8 z" style="fill: #666; stroke: none"/></marker></defs>',
            f'<rect width="{2 * WIDTH + 60}" height="{height}" fill="#fff"/>',
            '<text class="title" x="10" y="26">You edit these: routes, db, utils</text>',
            f'<text class="title" x="{WIDTH + 50}" y="26">You need not open these: core</text>',
            *parts,
            "</svg>\n",
        ]
    )
