"""
The data folder of development, and secrets that are created on first use.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from contextlib import suppress
from pathlib import Path

from indico import config
from indico.core.log import LOGGER

FOLDER = Path(".indico")  # below the working directory

_unsaved: dict[str, str] = {}  # secrets that can't be stored


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
    """
    Return a secret of 64 hex digits. It is created once and kept in the data folder. If that is impossible,
    this process and its workers keep it.
    """
    path = FOLDER / name
    with suppress(OSError):
        if text := path.read_text():
            return text
    try:
        make_folder()
        with open(path, "a+", opener=lambda file, flags: os.open(file, flags, 0o600)) as file:
            with suppress(OSError):  # not all file systems have locks
                fcntl.flock(file, fcntl.LOCK_EX)  # another server may be about to create it
            file.seek(0)
            text = file.read()
            if not text:
                text = secrets.token_hex(32)
                file.write(text)
            return text
    except (config.SettingError, OSError) as error:
        if name not in _unsaved:
            LOGGER.warning("%s changes with each start, because it can't be stored: %s", name, error)
        return _unsaved.setdefault(name, secrets.token_hex(32))


def make_secrets() -> None:
    """In development, create the secrets that are not set. Workers that are forked later have the same."""
    for name in ("dev_token", "user_salt"):
        if not config.PRODUCTION and not getattr(config, name.upper()):
            get_secret(name)
