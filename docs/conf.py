"""
How Sphinx builds the guide: `sphinx-build -W --keep-going docs docs/_build`.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "indico"
author = "the indico authors"
copyright = "the indico authors"
extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
default_role = "code"  # docstrings put names in single backticks
html_theme = "furo"
html_title = "indico"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True


def mark_examples(app: Any, what: str, name: str, item: Any, options: Any, lines: list[str]) -> None:
    """Docstrings only indent their examples, which reStructuredText would take for quotations."""
    marked: list[str] = []
    inside = False
    for line in lines:
        indented = re.match(" +[^ ]", line) is not None
        if indented and not inside and marked and not marked[-1]:
            marked += ["::", ""]
        if line:
            inside = indented
        marked.append(line)
    lines[:] = marked


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", mark_examples)
