"""
The server of the soak: ours, with an upload, a stream, a large response and a count of what the process has.
"""

from __future__ import annotations

import asyncio
import os
import re
import threading
from collections.abc import AsyncIterator
from typing import Any

from indico import config, server
from indico.routes.handler import IndicoHandler
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

LARGE = 4_000_000  # bytes
POOLED = re.compile(r"(ThreadPoolExecutor-\d+|asyncio|uvloop)_\d+")  # names of threads


class SoakHandler(IndicoHandler):
    max_body_size = 4 * 1024 * 1024  # of uploads

    async def count(self, data: bytes) -> dict[str, Any]:
        """Return what this process has of each kind, without the threads of pools, which have limits."""
        names = sorted(thread.name for thread in threading.enumerate())
        pooled = [name for name in names if POOLED.fullmatch(name)]
        return {
            "pid": os.getpid(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
            "threads": len(os.listdir("/proc/self/task")) - len(pooled),
            "names": names,
        }

    @auth
    async def large(self, data: bytes) -> str:
        """Return more than the buffers between server and client hold."""
        return LARGE * "a"

    @auth
    @unpack("until")
    @type_check(int)
    async def follow(self, until: int) -> AsyncIterator[dict[str, int | str]]:
        """Count in a stream of events, each of which is large if there are many."""
        for number in range(until):
            await asyncio.sleep(0.02)
            yield {"number": number, "text": "a" * 10 * until}

    @auth
    @unpack("title", "image")
    @type_check(str, Upload)
    async def upload(self, title: str, image: Upload) -> int:
        """Read a file and return its size."""
        return len(image.file.read())


server.ROUTES.append((r"/soak/(?P<action>[a-zA-Z]+)?", SoakHandler))

if __name__ == "__main__":
    server.main(debug=False, port=config.PORT)
