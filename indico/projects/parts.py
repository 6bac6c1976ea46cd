"""
The parts of this boilerplate that a copy has or lacks. parts.toml describes each.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from indico.core.commands.new import CannotCreate


class Part(NamedTuple):
    """What a copy without this part lacks. Paths are patterns, in which * matches any characters."""

    name: str
    default: bool = False
    needs: tuple[str, ...] = ()  # parts without which it does not work
    files: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()  # in config.py, docs/settings.rst and deploy/
    definitions: dict[str, list[str]] = {}  # by file: functions, classes and `Class.method`
    lines: list[tuple[str, str]] = []  # path, and a pattern of whole lines
    tests: dict[str, list[str]] = {}  # by file: the tests that are in copies nonetheless
    replacements: list[tuple[str, str, str]] = []  # path, text, and the text in its place
    signs: tuple[str, ...] = ()  # files that say that a copy of a version that recorded nothing has it
    words: str = ""  # a pattern of what speaks of it

    @property
    def own_files(self) -> tuple[str, ...]:
        """The part's files, and those that a battery of this name has."""
        places = ("indico/batteries/", "indico/tests/batteries/test_", "docs/batteries/")
        return (*self.files, *(f"{place}{self.name}{end}" for place in places for end in (".*", "/*")))

    @property
    def is_battery(self) -> bool:
        return not self.signs or self.signs[0].startswith("indico/batteries/")

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(self.words or rf"\b{self.name}\b")


def read_parts() -> dict[str, Part]:
    tables = tomllib.loads(Path(__file__).with_name("parts.toml").read_text(encoding="utf-8"))
    return {name: Part(name, **table) for name, table in tables.items()}


BOILERPLATE = "boilerplate"  # what is about the boilerplate itself: in no copy
PARTS = read_parts()
NAMES = [name for name in PARTS if name != BOILERPLATE]
DEFAULT = [name for name in NAMES if PARTS[name].default]


def split_names(text: str) -> set[str]:
    """Return the names in a text with commas between. Raises CannotCreate if one is not a part's."""
    names = set(re.findall("[^ ,]+", text))
    for name in sorted(names.difference(NAMES)):
        raise CannotCreate(f"{name} is not one of the parts: {', '.join(NAMES)}.")
    return names


def check_needs(names: Collection[str]) -> None:
    """Raise CannotCreate if one of these parts needs another one."""
    for name in sort_names(names):
        for need in sorted({*PARTS[name].needs} - {*names}):
            raise CannotCreate(f"{name} needs {need}: name both, or neither.")


def sort_names(names: Collection[str]) -> list[str]:
    """Return these names in the order of parts.toml, without those that it lacks."""
    return [name for name in NAMES if name in names]
