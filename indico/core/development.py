"""
The data folder of development, and secrets that are created on first use.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from indico import config

FOLDER = Path(".indico")  # below the working directory


def make_folder(name: str = "") -> Path:
    """
    Create and return the data folder, or a folder inside it. Only the owner can read it, and git ignores it.
    Raises SettingError if it can't be created.
    """
    try:
        FOLDER.mkdir(mode=0o700, exist_ok=True)
        (FOLDER / ".gitignore").write_text("*\n")
        (FOLDER / name).mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise config.SettingError(
            f"Development keeps its data in {FOLDER.absolute()}, which can't be made: {error.strerror}."
        ) from error
    return FOLDER / name


def get_secret(name: str) -> str:
    """Return a secret of 64 hex digits. It is created once and kept in the data folder."""
    path = make_folder() / name
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # only its owner can read it
            draft.write(secrets.token_hex(32))
            draft.flush()
            with suppress(FileExistsError):  # another server has just created it
                os.link(draft.name, path)
    return path.read_text()
