"""
The soak: honest clients on two workers with all batteries, while others harm, MongoDB's primary steps down
and workers are killed: `python -m bench.soak --minutes 20`. Exits with 1 if something is not as it should be.

The first and the last tenth of the time are quiet. In between, each kind of flood comes and goes, the primary
steps down every two minutes, and a worker is killed every four. In a short run the intervals are shorter.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from pymongo.errors import PyMongoError

from bench.findings import Finding, at_least, at_most, show
from bench.machine import Failure, Running, Server, family, memory, scratch
from bench.mongodb import SALT, TOKEN
from bench.soak_noise import KINDS
from indico.tests.testutils.collector import Collector
from indico.tests.testutils.replica import ReplicaSet

WORKERS = 2
CLIENTS = 6  # honest ones
ROUTES = 10  # that they use
BURST = 60  # requests at once, which make all threads that a worker ever has
PAUSE = 0.02  # seconds between the requests of each
PATIENCE = 30  # seconds
SETTLE = 8  # seconds until connections without requests are closed, on both sides
LONGEST = 3000  # ms: MONGODB_TIMEOUT and a second
POSSIBLE = {200, 400, 401, 413, 429, 503}
COUNTED = ("descriptors", "tasks", "threads")
FILE = 1_500_000 * b"a"  # of an upload: it is stored on disk
SETTINGS = {
    "WORKERS": str(WORKERS),
    "KEY_CACHE": "60",
    "MONGODB_TIMEOUT": "2",
    "USER_SALT": SALT,
    "DEV_TOKEN": TOKEN,
    "LOGIN_RATE": "10/minute",
    **dict.fromkeys(("HEADER_TIMEOUT", "BODY_TIMEOUT", "WRITE_TIMEOUT", "IDLE_TIMEOUT"), "5"),
    **dict.fromkeys(("MAX_UNREAD", "MAX_UNSENT"), str(32 * 1024 * 1024)),
    "CORS_ORIGINS": "https://example.com",
    "METRICS_TOKEN": "the soak's token for metrics",
    "OPENID_PROVIDERS": "example https://issuer.example.com client",
    "SENTRY_TRACES_SAMPLE_RATE": "0.05",
}


Counts = dict[int, dict[str, Any]]  # what each worker has, by its pid


class Honest:
    """Threads of clients that do what users do. They note statuses, and the times that they waited."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._idle = threading.Semaphore(0)
        self.phase = "warm-up"
        self.statuses: Counter[int] = Counter()
        self.odd: list[str] = []
        self.kinds: Counter[str] = Counter()  # successful requests
        self.unanswered = 0
        self.times: defaultdict[str, list[float]] = defaultdict(list)  # by phase, in ms
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Honest:
        self._running.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._running.set()
        for thread in self._threads:
            thread.join()

    def pause(self) -> None:
        """Return when no client has a connection."""
        self._running.clear()
        for _ in self._threads:
            self._idle.acquire()

    def resume(self, phase: str) -> None:
        self.phase = phase
        self._running.set()

    def _run(self, number: int) -> None:
        while not self._stopped.is_set():
            if not self._running.is_set():
                self._idle.release()
                self._running.wait()
            session = Session(self._port, self, number)
            try:
                session.run()
            except (OSError, http.client.HTTPException):
                self.unanswered += 1
                time.sleep(0.2)
            finally:
                session.close()


