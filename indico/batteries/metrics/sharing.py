"""
The folder that all workers share: each counts in its own files, and prometheus_client names them after its
process id.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

from indico import config
from indico.utils import LOGGER

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # if set, prometheus_client stores values in this folder


def make_folder() -> str | None:
    """
    Make the folder, set VARIABLE, and return the path. Returns None if each process counts for itself.

    A folder that VARIABLE already names is not used if there are several workers, because it may hold files
    of other servers, or if it can't be written to, because prometheus_client would fail.
    """
    if VARIABLE.lower() in os.environ:  # prometheus_client still reads the name that it once had
        os.environ.setdefault(VARIABLE, os.environ.pop(VARIABLE.lower()))
    given = os.environ.get(VARIABLE)
    if config.WORKERS == 1 and (given is None or can_write(given)):
        return None
    if given is None and "prometheus_client" in sys.modules:
        LOGGER.warning(
            "GET /metrics shows one worker at a time, because prometheus_client was imported before the"
            " battery metrics: set %s to any folder to get the sums of all workers",
            VARIABLE,
        )
        return None
    try:
        folder = tempfile.mkdtemp(prefix="indico-metrics-")
    except OSError as error:
        LOGGER.warning("GET /metrics shows one worker at a time: %s", error.strerror)
        os.environ.pop(VARIABLE, None)
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # runs in the supervisor only
    os.environ[VARIABLE] = folder
    return folder


def can_write(folder: str) -> bool:
    """Whether files can be made in the folder. `os.access` is always true for root."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def register_worker(folder: str, worker: int | None) -> None:
    """Store this worker's pid. If it replaces a dead worker, removes the gauges of that process."""
    from prometheus_client.multiprocess import mark_process_dead

    pid_file = Path(folder, f"worker-{worker or 0}.pid")
    if pid_file.exists():
        mark_process_dead(int(pid_file.read_text()), folder)  # type: ignore[no-untyped-call]
    pid_file.write_text(str(os.getpid()))
