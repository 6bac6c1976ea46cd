"""
Histories: what clients of several servers saw, and whether that is what the documentation promises.

    with Clients(history, ports_of_servers) as clients: ...
    history.find_faults(stored_users)
"""

from __future__ import annotations

import functools
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
ENDS = ("auth/logout", "key/remove", "user/remove")  # what ends keys
API_KEY = "backup"


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
    ends: frozenset[str] = frozenset()  # the keys that this request ends

    @property
    def has_ended(self) -> frozenset[str]:
        """The keys that have ended, as this answer says."""
        return self.ends if self.status == 200 or self._found_none else frozenset()

    @property
    def _found_none(self) -> bool:
        """Whether it is a 404 because there is no such API key any more."""
        return self.route == "key/remove" and self.status == 404

    def is_possible(self, repeated: Counter[str]) -> bool:
        return self.status in POSSIBLE or (self._found_none and repeated[self.subject] > 1)


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
        self.windows: list[Window] = []  # in which, and until the next write, reads may be outdated
        self.stale = 0  # reads that were
        self.runs = count()  # of Clients

    def find_faults(self, stored: dict[str, list[dict[str, Any]]]) -> dict[str, list[str]]:
        """Return all faults by their kind. `stored` are the documents of each user when all was over."""
        self.stale = 0
        self._outdated = list(map(self._extend, self.windows))
        repeated = Counter(seen.subject for seen in self.seen if seen.route == "key/remove")
        impossible = [seen for seen in self.seen if not seen.is_possible(repeated)]
        return {
            "status": [f"{seen.route}: {seen.status}" for seen in impossible],
            "unanswered": self.failed,
            "lost": list(self._find_lost(stored)),
            "rolled back": list(self._find_rolled_back(stored)),
            "older": list(self._find_older()),
            "ended key": list(self._find_ended_keys()),
            "created": list(self._find_created(stored)),
            "removed": list(self._find_removed(stored)),
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
            for key in seen.has_ended:
                ended[key].setdefault(seen.server, seen.ended)
        for seen in self.seen:
            if seen.status == 200 and seen.route == "auth/check" and seen.subject in ended:
                times = ended[seen.subject]
                since = min(min(times.values()) + self.grace, times.get(seen.server, math.inf))
                if seen.began > since and not self._may_be_outdated(seen):
                    yield f"{seen.client} by {seen.server}: {seen.began - since:.2f} s too late"

    def _find_created(self, stored: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
        times: dict[str, set[int]] = defaultdict(set)
        removed = {seen.subject for seen in self.seen if seen.route == "user/remove"}
        for seen in self.seen:
            if seen.created is not None and seen.subject not in removed:
                times[seen.subject].add(seen.created)
        for user, created in times.items():
            documents = stored.get(user, [])
            created |= {document["created"] for document in documents}
            if len(created) != 1 or len(documents) != 1:
                yield f"{user}: {len(documents)} users, created {sorted(created)}"

    def _find_removed(self, stored: dict[str, list[dict[str, Any]]]) -> Iterable[str]:
        """
        Nobody logs in again who was removed. But a login that was answered 503 may still be executed later.
        """
        late = {seen.subject for seen in self.seen if seen.route == "auth/login" and seen.status == 503}
        for seen in self.seen:
            is_removed = seen.route == "user/remove" and seen.status == 200 and seen.subject not in late
            if is_removed and stored.get(seen.subject):
                yield f"{seen.subject} is still there"

    def _extend(self, window: Window) -> Window:
        """
        Return this window, made longer: it ends with the next acknowledged write. Until then, the new primary
        may not know that a majority has the last writes of the old one.
        """
        later = (
            seen.ended
            for seen in self.seen
            if seen.write is not None and seen.status == 200 and seen.began >= window.end
        )
        return window._replace(end=min(later, default=window.end))

    def _may_be_outdated(self, seen: Seen) -> bool:
        outdated = any(seen.began < window.end and window.begin <= seen.ended for window in self._outdated)
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
    return {write for document in stored.get(user, ()) for write in list_writes(document)}


def list_writes(document: dict[str, Any]) -> list[int]:
    return [int(name.removeprefix("write_")) for name in document if name.startswith("write_")]


class Clients(RunningThreads):
    """
    Threads that write, find, log in and out through these servers, until the end of the block. They are in
    the namespace of the thread that starts them. No two runs of a history have users in common.
    """

    def __init__(self, history: History, servers: Sequence[tuple[str, int]]) -> None:
        self._history = history
        self._servers = servers
        self._stopped = threading.Event()
        self._ended: list[str] = []  # keys
        self._writers: dict[str, tuple[str, str]] = {}  # the current user and key of each
        self._lock = threading.Lock()
        run = next(history.runs)
        kinds: list[tuple[Callable[[Client], None], int]] = [
            (self._write, 4),
            (self._read, 2),
            (self._end_keys, 3),
            (self._log_in, 2),
        ]
        self._threads = [
            threading.Thread(
                target=self._run, args=(kind, f"{kind.__name__.strip('_')}{run}.{number}", number)
            )
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
                fields = {"update_user": {f"write_{write}": write}}
                client.post("user/update", "facebook" + oauth_id, fields, key, write)
                client.post("user/find", "facebook" + oauth_id, None, key)

    def _read(self, client: Client) -> None:
        """Read what the others write, also while it is not acknowledged yet."""
        while self._is_running():
            for user, key in list(self._writers.values()):
                client.post("user/find", user, None, key)

    def _end_keys(self, client: Client) -> None:
        """End keys by a logout, API keys by their removal, and both by that of the user."""
        other = Client(self._history, self._servers, client.name + "b", client.number + 1)
        try:
            for number in count():
                if not self._is_running():
                    break
                route = random.choice(ENDS)
                name = client.name if route == "auth/logout" else f"{client.name}-{number}"
                key = self._insist_on_login(client, name)
                keys = {key}
                if route != "auth/logout":
                    if client.post("key/create", key, {"name": API_KEY}, key) != 200:
                        continue
                    api_key = client.data["key"]
                    keys = {api_key} if route == "key/remove" else {key, api_key}
                for _ in range(random.randrange(4, ENDED_CHECKS)):  # caches know them
                    self._check(keys, client, other)
                end = functools.partial(self._end, route, "facebook" + name, key, frozenset(keys))
                has_ended = False
                while not has_ended and client.status in (200, 503) and self._is_running():
                    has_ended = self._end_at_once(end, client, other)
                for _ in range(ENDED_CHECKS):
                    if has_ended and self._is_running():
                        self._check(keys, client, other)
                self._check_some_key(client, keys if has_ended else set())
        finally:
            other.close()

    def _check(self, keys: set[str], *clients: Client) -> None:
        for key in keys:
            for client in clients:
                client.post("auth/check", key, None, key)

    def _end(self, route: str, user: str, key: str, keys: frozenset[str], client: Client) -> bool:
        subject = {"auth/logout": key, "key/remove": min(keys), "user/remove": user}[route]
        client.post(route, subject, {"name": API_KEY}, key, ends=keys)
        return client.status == 200 or (route == "key/remove" and client.status == 404)

    def _end_at_once(self, end: Callable[[Client], bool], client: Client, other: Client) -> bool:
        """End the keys, in one of two cases twice at the same time or a bit later."""
        if random.random() < 0.5:
            return end(client)

        def end_too() -> None:
            self._stopped.wait(random.choice([0, 0.2]))
            end(other)

        thread = threading.Thread(target=end_too)
        thread.start()
        try:
            return end(client)
        finally:
            thread.join()

    def _check_some_key(self, client: Client, ended: set[str]) -> None:
        with self._lock:
            self._ended += ended
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
        self._record("auth/login", "facebook" + oauth_id, data, {})
        return str(self.data["indico_key"]) if self.status == 200 else ""

    def post(
        self,
        route: str,
        subject: str,
        data: Any,
        key: str,
        write: int | None = None,
        ends: frozenset[str] = frozenset(),
    ) -> int:
        """Send a request with a key, record it, and return the status."""
        self._record(route, subject, data, {"indico_key": key}, write, ends)
        return self.status

    def _record(
        self,
        route: str,
        subject: str,
        data: Any,
        headers: dict[str, str],
        write: int | None = None,
        ends: frozenset[str] = frozenset(),
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
                ends,
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
