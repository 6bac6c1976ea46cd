"""
What the soak itself asks of the server, and of the database.
"""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bench.machine import Failure
from bench.mongodb import TOKEN
from bench.soak.mails import Mails
from indico.tests.testutils.replica import ReplicaSet

PATIENCE = 60  # seconds
WORKERS = 2
BURST = 60  # requests at once, which make all threads that a worker ever has
EMAIL = "attacked@example.com"
COUNTED = ("descriptors", "tasks", "threads", "compute processes", "computations")
SAMPLES = 5

Counts = dict[int, dict[str, Any]]  # what each worker has, by its pid


class Control:
    def __init__(self, port: int, replica: ReplicaSet) -> None:
        self.port = port
        self._replica = replica

    def ask(self, route: str, data: Any = None, key: str = "") -> Any:
        """Return the data of a response with status 200. Other responses are tried again."""
        deadline, last = time.monotonic() + PATIENCE, ""
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", f"/{route}", json.dumps(data), {"indico_key": key})
                response = connection.getresponse()
                last = response.read().decode()
                if response.status == 200:
                    connection.close()
                    return json.loads(last)["data"]
            connection.close()
            time.sleep(0.1)
        raise Failure(f"no response from {route} but {last!r}")

    def log_in(self) -> str:
        login = {"access_token": TOKEN, "oauth_id": "noise", "user": {}}
        return str(self.ask("auth/login", login)["indico_key"])

    def make_account(self, mails: Mails) -> None:
        """Make the account whose password is guessed."""
        self.ask("password/register", {"email": EMAIL, "password": "a long password", "user": {}})
        self.ask("password/verify", {"token": mails.take_token(EMAIL)})

    def send_burst(self) -> None:
        """Have each worker make the threads that it makes with many requests at once."""
        key = self.log_in()
        with ThreadPoolExecutor(BURST) as pool:
            list(pool.map(lambda _: self.ask("user/find", key=key), range(2 * BURST)))

    def find_workers(self, other_than: int = 0) -> set[int]:
        """Return the pids of the workers, when there are as many as there should be."""
        found: set[int] = set()
        deadline = time.monotonic() + PATIENCE
        while len(found) < WORKERS:
            found |= {self.ask("soak/pid")} - {other_than}
            if time.monotonic() > deadline:
                raise Failure(f"there are not {WORKERS} workers")
        return found

    def count(self) -> Counts:
        """
        Return what each worker has: the least of several counts. It looks for jobs once a second, and the
        driver closes a further connection for that two seconds later.
        """
        found: Counts = {}
        for _ in range(SAMPLES):
            asked: set[int] = set()
            while len(asked) < WORKERS:
                counts = self.ask("soak/count")
                asked.add(counts["pid"])
                before = found.setdefault(counts["pid"], counts)
                before.update({name: min(before[name], counts[name]) for name in COUNTED})
            time.sleep(0.7)
        return found

    def wait_for_jobs(self) -> None:
        """Return when no job waits or runs, also of floods."""
        deadline = time.monotonic() + PATIENCE
        jobs = self._replica.wait_for_primary().client["indico"].job
        while number := jobs.count_documents({"due": {"$exists": True}}):
            if time.monotonic() > deadline:
                raise Failure(f"{number} jobs have not ended")
            time.sleep(0.2)
