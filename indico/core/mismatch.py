"""
How checks of types say what is wrong, before the name of the field is known.
"""

from __future__ import annotations

from collections.abc import Callable

from indico.error import IndicoError


class TypeMismatch(Exception):
    """What is wrong with a value, and where within it."""

    def __init__(
        self, make_error: Callable[[str], IndicoError], path: str = "", nested: bool = False
    ) -> None:
        super().__init__()
        self.make_error = make_error
        self.path = path
        self.nested = nested  # the value itself is of the type, and something within it is not

    def prefixed(self, part: str) -> TypeMismatch:
        return TypeMismatch(self.make_error, part + self.path, nested=True)

    def to_error(self, field: str) -> IndicoError:
        return self.make_error(field + self.path)
