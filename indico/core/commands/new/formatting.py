"""
Formats files after a name was replaced by a longer or shorter one.
"""

from __future__ import annotations

import importlib.util
import io
import subprocess
import textwrap
import tokenize
from collections.abc import Sequence
from pathlib import Path

LONGEST_LINE = 110  # characters, as in pyproject.toml


def format_files(root: Path, paths: Sequence[str]) -> str:
    """Wrap comments and docstrings in these Python files, and run ruff. Returns a hint if that fails."""
    for path in (root / path for path in paths):
        source = path.read_text(encoding="utf-8")
        if max(map(len, source.splitlines()), default=0) > LONGEST_LINE:
            path.write_text(wrap_prose(source), encoding="utf-8")
    if importlib.util.find_spec("ruff") is None:
        return (
            "\nruff is not installed here, so lines were not formatted.\nIn the new files' folder, run:"
            "\n  pip install -e '.[dev]' && ruff format . && ruff check --fix ."
        )
    from ruff import find_ruff_bin

    for words in (("format",), ("check", "--fix"), ("check", "--select", "E501", "--add-noqa"), ("format",)):
        command = [find_ruff_bin(), *words, "--no-cache", *paths]
        result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    return f"\nruff failed: {result.stderr.strip()}" if result.returncode else ""


def wrap_prose(source: str) -> str:
    """Return the source with long lines in docstrings and comments wrapped."""
    lines = source.splitlines()
    for number in sorted(find_prose(source), reverse=True):
        line = lines[number]
        if len(line) > LONGEST_LINE:
            text = line.lstrip(" #")
            start = line[: len(line) - len(text)]
            lines[number : number + 1] = textwrap.wrap(
                text,
                LONGEST_LINE,
                initial_indent=start,
                subsequent_indent=start,
                break_long_words=False,
                break_on_hyphens=False,
            )
    return "\n".join(lines) + "\n"


def find_prose(source: str) -> set[int]:
    """Return the numbers of the lines, from 0, that are comments or inside multi-line strings."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        first, last = token.start[0] - 1, token.end[0] - 1
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip():
            found.add(first)
        elif token.type == tokenize.STRING:
            found.update(range(first + 1, last))
    return found
