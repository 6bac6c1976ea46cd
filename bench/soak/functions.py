"""
What the processes of the battery compute run in the soak.
"""

from __future__ import annotations

import time


def square(number: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return number * number
