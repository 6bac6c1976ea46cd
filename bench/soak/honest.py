"""
The honest clients of the soak: what they ask for.
"""

from __future__ import annotations

import http.client
import random
import threading
import time

from bench.mongodb import TOKEN
from bench.soak.client import PATIENCE, Client, Interrupted, Notes
from bench.soak.customers import Customer
from bench.soak.mails import Mails

CLIENTS = 6
FILE = 1_500_000 * b"a"  # of an upload: it is stored on disk
ROUTES = (
    *("auth/login", "auth/check", "auth/logout", "user/find", "user/update", "user/remove"),
    *("key/create", "key/remove", "job/find", "file"),
    *(f"soak/{name}" for name in ("follow", "upload", "think", "work", "limited", "once", "keep", "discard")),
    *(f"password/{name}" for name in ("register", "verify", "login", "forgot", "reset")),
)


class Honest:
    """Threads of clients that do what users do."""

    def __init__(self, port: int, mails: Mails) -> None:
        self._port = port
        self._stopped = threading.Event()
        self._running = threading.Event()
        self._idle = threading.Semaphore(0)
        self.notes = Notes()
        self.customers = [Customer(number, self.notes, mails) for number in range(CLIENTS)]
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Honest:
        self._running.set()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._running.set()  # in case that they are paused
        for thread in self._threads:
            thread.join()

    def pause(self) -> None:
        """Return when no client has a connection."""
        self._running.clear()
        for _ in self._threads:
            self._idle.acquire()

    def resume(self, phase: str) -> None:
        self.notes.phase = phase
        self._running.set()

    def wait_for_jobs(self) -> None:
        """Ask for the jobs that have been acknowledged, until all have ended."""
        deadline = time.monotonic() + PATIENCE
        client = Client(self._port, CLIENTS, self.notes)
        while any(customer.jobs for customer in self.customers) and time.monotonic() < deadline:
            for customer in self.customers:
                customer.find_jobs(client)
        client.close()

    def count(self, what: str) -> int:
        return sum(customer.counts[what] for customer in self.customers)

    def _run(self, number: int) -> None:
        while not self._stopped.is_set():
            if not self._running.is_set():
                self._idle.release()
                self._running.wait()
                continue
            client = Client(self._port, number, self.notes, self._running.is_set)
            try:
                run_session(client, f"honest-{number}")
                self.customers[number].visit(client)
            except Interrupted:
                pass
            except (OSError, http.client.HTTPException):
                self.notes.unanswered += 1
                time.sleep(0.2)
            finally:
                client.close()


def run_session(client: Client, oauth_id: str) -> None:
    """What a user does between a login and a logout."""
    user = {"name": "Ada", "text": 1000 * "a"}
    login = client.post("auth/login", {"access_token": TOKEN, "oauth_id": oauth_id, "user": user})
    if login.status != 200:
        return
    key = login.data["indico_key"]
    for number in range(10):
        client.post("auth/check", b"", key)
        client.post("user/update", {"update_user": {"number": number}}, key)
        client.post("user/find", b"", key)
    use_api_key(client, key)
    client.post("soak/follow", {"until": 5}, key)
    client.upload("soak/upload", "image", FILE, key)
    client.post(random.choice(["auth/logout", "user/remove"]), b"", key)


def use_api_key(client: Client, key: str) -> None:
    """Make an API key, use and remove it."""
    name = random.randbytes(8).hex()
    made = client.post("key/create", {"name": name}, key)
    if made.status == 200:
        for _ in range(3):
            client.post("user/find", b"", made.data["key"])
        client.post("key/remove", {"name": name}, key)
