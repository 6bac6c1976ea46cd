"""
Starts something new: `python -m indico.new project ../shop`, a renamed copy of this boilerplate, and
`python -m indico.new route order`, a resource of its own.
"""

from __future__ import annotations

import io
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[4]  # of the checkout


class CannotCreate(Exception):
    """Why it can't be created: a sentence."""


def check_root() -> None:
    """Raise CannotCreate unless this runs in a checkout."""
    if not (ROOT / "setup.py").exists():
        raise CannotCreate(
            "indico is installed here, without its checkout: clone it, and run this in the clone."
        )


def read_names(source: bytes) -> set[str]:
    """The names in Python code, without those in comments and strings."""
    tokens = tokenize.tokenize(io.BytesIO(source).readline)
    return {token.string for token in tokens if token.type == tokenize.NAME}
