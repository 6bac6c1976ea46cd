"""
What only development has: a folder for its data, and secrets that are made when first needed.
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
    The folder, or one inside it. It is for its owner's eyes only, and git ignores it. Raises SettingError
    when it can't be made.
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
    """A secret that is made once and kept in the folder: 64 hex digits."""
    path = make_folder() / name
    if not path.exists():
        with tempfile.NamedTemporaryFile("w", dir=path.parent) as draft:  # for its owner's eyes only
            draft.write(secrets.token_hex(32))
            draft.flush()
            with suppress(FileExistsError):  # two servers started at once agree on the first one's
                os.link(draft.name, path)
    return path.read_text()
