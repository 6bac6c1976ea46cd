"""
The phases of the soak, and the faults in them.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress

from pymongo.errors import PyMongoError

from bench.soak.control import COUNTED, EMAIL, Control, Counts
from bench.soak.flood import Target
from bench.soak.honest import Honest
from bench.soak.mails import Mails
from bench.soak.noise import KINDS, RESULT
from bench.soak.processes import ComputeProcesses, find_processes
from indico.tests.testutils.collector import Collector
from indico.tests.testutils.replica import ReplicaSet

SETTLE = 6  # seconds until connections without requests are closed, on both sides
WARM_UP = 0.7  # seconds of each kind of flood


class Quiet:
    """What there is while no client has a connection."""

    def __init__(self, control: Control) -> None:
        self.workers: Counts = control.count()
        self.computing = ComputeProcesses(control.port)
        self.processes = len(find_processes(control.port))


class Floods:
    """What floods have met."""

    def __init__(self) -> None:
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)  # by kind
        self.replays = 0  # different responses of one Idempotency-Key, at most


class Soak:
    def __init__(self, control: Control, replica: ReplicaSet, mails: Mails, seconds: float) -> None:
        self._control = control
        self._replica = replica
        self._mails = mails
        self._seconds = seconds
        self._began = time.monotonic()
        self.step_interval = min(120, max(12, seconds / 10))
        # Seconds of a flood. Each kind has a turn within a minute.
        self.slot = min(60, 0.7 * seconds) / len(KINDS)
        self.step_downs = self.kills = 0
        self.honest = Honest(control.port, mails)
        self.floods = Floods()
        self.private = Collector()  # receives no webhook
        self.quiet: list[Quiet] = []  # before the noise and after it

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    def run(self) -> None:
        with self.private, self.honest:
            self._control.make_account(self._mails)
            with self._start_noise(WARM_UP, 0) as noise:
                self._follow(noise, "warm-up: ")
            self._control.send_burst()
            self._rest("calm")
            self.honest.resume("noise")
            self._make_noise()
            self._rest("rest")

    def _rest(self, phase: str) -> None:
        """Let the honest clients be alone for a tenth of the time. Then count while there are none."""
        self.honest.resume(phase)
        self.log("honest clients alone")
        time.sleep(self._seconds / 10)
        self.honest.pause()
        self.honest.wait_for_jobs()
        self._control.wait_for_jobs()
        self.log(f"jobs: {self.honest.count('jobs acknowledged')} acknowledged")
        time.sleep(SETTLE)
        quiet = Quiet(self._control)
        self.quiet.append(quiet)
        for pid, counts in quiet.workers.items():
            self.log(f"worker {pid}: " + ", ".join(f"{counts[name]} {name}" for name in COUNTED))
            self.log("its threads: " + ", ".join(counts["names"]))
            self.log(f"its descriptors: {counts['open']}")
            self.log(f"its tasks: {counts['running']}")
        self.log(f"{quiet.processes} processes, {quiet.computing.number} of them to compute")

    def _start_noise(self, slot: float, seconds: float) -> subprocess.Popen[str]:
        target = Target(self._control.port, self._control.log_in(), EMAIL, self.private.port)
        words = [json.dumps(target), str(slot), str(seconds)]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.soak.noise", *words], stdout=subprocess.PIPE, text=True
        )

    def _follow(self, noise: subprocess.Popen[str], prefix: str = "") -> None:
        """Log what the noise prints, and note its results, until it ends."""
        for line in noise.stdout or []:
            if line.startswith(RESULT):
                kind, statuses, replays = json.loads(line.removeprefix(RESULT))
                self.floods.statuses[kind].update({int(each): number for each, number in statuses.items()})
                self.floods.replays = max(self.floods.replays, replays)
            else:
                self.log(prefix + line.strip())

    def _make_noise(self) -> None:
        noise = self._start_noise(self.slot, 0.8 * self._seconds)
        reader = threading.Thread(target=self._follow, args=(noise,))
        reader.start()
        try:
            self._make_faults(noise)
        finally:
            noise.terminate()
            reader.join()

    def _make_faults(self, noise: subprocess.Popen[str]) -> None:
        """Have the primary step down and workers killed until the end of the noise."""
        next_fault, number = time.monotonic() + self.step_interval / 2, 0
        while noise.poll() is None:
            if time.monotonic() > next_fault:
                next_fault += self.step_interval
                number += 1
                self._step_down()
                if number % 2 == 0:
                    self._kill_worker()
            time.sleep(0.1)

    def _step_down(self) -> None:
        before = self._replica.wait_for_primary()
        with suppress(PyMongoError):  # the connection may be closed
            before.client.admin.command("replSetStepDown", 10)
        after = self._replica.wait_for_primary(other_than=before)
        self.step_downs += 1
        self.log(f"step down: {after.address} is the primary after {before.address}")

    def _kill_worker(self) -> None:
        victim = random.choice(list(self._control.find_workers()))
        os.kill(victim, signal.SIGKILL)
        now = self._control.find_workers(other_than=victim)
        self.kills += 1
        self.log(f"kill: worker {victim}, the workers are now {sorted(now)}")
