"""
The server of the soak: ours, with actions that use each battery, and a count of what the process has.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import re
import secrets
import threading
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import indico.batteries.files.file_db as FileDB
from bench.soak import functions
from indico import config, server
from indico.batteries.compute import compute, get_pools
from indico.batteries.files import StoredFile, save_file
from indico.batteries.idempotency import idempotent
from indico.batteries.jobs import Progress, job
from indico.batteries.limit import limit
from indico.routes.handler import IndicoHandler
from indico.tests.testutils.replica import open_files
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

LARGE = 4_000_000  # bytes
# Names of threads in pools. The pools have limits, and start their threads when they need them.
POOLED = re.compile(r"(ThreadPoolExecutor-\d+|asyncio|uvloop|compute|password)_\d+")


class SoakHandler(IndicoHandler):
    max_body_size = 4 * 1024 * 1024  # of uploads
    progress: Progress

    async def pid(self, data: bytes) -> int:
        return os.getpid()

    async def count(self, data: bytes) -> dict[str, Any]:
        """Return what this process has of each kind, without the threads of pools. Starts the computing."""
        await compute(os.getpid)
        names = sorted(thread.name for thread in threading.enumerate())
        pooled = [name for name in names if POOLED.fullmatch(name)]
        processes = get_pools().processes
        return {
            "pid": os.getpid(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "tasks": len(asyncio.all_tasks()),
            "threads": len(os.listdir("/proc/self/task")) - len(pooled),
            "compute processes": len(multiprocessing.active_children()),
            "computations": processes.running + len(processes.queue.waiting),
            "names": names,
            "running": Counter(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()),
            "open": Counter(name.partition(":")[0] for name in open_files(os.getpid())),
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

    @auth
    @unpack("number", seconds=0.01)
    @type_check(int, float)
    async def think(self, number: int, seconds: float) -> int:
        """Return the square of a number, computed in another process for so long."""
        return await compute(functions.square, number, seconds)

    @auth
    @limit("60/minute")
    @job(retries=10)
    @unpack("number")
    @type_check(int)
    async def work(self, number: int) -> int:
        """The same as a job."""
        await self.progress(0.5)
        return await compute(functions.square, number, 0.01)

    @auth
    @limit("5/minute")
    async def limited(self, data: bytes) -> bool:
        return True

    @auth
    @idempotent
    @unpack("number")
    @type_check(int)
    async def once(self, number: int) -> str:
        """Return another text each time that it runs."""
        await asyncio.sleep(0.1)
        return secrets.token_hex(8)

    @auth
    @unpack("file")
    @type_check(Upload)
    async def keep(self, file: Upload) -> StoredFile:
        """Store a file."""
        return await save_file(file, self.user_id)

    @auth
    @unpack("file")
    @type_check(str)
    async def discard(self, file: str) -> None:
        """Remove a file."""
        await FileDB.remove(file, self.user_id)


server.ROUTES.append((r"/soak/(?P<action>[a-zA-Z]+)?", SoakHandler))

if __name__ == "__main__":
    server.main(debug=False, port=config.PORT)
