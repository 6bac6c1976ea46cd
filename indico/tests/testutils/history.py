"""
Histories: what clients of several servers saw, and whether that is what the documentation promises.

    with Clients(history, ports_of_servers) as clients: ...
    history.find_faults(stored_users)
"""

from __future__ import annotations

import http.client
import json
import math
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import count, pairwise
from typing import Any, NamedTuple

from indico import config
from indico.tests.testutils.process import RunningThreads

WRITES = 60  # of a user
PATIENCE = 30  # seconds until a client gives up
PAUSE = 0.02  # seconds between the requests of a client
ENDED_CHECKS = 30  # of a key that has ended, right after its end
KEPT = 20  # keys that have ended and are tried again from time to time
POSSIBLE = {200, 401, 503}


class Seen(NamedTuple):
    """A request of a client, and what it was answered."""

    client: str
    server: str  # its address
    route: str
    subject: str  # the user, or for `check` the key
    status: int
    began: float  # by time.monotonic
    ended: float
    writes: frozenset[int]  # those that the answer shows
    created: int | None
    write: int | None  # the one that this request makes


class Window(NamedTuple):
    """When a primary may not know that it is none."""

    begin: float
    end: float


class History:
    """
    What clients saw. A key that has ended should open nothing, at once at the server that ended it, and after
    `grace` seconds at the others.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.seen: list[Seen] = []
        self.failed: list[str] = []  # requests without an answer
        self.windows: list[Window] = []  # in which reads may be outdated
        self.stale = 0  # reads that were

    def find_faults(self, stored: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
        """Return all faults by their kind. `stored` are the documents of each user when all was over."""
        self.stale = 0
        return {
            "status": [f"{seen.route}: {seen.status}" for seen in self.seen if seen.status not in POSSIBLE],
            "unanswered": self.failed,
            "lost": list(self._find_lost(stored)),
            "rolled back": list(self._find_rolled_back(stored)),
            "older": list(self._find_older()),
            "ended key": list(self._find_ended_keys()),
            "created": list(self._find_created(stored)),
        }

    def _find_lost(self, stored: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
        for seen in self.seen:
            if (
                seen.write is not None
                and seen.status == 200
                and seen.write not in shown(stored, seen.subject)
            ):
                yield f"{seen.subject}: write {seen.write}"

    def _find_rolled_back(self, stored: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
        for seen in self.seen:
            if seen.status == 200 and not seen.writes <= shown(stored, seen.subject):
                yield f"{seen.subject}: {sorted(seen.writes - shown(stored, seen.subject))}"

    def _find_older(self) -> Iterable[str]:
        known: dict[tuple[str, str], frozenset[int]] = defaultdict(frozenset)
        for seen in sorted(self.seen, key=lambda seen: seen.ended):
            if seen.status == 200 and seen.route.startswith("user/"):
                place = seen.client, seen.subject
                if not known[place] <= seen.writes and not self._may_be_outdated(seen):
                    yield f"{seen.client} no longer sees {sorted(known[place] - seen.writes)}"
                known[place] |= seen.writes

    def _find_ended_keys(self) -> Iterable[str]:
        ended: dict[str, dict[str, float]] = defaultdict(dict)  # of each key, by server
        for seen in sorted(self.seen, key=lambda seen: seen.ended):
            if seen.route == "auth/logout" and seen.status == 200:
                ended[seen.subject].setdefault(seen.server, seen.ended)
        for seen in self.seen:
            if seen.status == 200 and seen.route == "auth/check" and seen.subject in ended:
                times = ended[seen.subject]
                since = min(min(times.values()) + self.grace, times.get(seen.server, math.inf))
                if seen.began > since and not self._may_be_outdated(seen):
                    yield f"{seen.client} by {seen.server}: {seen.began - since:.2f} s too late"

    def _find_created(self, stored: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
        times: dict[str, set[int]] = defaultdict(set)
        for seen in self.seen:
            if seen.created is not None:
                times[seen.subject].add(seen.created)
        for user, created in times.items():
            created |= {document["created"] for document in stored[user]}
            if len(created) != 1 or len(stored[user]) != 1:
                yield f"{user}: {len(stored[user])} users, created {sorted(created)}"

    def _may_be_outdated(self, seen: Seen) -> bool:
        outdated = any(window.begin <= seen.began < window.end for window in self.windows)
        self.stale += outdated
        return outdated

    def count(self) -> Counter[int]:
        return Counter(seen.status for seen in self.seen)

    def measure(self) -> dict[str, float]:
        """Return the longest times, in seconds, without an answer and without an acknowledged write."""
        answers = sorted(seen.ended for seen in self.seen)
        writes = sorted(seen.ended for seen in self.seen if seen.write is not None and seen.status == 200)
        gaps = [max(after - before for before, after in pairwise(times)) for times in (answers, writes)]
        slowest = max(seen.ended - seen.began for seen in self.seen)
        return dict(
            zip(("slowest answer", "without an answer", "without a write"), [slowest, *gaps], strict=True)
        )


def shown(stored: dict[str, list[dict[str, Any]]], user: str) -> set[int]:
    """Return the writes that a user's documents hold."""
    return {write for document in stored[user] for write in list_writes(document)}