class Session:
    """What one user does on one connection."""

    def __init__(self, port: int, honest: Honest, number: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        self._honest = honest
        self._oauth_id = f"honest-{number}"

    def run(self) -> None:
        user = {"name": "Ada", "text": 1000 * "a"}
        login = {"access_token": TOKEN, "oauth_id": self._oauth_id, "user": user}
        status, answer = self.post("auth/login", json.dumps(login).encode(), "")
        if status != 200:
            return
        key = answer["data"]["indico_key"]
        for number in range(10):
            self.post("auth/check", b"", key)
            self.post("user/update", json.dumps({"update_user": {"number": number}}).encode(), key)
            self.post("user/find", b"", key)
        self.use_key(key)
        self.post("soak/follow", b'{"until": 5}', key)
        form = b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nTea\r\n'
        form += b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        form += FILE + b"\r\n--x--\r\n"
        self.post("soak/upload", form, key, "multipart/form-data; boundary=x")
        self.post(random.choice(["auth/logout", "user/remove"]), b"", key)

    def use_key(self, key: str) -> None:
        """Make an API key, use and remove it."""
        name = random.randbytes(8).hex()
        status, answer = self.post("key/create", json.dumps({"name": name}).encode(), key)
        if status == 200:
            for _ in range(3):
                self.post("user/find", b"", answer["data"]["key"])
            self.post("key/remove", json.dumps({"name": name}).encode(), key)

    def post(
        self, route: str, body: bytes, key: str, content_type: str = "application/json"
    ) -> tuple[int, Any]:
        time.sleep(PAUSE)
        honest, began = self._honest, time.monotonic()
        self._connection.request("POST", f"/{route}", body, {"Content-Type": content_type, "indico_key": key})
        response = self._connection.getresponse()
        text = response.read()
        if route not in ("soak/follow", "soak/upload"):  # which take their time
            honest.times[honest.phase].append(1000 * (time.monotonic() - began))
        honest.statuses[response.status] += 1
        honest.kinds[route] += response.status == 200
        if response.status not in POSSIBLE:
            honest.odd.append(f"{route}: {response.status} {text[:200]!r}")
        is_stream = response.headers.get("Content-Type", "").startswith("text/event-stream")
        return response.status, None if is_stream else json.loads(text)

    def close(self) -> None:
        self._connection.close()


class Soak:
    def __init__(self, running: Running, replica: ReplicaSet, seconds: float) -> None:
        self._running = running
        self._replica = replica
        self._seconds = seconds
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._samples: defaultdict[int, list[float]] = defaultdict(list)  # MB by process
        self.step_interval = min(120, max(12, seconds / 10))
        self.slot = min(6, max(3, 0.06 * seconds))  # seconds of a flood; each kind has a turn within a minute
        self._pause = max(0.5, seconds / 300)  # between samples of memory
        self.step_downs = self.kills = 0

    def log(self, text: str) -> None:
        print(f"{time.monotonic() - self._began:7.1f} s  {text}", flush=True)

    def run(self) -> list[Finding]:
        sampler = threading.Thread(target=self._sample)
        sampler.start()
        try:
            with Honest(self._running.port) as honest:
                return self._run_phases(honest)
        finally:
            self._ended.set()
            sampler.join()

    def _run_phases(self, honest: Honest) -> list[Finding]:
        self._fill_pools()
        honest.resume("calm")
        self.log("honest clients alone")
        time.sleep(self._seconds / 10)
        before = self._count_quiet(honest)
        honest.resume("noise")
        statuses, floods = self._make_noise()
        honest.resume("rest")
        self.log("honest clients alone")
        time.sleep(self._seconds / 10)
        after = self._count_quiet(honest)
        return self._judge(honest, statuses, floods, before, after)

    def _fill_pools(self) -> None:
        """Have each worker make the threads that it makes with many requests at once."""
        noise = self._start_noise(2, 2 * len(KINDS))
        for line in noise.stdout or []:
            self.log("warm-up: " + line.strip())
        noise.wait()
        key = self._log_in()
        with ThreadPoolExecutor(BURST) as pool:
            list(pool.map(lambda _: self._ask("user/find", key=key), range(5 * BURST)))

    def _start_noise(self, slot: float, seconds: float) -> subprocess.Popen[str]:
        key = self._log_in()
        words = [str(self._running.port), str(slot), str(seconds), key, TOKEN]
        return subprocess.Popen(
            [sys.executable, "-m", "bench.soak_noise", *words], stdout=subprocess.PIPE, text=True
        )

    def _log_in(self) -> str:
        body = json.dumps({"access_token": TOKEN, "oauth_id": "noise", "user": {}})
        return str(self._ask("auth/login", body)["indico_key"])

    def _ask(self, route: str, body: str = "", key: str = "") -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._running.port, timeout=PATIENCE)
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", f"/{route}", body, {"indico_key": key})
                response = connection.getresponse()
                text = response.read()
                if response.status == 200:
                    connection.close()
                    return json.loads(text)["data"]
            connection.close()
            if time.monotonic() > deadline:
                raise Failure(f"no answer from {route}")
            time.sleep(0.1)

    def _find_workers(self, other_than: int = 0) -> Counts:
        """Return what each worker counts, by its pid, when there are as many as there should be."""
        found: Counts = {}
        deadline = time.monotonic() + PATIENCE
        while len(found) < WORKERS:
            counts = self._ask("soak/count")
            if counts["pid"] != other_than:
                found[counts["pid"]] = counts
            if time.monotonic() > deadline:
                raise Failure(f"there are not {WORKERS} workers")
        return found

    def _count_quiet(self, honest: Honest) -> Counts:
        honest.pause()
        time.sleep(SETTLE)
        found = self._find_workers()
        time.sleep(1)  # the other connections of the counting are closed
        found = {pid: self._find_workers()[pid] for pid in found}
        for pid, counts in found.items():
            self.log(f"worker {pid}: " + ", ".join(f"{counts[name]} {name}" for name in COUNTED))
            self.log("its threads: " + ", ".join(counts["names"]))
        return found

    def _make_noise(self) -> tuple[Counter[int], set[str]]:
        noise = self._start_noise(self.slot, 0.8 * self._seconds)
        statuses: Counter[int] = Counter()
        floods: set[str] = set()

        def follow() -> None:
            for line in noise.stdout or []:
                word, _, rest = line.partition(" ")
                if word == "statuses":
                    statuses.update({int(status): number for status, number in json.loads(rest).items()})
                else:
                    self.log(line.strip())
                    floods.add(line.split(":")[-1].split(",")[0].strip())

        reader = threading.Thread(target=follow)
        reader.start()
        try:
            self._make_faults(noise)
        finally:
            noise.terminate()
            reader.join()
        return statuses, {name for name in floods if name in {kind.__name__ for kind, _ in KINDS}}

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
        victim = random.choice(list(self._find_workers()))
        os.kill(victim, signal.SIGKILL)
        now = self._find_workers(other_than=victim)
        self.kills += 1
        self.log(f"kill: worker {victim}, the workers are now {sorted(now)}")

    def _sample(self) -> None:
        while not self._ended.wait(self._pause):
            for pid in family(self._running.pid):
                with suppress(OSError):
                    self._samples[pid].append(memory(pid))

    def _judge(
        self,
        honest: Honest,
        noise: Counter[int],
        floods: set[str],
        before: Counts,
        after: Counts,
    ) -> list[Finding]:
        for line in honest.odd[:10]:
            self.log("odd: " + line)
        statuses = honest.statuses + noise
        odd = sum(number for status, number in statuses.items() if status not in POSSIBLE)
        findings = [
            Finding(
                "answers", ", ".join(f"{status}: {number:,}" for status, number in sorted(statuses.items()))
            ),
            at_most("answers other than " + ", ".join(map(str, sorted(POSSIBLE))), odd, 0, digits=0),
            Finding("honest requests without an answer", str(honest.unanswered)),
            Finding("honest requests answered 503", f"{honest.statuses[503]} of {honest.statuses.total():,}"),
            Finding("p99 of honest clients alone", f"{percentile(honest.times['calm'], 99):.0f} ms"),
            at_most(
                "p99 of honest clients under noise", percentile(honest.times["noise"], 99), LONGEST, "ms", 0
            ),
            Finding("p50 of honest clients under noise", f"{percentile(honest.times['noise'], 50):.0f} ms"),
            at_least("kinds of floods", len(floods), len(KINDS), digits=0),
            at_least("logins answered 429", noise[429], 1, digits=0),
            at_least("step-downs", self.step_downs, 1, digits=0),
            at_least("workers killed", self.kills, 1, digits=0),
            at_least("kinds of requests that succeeded", len(+honest.kinds), ROUTES, digits=0),
            at_most("tracebacks in the log", self._running.log.count("Traceback"), 0, digits=0),
        ]
        for name in COUNTED:
            most = [max(counts[name] for counts in found.values()) for found in (before, after)]
            findings.append(at_most(f"{name} of a worker at the end", most[1], most[0], digits=0))
        for pid in family(self._running.pid):
            findings += self._judge_memory(pid)
        return findings

    def _judge_memory(self, pid: int) -> list[Finding]:
        """
        Compare the second quarter of the process's life with the last. A process that was not there for each
        kind of flood in both has what MAX_UNREAD and MAX_UNSENT allow.
        """
        samples = self._samples[pid]
        quarter = len(samples) // 4
        if quarter < 5:
            return []
        early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
        has_seen_all = quarter * self._pause > self.slot * len(KINDS)
        limit = max(20, 0.15 * early) if has_seen_all else 64
        what = f"memory of process {pid}: {early:.0f} MB, later {late:.0f}"
        return [at_most(what, late - early, limit, "MB more", 1)]


def percentile(times: list[float], share: int) -> float:
    return sorted(times)[len(times) * share // 100]


def run(seconds: float, folder: Path) -> list[Finding]:
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        replica = stack.enter_context(ReplicaSet())
        settings = {
            **SETTINGS,
            "MONGODB": replica.uri + "&maxIdleTimeMS=2000",
            "SENTRY_DSN": f"http://key@127.0.0.1:{collector.port}/1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        }
        running = stack.enter_context(
            Running(Server("soak", "bench.soak_server"), settings, folder, core=None)
        )
        running.wait_ready()
        findings = Soak(running, replica, seconds).run()
        if any(finding.met is False for finding in findings):
            warnings = [line for line in running.log.splitlines() if '"level": "INFO"' not in line]
            print("\n".join(warnings[-20:]))
        return findings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # and so stop what was started
    with scratch() as folder:
        try:
            findings = run(60 * given.minutes, folder)
        except Failure as failure:
            sys.exit(str(failure))
    show(findings)
    sys.exit(any(finding.met is False for finding in findings))


if __name__ == "__main__":
    main()
