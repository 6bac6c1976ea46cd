"""
Jobs with taskiq and its broker and result backend for MongoDB, beside `bench.jobs`.

Run as a module with a number, it adds that many tasks and prints how many of them it runs in a second. One
worker runs one task at a time, and stores what it returns.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time

from taskiq.api import run_receiver_task
from taskiq_mongodb import MongoBroker, MongoResultBackend


async def run_tasks(count: int) -> float:
    uri, database = os.environ["MONGODB"], os.environ["MONGODB_DATABASE"]
    results: MongoResultBackend[None] = MongoResultBackend(uri, database)
    broker = MongoBroker(uri, database, result_backend=results)
    await broker.startup()
    await broker.collection.delete_many({})
    await results.collection.delete_many({})

    @broker.task
    async def empty() -> None:
        """Does nothing."""

    for _ in range(count):
        await empty.kiq()
    began = time.monotonic()
    worker = asyncio.create_task(run_receiver_task(broker, max_async_tasks=1))
    while await broker.collection.count_documents({}):
        await asyncio.sleep(0.05)
    elapsed = time.monotonic() - began
    worker.cancel()
    await asyncio.wait([worker])
    assert await results.collection.count_documents({}) == count
    await broker.shutdown()
    return count / elapsed


if __name__ == "__main__":
    print(asyncio.run(run_tasks(int(sys.argv[1]))))
