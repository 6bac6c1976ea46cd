"""
Computations in other processes and calls in threads: their results, their limits, and what becomes of them
when they fail or nobody waits for them.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tornado.testing import gen_test

from indico import config
from indico.batteries import compute as battery
from indico.batteries.compute import compute, count_cores, in_thread, on_start, pools
from indico.batteries.compute import process as processes
from indico.batteries.compute.pools import Processes
from indico.batteries.compute.queue import Queue
from indico.core.serving import run_server
from indico.core.startup import StartupTask
from indico.core.supervisor import COMPUTE_PROCESS
from indico.routes.handler import IndicoHandler
from indico.tests.batteries import compute_functions as functions
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    ProcessTest,
    ServerProcess,
    linux,
    processes_in,
    report_figures,
    wait_until,
)
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack

LONG = 60  # seconds, longer than any test
PATIENCE = 30  # seconds
LOAD_SECONDS = float(os.environ.get("LOAD_SECONDS") or 1.5)  # of timeouts
released = threading.Event()


def is_running(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class ThinkHandler(IndicoHandler):
    @unpack("first", "second")
    @type_check(int, int)
    async def add(self, first: int, second: int) -> int:
        return await compute(functions.add, first, second)

    async def describe(self, data: bytes) -> dict[str, Any]:
        return await compute(functions.describe)

    async def die(self, data: bytes) -> None:
        await compute(functions.die)

    async def leave(self, data: bytes) -> None:
        await compute(functions.leave)

    @unpack("kind")
    @type_check(str)
    async def refuse(self, kind: str) -> Any:
        return await compute(functions.fail, kind)

    async def local(self, data: bytes) -> None:
        await compute(lambda: None)

    @unpack("seconds")
    @type_check(float)
    async def burn(self, seconds: float) -> int:
        return await compute(functions.burn, seconds)

    async def thread(self, data: bytes) -> bool:
        return await in_thread(released.wait, PATIENCE)

    def echo(self, data: bytes) -> str:
        return "here"


class ShortHandler(ThinkHandler):
    request_timeout = 0.2


class ComputeTest(ServerTest):
    stores = False
    routes = [
        (r"/think/(?P<action>[a-zA-Z]+)?", ThinkHandler),
        (r"/short/(?P<action>[a-zA-Z]+)?", ShortHandler),
    ]
    hooks: tuple[Callable[[], object], ...] = ()

    def setUp(self) -> None:
        self.set(config, "COMPUTE_WORKERS", 1)
        self.set(config, "COMPUTE_QUEUE", 2)
        self.set(battery, "_hooks", list(self.hooks))
        super().setUp()

    @property
    def pool(self) -> Processes:
        return battery.get_pools().processes

    def call(self, action: str, **fields: Any) -> tuple[int, Any]:
        answer: tuple[int, Any] = self.io_loop.run_sync(lambda: self.begin(action, **fields), PATIENCE)
        return answer

    def begin(self, action: str, **fields: Any) -> asyncio.Task[tuple[int, Any]]:
        """Send a request. A cancelled task closes its connection."""
        path = action if "/" in action else f"think/{action}"

        async def send() -> tuple[int, Any]:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            try:
                body = json.dumps(fields)
                writer.write(
                    f"POST /{path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
                    f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
                )
                answer = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
                return answer["status"], answer["data"]
            finally:
                writer.close()

        return asyncio.get_running_loop().create_task(send())

    async def wait_until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)


class ResultTest(ComputeTest):
    hooks = (functions.load,)

    @slow
    def test_calls_run_in_a_process_that_has_called_the_hook_once_and_is_niced(self) -> None:
        self.assertEqual(self.call("add", first=1, second=2), (200, 3))
        _, found = self.call("describe")
        self.assertNotEqual(found["pid"], os.getpid())
        self.assertEqual(found["loaded"], [found["pid"]])
        self.assertEqual(found["nice"], min(os.nice(0) + processes.NICENESS, 19))

    def test_a_failure_is_the_callers_and_the_process_goes_on(self) -> None:
        pid = self.call("describe")[1]["pid"]
        self.assertEqual(self.call("refuse", kind="missing"), (400, "text field was not provided"))
        for action, kind, reason in (
            ("refuse", "value", "ValueError: a detail\nIn the compute process:\nTraceback"),
            ("refuse", "unpicklable", "compute_functions.Unpicklable: ab"),
            ("refuse", "result", "pickle"),
            ("leave", "", "SystemExit: 3"),
            ("local", "", "pickle"),
        ):
            with self.subTest(action, kind=kind), self.assertLogs("indico", "ERROR") as log:
                self.assertEqual(self.call(action, kind=kind)[0], 500)
            self.assertIn(reason, log.output[0])
        self.assertEqual(self.call("describe")[1]["pid"], pid)

    @slow
    def test_a_process_that_dies_costs_one_request(self) -> None:
        with self.assertLogs("indico", "ERROR") as log:
            self.assertEqual(self.call("die")[0], 500)
        self.assertIn("A compute process died (exit code -9) while it ran die", log.output[0])
        self.assertEqual(self.call("add", first=1, second=2), (200, 3))

    def test_a_process_that_dies_between_two_requests_costs_none(self) -> None:
        os.kill(self.call("describe")[1]["pid"], signal.SIGKILL)
        [process] = self.pool.queue.free
        self.io_loop.run_sync(lambda: self.wait_until(lambda: not process.is_alive()), PATIENCE)
        self.assertEqual(self.call("add", first=1, second=2), (200, 3))

    def test_without_a_running_server_it_is_an_error(self) -> None:
        with mock.patch.object(battery, "_pools", []), self.assertLogs("indico", "ERROR") as log:
            self.assertEqual(self.call("describe")[0], 500)
        self.assertIn("need a running server that has the battery compute", log.output[0])


class LeavingTest(ComputeTest):
    @slow
    def test_a_request_that_times_out_ends_its_process(self) -> None:
        pid = self.call("describe")[1]["pid"]
        with self.assertLogs("indico", "WARNING"):
            self.assertEqual(self.call("short/burn", seconds=LONG)[0], 504)
        wait_until(lambda: not is_running(pid), "the process ends")
        self.assertNotEqual(self.call("describe")[1]["pid"], pid)

    @gen_test(timeout=PATIENCE)
    async def test_beyond_the_queue_it_is_503_at_once_and_a_client_that_leaves_frees_its_place(self) -> None:
        running = self.begin("burn", seconds=LONG)
        await self.wait_until(lambda: self.pool.running)
        leaver = self.begin("add", first=1, second=1)
        await self.wait_until(lambda: len(self.pool.queue.waiting) == 1)
        waiter = self.begin("add", first=1, second=2)
        await self.wait_until(lambda: len(self.pool.queue.waiting) == 2)
        with self.assertLogs("indico", "WARNING"):
            self.assertEqual(await self.begin("add", first=1, second=3), (503, "The server is busy"))
        leaver.cancel()
        await self.wait_until(lambda: len(self.pool.queue.waiting) == 1)
        last = self.begin("add", first=1, second=4)
        await self.wait_until(lambda: len(self.pool.queue.waiting) == 2)
        self.assertEqual(await self.begin("echo"), (200, "here"))
        running.cancel()  # ends the computation, so that the others run
        self.assertEqual([await waiter, await last], [(200, 3), (200, 5)])

    @gen_test(timeout=PATIENCE)
    async def test_when_the_server_stops_busy_and_stopped_processes_are_killed(self) -> None:
        self.set(pools, "GRACE", 0.1)
        pool = Processes(2, 1, ())
        found = await pool.run(functions.describe, ())
        await self.wait_until(lambda: len(pool.queue.free) == 2)
        os.kill(found["pid"], signal.SIGSTOP)
        [other] = [process for process in pool.queue.free if process._process.pid != found["pid"]]
        pool.queue.free.append(pool.queue.free.pop(pool.queue.free.index(other)))  # the next to be taken
        call = asyncio.ensure_future(pool.run(functions.burn, (LONG,)))
        await self.wait_until(lambda: pool.running)
        await pool.close()
        with self.assertRaises(processes.ProcessDied):
            await call
        self.assertFalse(other.is_alive() or is_running(found["pid"]))
        self.assertEqual(pool._starting, set())


@slow
class TornadoServerTest(ComputeTest):
    """HTTP_SERVER=tornado"""

    def setUp(self) -> None:
        self.set(config, "HTTP_SERVER", "tornado")
        super().setUp()

    test_a_client_that_leaves_frees_its_place = (
        LeavingTest.test_beyond_the_queue_it_is_503_at_once_and_a_client_that_leaves_frees_its_place
    )


class QueueTest(ComputeTest):
    @gen_test
    async def test_an_item_that_comes_when_its_caller_is_cancelled_goes_to_the_next(self) -> None:
        queue: Queue[str] = Queue(9)
        first, second = (asyncio.ensure_future(queue.take()) for _ in range(2))
        await asyncio.sleep(0)
        queue.put("item")
        first.cancel()
        with suppress(asyncio.CancelledError):
            await first
        self.assertEqual(await second, "item")
        third = asyncio.ensure_future(queue.take())
        await asyncio.sleep(0)
        third.cancel()
        queue.put("item")
        self.assertEqual(queue.free, ["item"])
        with suppress(asyncio.CancelledError):
            await third


class HookTest(ComputeTest):
    hooks = (functions.load_once_broken,)

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        environment = mock.patch.dict(os.environ, {"COMPUTE_MARK": f"{folder.name}/mark"})
        environment.start()
        self.addCleanup(environment.stop)
        super().setUp()

    def test_a_hook_that_fails_is_called_again_in_another_process(self) -> None:
        with self.assertLogs("indico", "WARNING") as log:
            self.assertEqual(self.call("add", first=1, second=2), (200, 3))
        self.assertIn("RuntimeError('the model is missing'). This is tried again", log.output[0])

    def test_on_start_registers_a_hook_and_leaves_it_as_it_is(self) -> None:
        self.assertIs(on_start(functions.load), functions.load)
        self.assertIn(functions.load, battery._hooks)


class ProductionTest(ComputeTest):
    hooks = (functions.load_broken,)

    @gen_test
    async def test_in_production_a_server_with_a_hook_is_ready_when_its_processes_are(self) -> None:
        self.assertEqual(self._app.state.missing, set())
        self.set(config, "PRODUCTION", True)
        self.set(StartupTask, "fail", lambda *_: LONG)
        async with battery.lifespan(self._app):
            self.assertEqual(self._app.state.missing, {"Compute process 1"})
            await self.wait_until(lambda: self.pool._starting)

    async def read_size(self) -> int:
        async with battery.lifespan(self._app):
            return self.pool._size

    def test_by_default_there_is_a_process_for_each_core_but_one(self) -> None:
        self.set(config, "COMPUTE_WORKERS", 0)
        for cores, workers, size in ((8, 1, 7), (8, 4, 1), (1, 1, 1)):
            self.set(battery, "count_cores", lambda cores=cores: cores)
            self.set(config, "WORKERS", workers)
            self.assertEqual(self.io_loop.run_sync(self.read_size), size)

    async def read_limits(self) -> tuple[int, int]:
        async with battery.lifespan(self._app):
            processes, threads = battery.get_pools()
            return processes.queue.limit, threads.queue.limit

    def test_by_default_four_calls_may_wait_for_each_process_and_thread(self) -> None:
        self.set(config, "COMPUTE_WORKERS", 3)
        for queue, limits in ((0, (12, 4 * battery.THREADS)), (5, (5, 5))):
            self.set(config, "COMPUTE_QUEUE", queue)
            self.assertEqual(self.io_loop.run_sync(self.read_limits), limits)

    def test_cores_are_those_that_the_process_may_use(self) -> None:
        self.assertEqual(count_cores(), len(os.sched_getaffinity(0)))
        with mock.patch.object(os, "cpu_count", lambda: 3), mock.patch.object(os, "sched_getaffinity"):
            del os.sched_getaffinity
            self.assertEqual(count_cores(), 3)


class ThreadTest(ComputeTest):
    def setUp(self) -> None:
        released.clear()
        self.addCleanup(released.set)
        self.set(battery, "THREADS", 1)
        super().setUp()

    @gen_test(timeout=PATIENCE)
    async def test_calls_in_threads_are_bounded_and_keep_their_thread_until_they_return(self) -> None:
        threads = battery.get_pools().threads
        leaver = self.begin("thread")
        await self.wait_until(lambda: threads.running)
        leaver.cancel()
        waiters = [self.begin("thread"), self.begin("thread")]
        await self.wait_until(lambda: len(threads.queue.waiting) == 2)
        with self.assertLogs("indico", "WARNING"):
            self.assertEqual((await self.begin("thread"))[0], 503)
        self.assertEqual(threads.running, 1)
        released.set()
        self.assertEqual([await waiter for waiter in waiters], [(200, True), (200, True)])

    @slow
    @gen_test(timeout=PATIENCE)
    async def test_gauges_count_the_calls_that_run_and_those_that_wait(self) -> None:
        calls = [
            self.begin(action, seconds=LONG) for action in ("burn", "burn", "thread", "thread", "thread")
        ]
        processes, threads = battery.get_pools()
        await self.wait_until(lambda: processes.running and len(processes.queue.waiting) == 1)
        await self.wait_until(lambda: threads.running and len(threads.queue.waiting) == 2)
        gauges = {name: read() for name, (_, read) in self._app.hooks.gauges.items()}
        expected = {
            "compute_running": 1,
            "compute_waiting": 1,
            "in_thread_running": 1,
            "in_thread_waiting": 2,
        }
        self.assertEqual({name: gauges[name] for name in expected}, expected)
        for call in calls:
            call.cancel()


class ChildTest(StrictTest):
    def test_a_process_exits_when_the_server_has_ended(self) -> None:
        ended = mock.Mock()
        with (
            mock.patch.object(multiprocessing, "parent_process", lambda: ended),
            mock.patch.object(os, "_exit") as leave,
        ):
            processes.exit_with_parent()
        ended.join.assert_called_once_with()
        leave.assert_called_once_with(1)

    def test_a_process_that_imports_the_main_script_starts_no_server(self) -> None:
        make_app = mock.Mock()
        process = multiprocessing.current_process()
        self.addCleanup(setattr, process, "name", process.name)
        process.name = COMPUTE_PROCESS
        run_server(make_app, debug=False, port=0)
        make_app.assert_not_called()


SERVER = """
import time
from indico import server
from indico.batteries.compute import compute, get_pools
from indico.routes.handler import IndicoHandler
from indico.tests.batteries import compute_functions as functions
from indico.utils import type_check, unpack