def list_writes(document: dict[str, Any]) -> list[int]:
    return [int(name.removeprefix("write_")) for name in document if name.startswith("write_")]


class Clients(RunningThreads):
    """
    Threads that write, find, log in and out through these servers, until the end of the block. They are in
    the namespace of the thread that starts them.
    """

    def __init__(self, history: History, servers: Sequence[tuple[str, int]]) -> None:
        self._history = history
        self._servers = servers
        self._stopped = threading.Event()
        self._ended: list[str] = []  # keys
        self._writers: dict[str, tuple[str, str]] = {}  # the current user and key of each
        self._lock = threading.Lock()
        kinds: list[tuple[Callable[[Client], None], int]] = [
            (self._write, 4),
            (self._read, 2),
            (self._end_keys, 3),
            (self._log_in, 2),
        ]
        self._threads = [
            threading.Thread(target=self._run, args=(kind, f"{kind.__name__.strip('_')}{number}", number))
            for kind, number_of in kinds
            for number in range(number_of)
        ]

    def check_ended_keys(self) -> None:
        """After the block: try each key that has ended once more, at each server."""
        for number, server in enumerate(self._servers):
            client = Client(self._history, [server], f"checks{number}", 0)
            for key in self._ended:
                client.post("auth/check", key, None, key)
            client.close()

    def _run(self, kind: Callable[[Client], None], name: str, number: int) -> None:
        client = Client(self._history, self._servers, name, number)
        try:
            kind(client)
        finally:
            client.close()

    def _is_running(self) -> bool:
        return not self._stopped.wait(PAUSE)

    def _write(self, client: Client) -> None:
        for generation in count():
            oauth_id = f"{client.name}-{generation}"
            key = self._insist_on_login(client, oauth_id)
            self._writers[client.name] = "facebook" + oauth_id, key
            for write in range(WRITES):
                if not self._is_running():
                    return
                client.post("user/update", "facebook" + oauth_id, {f"write_{write}": write}, key, write)
                client.post("user/find", "facebook" + oauth_id, None, key)

    def _read(self, client: Client) -> None:
        """Read what the others write, also while it is not acknowledged yet."""
        while self._is_running():
            for user, key in list(self._writers.values()):
                client.post("user/find", user, None, key)

    def _end_keys(self, client: Client) -> None:
        other = Client(self._history, self._servers, client.name + "b", client.number + 1)
        try:
            while self._is_running():
                key = self._insist_on_login(client, client.name)
                for _ in range(random.randrange(4, ENDED_CHECKS)):  # caches know it
                    client.post("auth/check", key, None, key)
                    other.post("auth/check", key, None, key)
                status = 503
                while status == 503 and self._is_running():
                    status = self._log_out(client, other, key)
                for _ in range(ENDED_CHECKS):
                    if status != 200 or not self._is_running():
                        break
                    client.post("auth/check", key, None, key)
                    other.post("auth/check", key, None, key)
                self._check_some_key(client, key if status == 200 else None)
        finally:
            other.close()

    def _log_out(self, client: Client, other: Client, key: str) -> int:
        """Log out, in one of two cases twice at the same time or a bit later."""
        if random.random() < 0.5:
            return client.post("auth/logout", key, None, key)

        def log_out_too() -> None:
            self._stopped.wait(random.choice([0, 0.2]))
            other.post("auth/logout", key, None, key)

        thread = threading.Thread(target=log_out_too)
        thread.start()
        try:
            return client.post("auth/logout", key, None, key)
        finally:
            thread.join()

    def _check_some_key(self, client: Client, ended: str | None) -> None:
        with self._lock:
            self._ended += [ended] if ended else []
            key = random.choice(self._ended[-KEPT:]) if self._ended else None
        if key is not None:
            client.post("auth/check", key, None, key)

    def _log_in(self, client: Client) -> None:
        """All threads of this kind log in the same new user at the same time, each through its own server."""
        begin, last = time.monotonic(), -1
        while self._is_running():
            number = int((time.monotonic() - begin) / 0.5)
            if number != last or client.status == 503:
                last = number
                client.log_in(f"shared-{int(begin)}-{number}")

    def _insist_on_login(self, client: Client, oauth_id: str) -> str:
        key = ""
        while not key and self._is_running():
            key = client.log_in(oauth_id)
        return key


