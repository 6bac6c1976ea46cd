"""
The logger of the server, and messages about what takes long.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("indico")
SILENT_SECONDS = 2


@contextmanager
def announce(step: str) -> Iterator[None]:
    """Log this step once it has taken SILENT_SECONDS. Commands that configure no log print it to stderr."""
    timer = threading.Timer(SILENT_SECONDS, LOGGER.warning, ["%s ...", step])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # before a fork
