"""
What only development has: a folder for its data, and secrets that are made when first needed.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

FOLDER = Path(".indico")  # below the working directory


def make_folder(name: str = "") -> Path:
    """The folder, or one inside it. It is for its owner's eyes only, and git ignores it."""
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    (FOLDER / ".gitignore").write_text("*\n")
    (FOLDER / name).mkdir(mode=0o700, exist_ok=True)
    return FOLDER / name


def get_secret(name: str) -> str:
    """A secret that is made once and kept in the folder: 64 hex digits."""
    path = make_folder() / name
    if not path.exists():
        draft = make_folder() / f"{name}.{os.getpid()}"
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        try:
            os.link(draft, path)  # two servers started at once agree on the first one's
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text()
