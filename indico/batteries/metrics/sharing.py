"""
One folder for all workers: each of them counts there in files of its own, which prometheus_client names after
its process id.
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

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # has prometheus_client keep values in files of that folder


def make_folder() -> str | None:
    """
    Make the folder, and tell prometheus_client of it. None where each process counts for itself.

    A folder that VARIABLE names already is replaced if there are several workers, since it may hold files of
    other servers, and if it can't be written to, since prometheus_client would fail.
    """
    given = os.environ.get(VARIABLE)
    if config.WORKERS == 1 and (given is None or os.access(given, os.W_OK)):
        return None
    if given is None and "prometheus_client" in sys.modules:
        LOGGER.warning(
            "GET /metrics shows one worker at a time, since prometheus_client was imported before the battery"
            " metrics: set %s to any folder to have all workers added up",
            VARIABLE,
        )
        return None
    try:
        folder = tempfile.mkdtemp(prefix="indico-metrics-")
    except OSError as error:
        LOGGER.warning("GET /metrics shows one worker at a time: %s", error.strerror)
        os.environ.pop(VARIABLE, None)
        return None
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # workers end without this
    os.environ[VARIABLE] = folder
    return folder


def take_place(folder: str, worker: int | None) -> None:
    """Begin to count as this worker. If it takes a dead one's place, the dead one's gauges count no more."""
    from prometheus_client.multiprocess import mark_process_dead

    place = Path(folder, f"worker-{worker or 0}.pid")
    if place.exists():
        mark_process_dead(int(place.read_text()), folder)  # type: ignore[no-untyped-call]
    place.write_text(str(os.getpid()))
