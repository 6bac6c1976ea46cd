"""
Finds calls that block the event loop, in development.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback

from tornado.ioloop import PeriodicCallback

from indico.core.log import LOGGER

MAX_BLOCKING_SECONDS = 1  # a call that blocks the loop for longer is logged
TICK_MS = 200  # between the signs of life of the loop


def report_blocking_calls(ended: threading.Event) -> None:
    """Log the stack of this thread each time that a call blocks its loop for MAX_BLOCKING_SECONDS."""
    thread = threading.get_ident()
    loop_ran = time.monotonic()

    def tick() -> None:
        nonlocal loop_ran
        loop_ran = time.monotonic()

    def watch() -> None:
        reported = 0.0
        while not ended.wait(TICK_MS / 1000):
            if loop_ran != reported and time.monotonic() > loop_ran + MAX_BLOCKING_SECONDS:
                reported = loop_ran
                stack = "".join(traceback.format_stack(sys._current_frames()[thread]))
                LOGGER.warning(
                    "A call has blocked the event loop for more than %g s, and no request is served"
                    " until it returns:\n%s",
                    MAX_BLOCKING_SECONDS,
                    stack.rstrip(),
                )

    PeriodicCallback(tick, TICK_MS).start()
    threading.Thread(target=watch, daemon=True).start()
