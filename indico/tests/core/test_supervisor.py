"""
Workers, and programs bound to the life of their parent. Each test supervises in a process of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

from indico.core import supervisor
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    PATIENCE,
    ServerProcess,
    linux,
    make_environment,
    make_folder,
    processes_in,
    remove_folder,
    wait_until,
)
from indico.tests.testutils.strict import StrictTest

# Workers say which they are, and wait for SIGTERM.
WORK = """
import logging, os, signal, sys, time
from indico.core import supervisor

logging.basicConfig(format="%(message)s")
supervisor.MIN_WORKER_LIFETIME = float(os.environ.get("QUICK_DEATH", "5"))

def work(number):
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()

def tend():
    pass
"""
SUPERVISE = """
try:
    supervisor.run_workers(2, work, tend)
    print("all have ended")
except supervisor.WorkersDied as error:
    sys.exit(str(error))
"""


class SupervisorTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)

    def supervise(self, changes: str = "", **settings: str) -> ServerProcess:
        """A process that supervises two workers, with `changes` to what they do."""
        parent = ServerProcess(script=WORK + changes + SUPERVISE, folder=self.folder, **settings)
        self.addCleanup(parent.close)
        return parent


def find_workers(parent: ServerProcess, number: int) -> list[int]:
    """The processes that were worker `number`, the first first."""
    return [int(pid) for pid in re.findall(rf"worker {number} is (\d+)\.", parent.output)]


class WorkersTest(SupervisorTest):
    def test_sigterm_ends_all_with_status_0(self) -> None:
        parent = self.supervise(
            """
def work(number):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()
"""
        )
        parent.wait_for("worker ", 2)
        self.assertEqual(parent.stop(), 0)
        self.assertIn("all have ended", parent.output)
        self.assertEqual(processes_in(self.folder), [])

    @slow
    def test_sigint_to_the_parent_is_a_sigterm_to_the_workers(self) -> None:
        parent = self.supervise(
            """
def work(number):
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True) or os._exit(0))
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()
"""
        )
        parent.wait_for("worker ", 2)
        self.assertEqual(parent.stop(signal.SIGINT), 0)
        self.assertEqual(parent.output.count("SIGTERM"), 2)

    @slow
    def test_ctrl_c_which_reaches_all_is_one_signal_to_a_worker(self) -> None:
        parent = self.supervise(
            """
def work(number):
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), lambda _, __, name=name: print(name, flush=True))
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()
"""
        )
        parent.wait_for("worker ", 2)
        os.killpg(parent.pid, signal.SIGINT)
        self.assertEqual(parent.wait(), 0)
        self.assertEqual(parent.output.count("SIGTERM"), 2)
        self.assertNotIn("SIGINT", parent.output)

    @slow
    def test_a_second_signal_reaches_the_workers_too(self) -> None:
        parent = self.supervise(
            """
def work(number):
    signals = iter(["the first", "the second"])
    def on_signal(*_):
        print(text := next(signals), flush=True)
        if text == "the second":
            os._exit(0)
    signal.signal(signal.SIGTERM, on_signal)
    print(f"worker {number} is {os.getpid()}.", flush=True)
    while True:
        signal.pause()
"""
        )
        parent.wait_for("worker ", 2)
        parent.send(signal.SIGTERM)
        parent.wait_for("the first", 2)
        self.assertEqual(parent.stop(), 0)
        self.assertEqual(parent.output.count("the second"), 2)

    @slow
    def test_workers_that_end_by_themselves_are_started_again(self) -> None:
        parent = self.supervise()
        parent.wait_for("worker ", 2)
        first = find_workers(parent, 1)[0]
        os.kill(first, signal.SIGKILL)
        parent.wait_for("worker 1", 2)
        self.assertNotEqual(find_workers(parent, 1)[1], first)
        self.assertEqual(len(find_workers(parent, 0)), 1)
        self.assertIn(f"Worker 1 (process {first}) died; another takes its place", parent.output)
        self.assertEqual(parent.stop(), 0)

    @slow
    def test_workers_that_die_at_once_again_and_again_stop_the_parent(self) -> None:
        parent = self.supervise(
            """
def work(number):
    if number == 1:
        raise OSError("the disk is full")
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()
"""
        )
        self.assertEqual(parent.wait(), 1)
        self.assertTrue(
            parent.output.endswith("The workers die as fast as they are started; the log says why.\n")
        )
        self.assertEqual(parent.output.count("OSError: the disk is full"), 6)
        self.assertEqual(len(find_workers(parent, 0)), 1)
        self.assertEqual(processes_in(self.folder), [])

    @slow
    def test_a_worker_that_lived_a_while_makes_up_for_those_that_did_not(self) -> None:
        # With no time at all counted as quick, each has lived a while.
        parent = self.supervise(
            """
def work(number):
    print(f"worker {number} is {os.getpid()}.", flush=True)
    if number == 0:
        signal.pause()
