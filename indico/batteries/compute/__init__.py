"""
Compute: `await compute(function, *args)` runs a function in another process, and `await in_thread(function,
*args)` runs one in a thread. The event loop serves other requests meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar, TypeVarTuple

from indico import config
from indico.batteries.compute.pools import Processes, Threads
from indico.core.hooks import Application

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Hook = TypeVar("Hook", bound=Callable[[], object])

THREADS = 32  # for `in_thread`
QUEUE_FACTOR = 4  # waiting calls for each process or thread, unless COMPUTE_QUEUE is set

_hooks: list[Callable[[], object]] = []  # run once in each process


class Pools(NamedTuple):
    processes: Processes
    threads: Threads


_pools: list[Pools] = []  # of the servers in this process; the last one is used


def install(application: Application) -> None:
    """Make the pools while the server runs."""
    application.hooks.lifespans.append(lifespan)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """In production, start the processes at once if there is a hook. Otherwise the first call starts them."""
    size = config.COMPUTE_WORKERS or max((count_cores() - 1) // config.WORKERS, 1)
    pools = Pools(
        Processes(size, config.COMPUTE_QUEUE or QUEUE_FACTOR * size, tuple(_hooks)),
        Threads(THREADS, config.COMPUTE_QUEUE or QUEUE_FACTOR * THREADS),
    )
    processes, threads = pools
    application.hooks.gauges.update(
        compute_running=("Calls of compute that run", lambda: processes.running),
        compute_waiting=("Calls of compute that wait", lambda: len(processes.queue.waiting)),
        in_thread_running=("Calls of in_thread that run", lambda: threads.running),
        in_thread_waiting=("Calls of in_thread that wait", lambda: len(threads.queue.waiting)),
    )
    _pools.append(pools)
    try:
        if config.PRODUCTION and _hooks:
            processes.start(application.state.missing)
        yield
    finally:
        _pools.remove(pools)
        threads.close()
        await processes.close()


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def get_pools() -> Pools:
    if not _pools:
        raise RuntimeError("compute and in_thread need a running server that has the battery compute")
    return _pools[-1]


def on_start(hook: Hook) -> Hook:
    """
    Register a function that each process calls once, before its first computation: `@on_start` above a
    function that loads a model. If it raises an exception, another process is started after a pause.
    """
    _hooks.append(hook)
    return hook


async def compute(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """
    Return `function(*args)`, computed in a process of the pool. The function is at the top level of a module.
    Its name, the arguments and the result are pickled.

    If the caller is cancelled, because its request has timed out or its client has disconnected, a waiting
    call is removed from the queue, and the process of a running one is killed. Raises Unavailable at once if
    COMPUTE_QUEUE calls wait, ProcessDied if the process ends, and the exceptions of the function.
    """
    return await get_pools().processes.run(function, args)


async def in_thread(function: Callable[[*Ts], T], *args: *Ts) -> T:
    """
    Return `function(*args)`, called in a thread. This is for functions that wait, such as a client library
    without asyncio, and not for those that compute.

    Raises Unavailable at once if too many calls wait, and the exceptions of the function. If the caller is
    cancelled, a waiting call is removed from the queue. A running one uses its thread until it returns.
    """
    return await get_pools().threads.run(function, args)
