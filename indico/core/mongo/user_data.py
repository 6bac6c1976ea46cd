"""
What the collections hold of a user: each registers how its part is exported and removed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

UserHelper = Callable[[str], Awaitable[Any]]  # called with a user_id

_removers: list[UserHelper] = []
_exporters: list[UserHelper] = []


def on_remove(helper: UserHelper) -> None:
    """Register a helper that deletes a user's data. After a failure it is called again."""
    if helper not in _removers:
        _removers.append(helper)


def on_export(helper: UserHelper) -> None:
    """Register a helper that returns a user's data by collection, such as `{"order": [...]}`."""
    if helper not in _exporters:
        _exporters.append(helper)


async def remove_data(user_id: str) -> None:
    """Delete a user's data. The keys stay: see `indico.utils.auth.key_utils.remove_user`."""
    for remove in _removers:
        await remove(user_id)


async def export_data(user_id: str) -> dict[str, Any]:
    """Return a user's data by collection."""
    parts = [await export(user_id) for export in _exporters]
    return {name: data for part in parts for name, data in part.items()}