""",
            QUICK_DEATH="0",
        )
        parent.wait_for("worker 1", 7)
        self.assertEqual(parent.stop(), 0)

    def test_a_signal_while_a_worker_is_replaced_starts_no_other(self) -> None:
        parent = self.supervise(
            """
class Signaller(logging.Handler):
    def emit(self, record):
        os.kill(os.getpid(), signal.SIGTERM)

logging.getLogger("indico").addHandler(Signaller())
"""
        )
        parent.wait_for("worker ", 2)
        os.kill(find_workers(parent, 1)[0], signal.SIGKILL)
        self.assertEqual(parent.wait(), 0)
        self.assertEqual(len(find_workers(parent, 1)), 1)

    def test_a_failure_in_the_parent_ends_the_workers(self) -> None:
        parent = self.supervise(
            """
def tend():
    if os.path.exists("fail"):
        print("tend fails", flush=True)
        raise OSError("tend failed")

def work(number):
    signal.signal(signal.SIGTERM, lambda *_: print("SIGTERM", flush=True) or os._exit(0))
    print(f"worker {number} is {os.getpid()}.", flush=True)
    signal.pause()

try:
    supervisor.run_workers(2, work, tend)
except OSError:
    signal.pause()  # were it to end, the workers would end with it
"""
        )
        parent.wait_for("worker ", 2)
        (self.folder / "fail").touch()
        parent.wait_for("SIGTERM", 2)
        wait_until(lambda: processes_in(self.folder) == [parent.pid], "the end of the workers")
        self.assertEqual(parent.output.count("SIGTERM"), 2)

    def test_a_worker_whose_output_nobody_reads_never_runs_the_parents_code(self) -> None:
        parent = self.supervise(
            """
def work(number):
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    print("to nobody")
    supervisor.traceback.print_exc = lambda: None

supervisor.MAX_FAILED_STARTS = 0
"""
        )
        self.assertEqual(parent.wait(), 1)
        self.assertEqual(parent.output.count("The workers die as fast"), 1)
        self.assertNotIn("BrokenPipeError", parent.output)

    @linux
    def test_kill_9_of_the_parent_takes_the_workers_down(self) -> None:
        parent = self.supervise()
        parent.wait_for("worker ", 2)
        self.assertEqual(len(processes_in(self.folder)), 3)
        self.assertEqual(parent.stop(signal.SIGKILL), -signal.SIGKILL)
        wait_until(lambda: not processes_in(self.folder), "the end of the workers")


class BindTest(StrictTest):
    def test_elsewhere_than_on_linux_nothing_is_bound(self) -> None:
        with mock.patch.object(sys, "platform", "darwin"):
            supervisor.die_with_parent(0)  # which on Linux ends a process whose parent is another


class BoundProgramTest(SupervisorTest):
    """The shim runs as it does in `start_tied_to_parent`."""

    @slow
    def test_the_program_takes_the_place_of_the_shim_in_a_session_of_its_own(self) -> None:
        program = "import os; print(os.getpid(), os.getsid(0), os.getpgrp())"
        shim = subprocess.Popen(
            [sys.executable, supervisor.__file__, str(os.getpid()), sys.executable, "-c", program],
            env=make_environment({}),
            stdout=subprocess.PIPE,
            text=True,
        )
        output, _ = shim.communicate(timeout=PATIENCE)
        self.assertEqual(output.split(), [str(shim.pid)] * 3)

    @linux
    def test_a_parent_that_is_gone_already_leaves_nothing_running(self) -> None:
        path = self.folder / "ran"
        shim = subprocess.run(
            [sys.executable, supervisor.__file__, "1", "/usr/bin/touch", str(path)], env=make_environment({})
        )
        self.assertEqual((shim.returncode, path.exists()), (1, False))

    def test_a_bound_program_is_silent_and_its_end_is_noticed(self) -> None:
        script = f"""
import time
from indico.core import supervisor
pid = supervisor.start_tied_to_parent([{sys.executable!r}, "-c", "print('noise')"])
while not supervisor.has_ended(pid):
    time.sleep(0.01)
print("ended", supervisor.has_ended(pid))
"""
        parent = ServerProcess(script=script, folder=self.folder)
        self.addCleanup(parent.close)
        self.assertEqual((parent.wait(), parent.output), (0, "ended True\n"))

    @linux
    @slow
    def test_kill_9_of_the_parent_takes_a_bound_program_down(self) -> None:
        script = """
import signal
from indico.core import supervisor
print(supervisor.start_tied_to_parent(["/bin/sleep", "1000"]), flush=True)
signal.pause()
"""
        parent = ServerProcess(script=script, folder=self.folder)
        self.addCleanup(parent.close)
        parent.wait_for("\n")
        pid = int(parent.output)
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "the program")
        parent.stop(signal.SIGKILL)
        wait_until(lambda: not processes_in(self.folder), "the end of the program")