class ThinkHandler(IndicoHandler):
    @unpack("seconds")
    @type_check(float)
    async def burn(self, seconds):
        return await compute(functions.burn, seconds)

    async def hold(self, data):
        return await compute(functions.hold, 10**12)

    async def pid(self, data):
        return await compute(functions.burn, 0)

    def load(self, data):
        pool = get_pools().processes
        return [pool.running, len(pool.queue.waiting)]

    def echo(self, data):
        return "here"

class ShortHandler(ThinkHandler):
    request_timeout = 0.5

server.ROUTES.append((r"/think/(?P<action>[a-zA-Z]+)?", ThinkHandler))
server.ROUTES.append((r"/short/(?P<action>[a-zA-Z]+)?", ShortHandler))
server.main(debug=False, port=0)
"""


def find_percentile(times: list[float]) -> float:
    return sorted(times)[int(0.99 * len(times))]


@slow
@linux
class BusyTest(ProcessTest):
    """Real servers, many clients, and processes that are killed."""

    def launch_server(self, **settings: str) -> ServerProcess:
        settings = {"COMPUTE_WORKERS": "1", "COMPUTE_QUEUE": "300", "REQUEST_TIMEOUT": "600", **settings}
        server = self.start(script=SERVER, **settings)
        self.assertEqual(server.fetch("think/pid").status, 200)
        return server

    def time_echoes(self, server: ServerProcess, until: Callable[[], bool]) -> list[float]:
        """Send short requests one after the other. Return the seconds that each has taken."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        times = []
        while not until():
            began = time.perf_counter()
            connection.request("POST", "/think/echo", b"")
            connection.getresponse().read()
            times.append(time.perf_counter() - began)
            time.sleep(0.002)
        connection.close()
        return times

    def test_other_requests_are_served_while_200_clients_compute(self) -> None:
        server = self.launch_server()
        deadline = time.monotonic() + 5
        idle = find_percentile(self.time_echoes(server, lambda: time.monotonic() > deadline))
        with ThreadPoolExecutor(200) as clients:
            fetch = partial(server.fetch, "think/burn", {"seconds": 0.1}, {}, 300)
            answers = [clients.submit(fetch) for _ in range(200)]
            wait_until(lambda: any(answer.done() for answer in answers), "the first computation", 300)
            times = self.time_echoes(server, lambda: all(answer.done() for answer in answers))
        busy = find_percentile(times)
        report_figures(
            self, f"p99 of {len(times)} requests: {1000 * idle:.2f} ms idle, {1000 * busy:.2f} ms busy"
        )
        self.assertEqual({answer.result().status for answer in answers}, {200})
        self.assertLessEqual(busy, 3 * idle)

    def test_beyond_the_queue_it_is_503_at_once(self) -> None:
        server = self.launch_server(COMPUTE_QUEUE="10")
        with ThreadPoolExecutor(200) as clients:
            fetch = partial(server.fetch, "think/burn", timeout=300)
            answers = [clients.submit(fetch, {"seconds": 3.0})]
            wait_until(lambda: server.fetch("think/load").data == [1, 0], "the first computation")
            answers += [clients.submit(fetch, {"seconds": 0.1}) for _ in range(10)]
            wait_until(lambda: server.fetch("think/load").data == [1, 10], "a full queue")
            times = []
            while not answers[0].done():
                began = time.perf_counter()
                refused = fetch({"seconds": 0.1})
                if refused.status == 503:
                    times.append(time.perf_counter() - began)
                    self.assertEqual(refused.headers["Retry-After"], "1")
        report_figures(self, f"{len(times)} refused, the slowest within {1000 * max(times):.1f} ms")
        self.assertGreater(len(times), 10)
        self.assertLess(max(times), 0.5)
        self.assertEqual([answer.result().status for answer in answers], 11 * [200])

    def test_each_kill_costs_one_request_at_most(self) -> None:
        server = self.launch_server(COMPUTE_WORKERS="2")
        kills = 20
        with ThreadPoolExecutor(4) as clients:
            ended = threading.Event()

            def ask() -> list[int]:
                statuses = []
                while not ended.is_set():
                    statuses.append(server.fetch("think/burn", {"seconds": 0.05}, {}, 300).status)
                return statuses

            asking = [clients.submit(ask) for _ in range(4)]
            for _ in range(kills):
                os.kill(server.fetch("think/pid", timeout=300).data, signal.SIGKILL)
                time.sleep(0.1)
            ended.set()
            statuses = [status for task in asking for status in task.result()]
        report_figures(self, f"{kills} kills, {len(statuses)} requests, {statuses.count(500)} of them failed")
        self.assertLessEqual(statuses.count(500), kills)
        self.assertEqual(statuses.count(200) + statuses.count(500), len(statuses))

    def test_after_timeouts_no_process_computes_for_nobody(self) -> None:
        for action in ("burn", "hold"):
            with self.subTest(action):
                server = self.launch_server(COMPUTE_WORKERS="2")
                statuses = self.ask_for_seconds(server, f"short/{action}")
                self.assertEqual(set(statuses), {504})
                self.assertEqual(server.fetch("think/pid", timeout=300).status, 200)
                wait_until(lambda: len(self.find_children(server)) == 2, "two processes")  # noqa: B023
                children = self.find_children(server)
                before = sum(map(read_time, children))
                time.sleep(2)
                self.assertLess(sum(map(read_time, children)) - before, 0.5)
                self.assertEqual(self.find_children(server), children)
                report_figures(self, f"{len(statuses)} timeouts of {action}, which computes no more")
                self.assertEqual(server.stop(), 0)

    def ask_for_seconds(self, server: ServerProcess, path: str) -> list[int]:
        """Send requests for LOAD_SECONDS, 20 at a time. Return their statuses."""
        deadline = time.monotonic() + LOAD_SECONDS

        def ask() -> list[int]:
            statuses = []
            while time.monotonic() < deadline:
                statuses.append(server.fetch(path, {"seconds": 600}, {}, 300).status)
            return statuses

        with ThreadPoolExecutor(20) as clients:
            tasks = [clients.submit(ask) for _ in range(20)]
            return [status for task in tasks for status in task.result()]

    def find_children(self, server: ServerProcess) -> list[int]:
        """Return the processes of `compute`. The others are the server and multiprocessing's own."""
        found = []
        for pid in processes_in(self.folder):
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return sorted(found)

    def test_a_server_that_is_killed_leaves_no_process_that_computes(self) -> None:
        server = self.launch_server()
        client = threading.Thread(target=self.ask_in_vain, args=(server,))
        client.start()
        pid = next(pid for pid in processes_in(self.folder) if pid != server.pid and read_time(pid) > 0)
        time.sleep(1)
        server.stop(signal.SIGKILL)
        client.join()
        wait_until(lambda: not processes_in(self.folder), f"{pid} ends")

    def ask_in_vain(self, server: ServerProcess) -> None:
        with suppress(OSError, http.client.HTTPException):
            server.fetch("think/hold")


def read_time(pid: int) -> float:
    """Return the seconds of processor time that a process has used."""
    with suppress(FileNotFoundError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0
