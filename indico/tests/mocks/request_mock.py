"""
A handler without a server, for calling actions and decorators directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from indico.tests.mocks import HEADERS


class RequestHandler:
    """Records the arguments of `respond` as `data` and `code`."""

    def __init__(self, body: bytes = b"", headers: Mapping[str, str] = HEADERS) -> None:
        self.request = SimpleNamespace(body=body, headers=headers)
        self.data: Any = None
        self.code: int | None = None

    def respond(self, data: Any, code: int = 200) -> None:
        self.data = data
        self.code = code
