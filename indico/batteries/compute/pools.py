"""
The processes of `compute` and the threads of `in_thread`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

from indico.batteries.compute.process import Process, ProcessDied, call_all
from indico.batteries.compute.queue import Queue
from indico.core.startup import StartupTask
from indico.core.tasks import spawn

T = TypeVar("T")

GRACE = 1  # seconds that an idle process has to end
POLL_INTERVAL = 0.01  # seconds


class Processes:
    """
    A pool of `size` processes. Each calls the hooks when it starts. One that dies, or whose caller is
    cancelled, is replaced.
    """

    def __init__(self, size: int, limit: int, hooks: Sequence[Callable[[], object]]) -> None:
        self.queue: Queue[Process] = Queue(limit)
        self.running = 0  # calls
        self._size = size
        self._hooks = tuple(hooks)
        self._processes: set[Process] = set()
        self._starting: set[asyncio.Task[None]] = set()
        # A thread for each process waits for its result. Those of processes that were killed end soon.
        self._threads = ThreadPoolExecutor(2 * size, "compute")
        self._started = self._closed = False

    def start(self, missing: set[str]) -> None:
        """Start the processes, unless they are started. `missing` has a name for each that is not ready."""
        if not self._started:
            self._started = True
            for number in range(self._size):
                self._add(StartupTask(f"Compute process {number + 1}", missing))

    def _add(self, task: StartupTask) -> None:
        starting = spawn(task.run(self._start_process))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def _start_process(self) -> None:
        process = Process()
        self._processes = {process, *self._find_alive()}
        try:
            _, error = await self._call(process, call_all, self._hooks)
            if error is not None:
                raise error
        except BaseException:
            process.kill()
            raise
        self._processes = self._find_alive()  # again: one that was killed a moment ago has ended by now
        self.queue.put(process)

    def _find_alive(self) -> set[Process]:
        return {process for process in self._processes if process.is_alive()}

    async def _call(self, process: Process, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, process.call, function, args)

    def _replace(self, process: Process) -> None:
        process.kill()
        if not self._closed:
            self._add(StartupTask("A compute process", set()))

    async def run(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Return `function(*args)`, computed in a process. See `compute`."""
        self.start(set())
        process = await self.queue.take()
        while not process.is_alive():  # it died after its last call
            self._replace(process)
            process = await self.queue.take()
        self.running += 1
        try:
            result, error = await self._call(process, function, args)
        except (EOFError, OSError) as error:
            self._replace(process)
            raise ProcessDied(process.get_exit_code(), function) from error
        except BaseException:
            self._replace(process)
            raise
        finally:
            self.running -= 1
        self.queue.put(process)
        if error is not None:
            raise error
        computed: T = result
        return computed

    async def close(self) -> None:
        """End all processes."""
        self._closed = True
        for task in self._starting:
            task.cancel()
        if self._starting:
            await asyncio.wait(self._starting)
        for process in self._processes:
            if process in self.queue.free:
                process.close()
            else:
                process.kill()
        deadline = asyncio.get_running_loop().time() + GRACE
        while any(process.is_alive() for process in self._processes):
            if asyncio.get_running_loop().time() > deadline:
                for process in self._processes:
                    process.kill()
            await asyncio.sleep(POLL_INTERVAL)
        self._threads.shutdown(wait=False)


class Threads:
    """A pool of threads."""

    def __init__(self, size: int, limit: int) -> None:
        self.queue: Queue[int] = Queue(limit)
        self.queue.free.extend(range(size))
        self._size = size
        self._threads = ThreadPoolExecutor(size, "in_thread")

    @property
    def running(self) -> int:
        """The number of calls that run."""
        return self._size - len(self.queue.free)

    async def run(self, function: Callable[..., T], args: tuple[Any, ...]) -> T:
        """Return `function(*args)`, called in a thread. See `in_thread`."""
        number = await self.queue.take()
        call = partial(copy_context().run, function, *args)
        running = asyncio.get_running_loop().run_in_executor(self._threads, call)
        running.add_done_callback(lambda _: self.queue.put(number))
        return await asyncio.shield(running)  # it keeps its thread until it returns, whoever waits for it

    def close(self) -> None:
        self._threads.shutdown(wait=False)