class Client:
    """Sends requests to one server in most cases, and otherwise to another, and records the answers."""

    def __init__(self, history: History, servers: Sequence[tuple[str, int]], name: str, number: int) -> None:
        self._history = history
        self._servers = servers
        self._connections: dict[tuple[str, int], http.client.HTTPConnection] = {}
        self.name = name
        self.number = number
        self.status = 0  # of the last answer
        self.data: Any = None

    def log_in(self, oauth_id: str) -> str:
        """Return the key, or "" if there is no answer 200."""
        data = {"access_token": config.DEV_TOKEN, "oauth_id": oauth_id, "user": {"name": oauth_id}}
        self._record("auth/login", "facebook" + oauth_id, data, {}, None)
        return str(self.data["indico_key"]) if self.status == 200 else ""

    def post(
        self, route: str, subject: str, fields: dict[str, int] | None, key: str, write: int | None = None
    ) -> int:
        """Send a request with a key, record it, and return the status."""
        data = None if fields is None else {"update_user": fields}
        self._record(route, subject, data, {"indico_key": key}, write)
        return self.status

    def _record(
        self, route: str, subject: str, data: Any, headers: dict[str, str], write: int | None
    ) -> None:
        server = self._servers[(self.number + (random.random() < 0.3)) % len(self._servers)]
        began = time.monotonic()
        try:
            self.status, self.data = self._send(server, route, data, headers)
        except (OSError, http.client.HTTPException) as error:
            self.status, self.data = 0, None
            self._history.failed.append(f"{route}: {error!r}")
            return
        user = self.data if route.startswith("user/") else None
        user = self.data["user"] if route == "auth/login" and self.status == 200 else user
        user = user if isinstance(user, dict) else {}
        self._history.seen.append(
            Seen(
                self.name,
                server[0],
                route,
                subject,
                self.status,
                began,
                time.monotonic(),
                frozenset(list_writes(user)),
                user.get("created"),
                write,
            )
        )

    def _send(
        self, server: tuple[str, int], route: str, data: Any, headers: dict[str, str]
    ) -> tuple[int, Any]:
        if server not in self._connections:
            self._connections[server] = http.client.HTTPConnection(*server, timeout=PATIENCE)
        try:
            self._connections[server].request("POST", f"/{route}", json.dumps(data), headers)
            response = self._connections[server].getresponse()
            return response.status, json.loads(response.read())["data"]
        except BaseException:
            self._connections.pop(server).close()
            raise

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
