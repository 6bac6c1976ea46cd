"""
A line for whoever waits.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

FIRST = 1  # seconds until there is a line
NEXT = 10  # seconds until there is another, where lines can't be overwritten


@contextmanager
def progress(what: str) -> Iterator[None]:
    """While the block runs, and runs for more than a second, say on standard error what does and how long."""
    began = time.monotonic()
    done = threading.Event()

    def tell() -> None:
        terminal = sys.stderr.isatty()
        pause: float = FIRST
        while not done.wait(pause):
            line = f"{what} ... {time.monotonic() - began:.0f} s"
            print(line, end="\r" if terminal else "\n", file=sys.stderr, flush=True)
            pause = FIRST if terminal else NEXT

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield
    finally:
        done.set()
        teller.join()
