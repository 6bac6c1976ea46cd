"""
Creates projects and routes: `python -m indico.new project ../shop` makes a renamed copy of this boilerplate,
and `python -m indico.new route order` adds a resource.
"""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[4]  # of the checkout


class CannotCreate(Exception):
    """The project or route can't be created. The message is a sentence for the terminal."""


def check_root() -> None:
    """Raise CannotCreate unless this runs in a checkout."""
    if not (ROOT / "setup.py").exists():
        raise CannotCreate(
            "indico is installed here without its checkout: clone it, and run this in the clone."
        )


def read_names(source: bytes) -> set[str]:
    """Return the names in Python code, without those in comments and strings."""
    tokens = tokenize.tokenize(io.BytesIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}
