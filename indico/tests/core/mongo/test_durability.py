"""
Acknowledged means stored: what becomes of writes while MongoDB, or the server, is killed under load.

With TEST_REPORT in the environment, the figures of each test are added to the file that it names.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
import time
from collections import Counter, defaultdict
from itertools import count, pairwise
from typing import Any

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from indico import config
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    ProcessTest,
    RunningThreads,
    ServerProcess,
    is_mongod,
    linux,
    processes_in,
    report_figures,
    wait_until,
)
from indico.tests.testutils.proxy import reserve_port
from indico.tests.testutils.replica import ReplicaSet

THREADS = 8
WRITES = 50  # updates of a user; then another logs in
MONGODB_TIMEOUT = 2  # seconds
LONGEST_GAP = 30  # seconds without a successful write
PATIENCE = 60  # seconds in which writes must succeed again
PAUSE = 0.05  # seconds after a request that failed


class Load(RunningThreads):
    """
    Threads that log users in and update them, through two servers in turn, until the end of the block.

    Each update sets a field of its own, and the counter, to one more than the last one that was
    acknowledged; what is answered 503 is tried again, with the same number.
    """

    def __init__(self, servers: list[ServerProcess]) -> None:
        self._ports = [server.port for server in servers]
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(THREADS)]
        self._lock = threading.Lock()
        self.acknowledged: dict[str, list[int]] = {}  # user_id: the numbers of the updates; a login first
        self.times: list[float] = []  # of acknowledged writes
        self.by_thread: Counter[int] = Counter()
        self.statuses: Counter[int] = Counter()
        self.oddities: list[str] = []  # answers that are neither 200 nor 503, the first few
        self.unanswered = 0  # requests whose connection failed

    def replace(self, number: int, server: ServerProcess) -> None:
        """Another server takes the place of one."""
        self._ports[number] = server.port

    def wait_for_writes(self, each: int = 20) -> None:
        """Return when each thread has had that many more acknowledged."""
        before = Counter(self.by_thread)
        wait_until(
            lambda: all(self.by_thread[number] >= before[number] + each for number in range(THREADS)),
            f"{each} writes in each thread",
            PATIENCE,
        )

    def wait_for_trouble(self) -> None:
        """Return when it is felt: so many requests have failed as threads send at a time."""
        before = self.statuses[503] + self.unanswered
        wait_until(
            lambda: self.statuses[503] + self.unanswered >= before + THREADS, "requests that fail", PATIENCE
        )

    @property
    def longest_gap(self) -> float:
        """The longest time in which nothing was acknowledged, in seconds."""
        return max(after - before for before, after in pairwise(sorted(self.times)))

    def _run(self, number: int) -> None:
        client = _Client()
        try:
            for generation in count():
                oauth_id = f"{number}-{generation}"
                user_id = "facebook" + oauth_id
                login = {"access_token": config.DEV_TOKEN, "oauth_id": oauth_id, "user": {"name": oauth_id}}
                answer = self._insist(client, number, "auth/login", login, {})
                if answer is None:
                    return
                self._acknowledge(number, user_id, 0)
                headers = {"indico_key": answer["indico_key"]}
                for write in range(1, WRITES + 1):
                    update = {"update_user": {"counter": write, f"write_{write}": write}}
                    if self._insist(client, number, "user/update", update, headers) is None:
                        return
                    self._acknowledge(number, user_id, write)
        finally:
            client.close()

    def _insist(self, client: _Client, number: int, route: str, data: Any, headers: dict[str, str]) -> Any:
        # Until it is acknowledged; None when the end comes before.
        while not self._stopped.is_set():
            try:
                status, answer = client.post(self._ports[number % 2], route, data, headers)
            except (OSError, http.client.HTTPException):
                with self._lock:
                    self.unanswered += 1
            else:
                with self._lock:
                    self.statuses[status] += 1
                    if status not in (200, 503) and len(self.oddities) < 10:
                        self.oddities.append(f"{route}: {status} {answer}")
                if status == 200:
                    return answer
            self._stopped.wait(PAUSE)
        return None

    def _acknowledge(self, number: int, user_id: str, write: int) -> None:
        with self._lock:
            self.acknowledged.setdefault(user_id, []).append(write)
            self.times.append(time.monotonic())
            self.by_thread[number] += 1


class _Client:
    """A connection to a server, kept as long as it is good for anything."""

    def __init__(self) -> None:
        self._port = 0
        self._connection: http.client.HTTPConnection | None = None

    def post(self, port: int, route: str, data: Any, headers: dict[str, str]) -> tuple[int, Any]:
        if self._connection is None or self._port != port:
            self.close()
            self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            self._port = port
        try:
            self._connection.request("POST", f"/{route}", json.dumps(data), headers)
            response = self._connection.getresponse()
            return response.status, json.loads(response.read())["data"]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class DurabilityTest(ProcessTest):
    uri: str  # of the MongoDB, once more, to look into it

    def start_servers(self, **options: Any) -> list[ServerProcess]:
        options = {"MONGODB_TIMEOUT": str(MONGODB_TIMEOUT), "LOGIN_RATE": "off", **options}
        servers = [self.launch(**options) for _ in range(2)]
        return [server.wait_ready() for server in servers]

    def assert_nothing_is_lost(self, load: Load, servers: list[ServerProcess], kills: bool = False) -> None:
        """What was acknowledged is there; and nothing but 200 and 503 was answered, within bounds."""
        stored, keys = self.read_back()
        lost = []
        overtaken = 0
        for user_id, writes in load.acknowledged.items():
            user = stored[user_id]
            lost += [(user_id, write) for write in writes if write and user.get(f"write_{write}") != write]
            lost += [(user_id, 0)] if user_id not in keys or "created" not in user else []
            overtaken += user.get("counter", 0) < writes[-1]
        odd = sum(number for status, number in load.statuses.items() if status not in (200, 503))
        figures = {
            "acknowledged": sum(map(len, load.acknowledged.values())),
            "lost": len(lost),
            "overtaken": overtaken,
            "503": load.statuses[503],
            "other answers": odd,
            "unanswered": load.unanswered,
            "longest gap": f"{load.longest_gap:.1f} s",
        }
        report_figures(self, ", ".join(f"{name} {figure}" for name, figure in figures.items()))
        self.assertEqual(lost[:10], [])
        self.assertEqual(overtaken, 0)
        self.assertEqual(load.oddities, [])
        self.assertLess(load.longest_gap, LONGEST_GAP)
        if not kills:
            self.assertEqual(load.unanswered, 0)
        for server in servers:
            self.assertNotIn("Traceback", server.output)

    def read_back(self) -> tuple[defaultdict[str, dict[str, Any]], set[str]]:
        """The users and, of those who have a key, the ids, as a majority has them."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.uri)
        with client:
            database = client.get_database(self.database.name, read_concern=ReadConcern("majority"))
            stored: defaultdict[str, dict[str, Any]] = defaultdict(dict)
            stored.update((user["user_id"], user) for user in database.user.find())
            return stored, {key["user_id"] for key in database.auth.find({"user_id": {"$exists": True}})}


@slow
@linux
class ReplicaSetTest(DurabilityTest):
    """One replica set for all, each of which leaves it whole, or finds it mended."""

    replica: ReplicaSet

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.replica = ReplicaSet().start()

    @classmethod
    def tearDownClass(cls) -> None:  # nosetests runs no class cleanups
        cls.replica.close()
        super().tearDownClass()

    def setUp(self) -> None:
        super().setUp()
        self.replica.restart_members()
        self.uri = self.replica.uri
        self.servers = self.start_servers(MONGODB=self.uri)

    def test_kill_9_of_the_primary_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            load.wait_for_writes()
            primary = self.replica.wait_for_primary()
            primary.kill()
            load.wait_for_writes()
            primary.start()
            self.replica.wait_until_whole()
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, self.servers)

    def test_a_step_down_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            load.wait_for_writes()
            before = self.replica.wait_for_primary()
            self.replica.step_down()
            self.replica.wait_for_primary(other_than=before)
            load.wait_for_writes()
            self.replica.wait_until_whole()
        self.assert_nothing_is_lost(load, self.servers)

    def test_a_primary_that_hangs_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            load.wait_for_writes()
            primary = self.replica.wait_for_primary()
            primary.hang()
            self.addCleanup(primary.resume)
            self.replica.wait_for_primary(other_than=primary)
            load.wait_for_writes()
            primary.resume()
            self.replica.wait_until_whole()
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, self.servers)

    def test_kill_9_of_all_members_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            load.wait_for_writes()
            for member in self.replica.members:
                member.kill()
            load.wait_for_trouble()
            for member in self.replica.members:
                member.start()
            self.replica.wait_until_whole()
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, self.servers)


@slow
@linux
class NetworkTest(DurabilityTest):
    def test_a_primary_that_is_cut_off_from_everybody_loses_nothing(self) -> None:
        replica = ReplicaSet(proxied=True)
        self.addCleanup(replica.close)
        replica.start()
        self.uri = replica.uri
        servers = self.start_servers(MONGODB=self.uri)
        with Load(servers) as load:
            load.wait_for_writes()
            primary = replica.wait_for_primary()
            replica.cut_off(primary)
            replica.wait_for_primary(other_than=primary)
            load.wait_for_writes()
            replica.reconnect()
            replica.wait_until_whole()
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, servers)


@slow
@linux
class EmbeddedTest(DurabilityTest):
    """Two servers, which share the mongod that one of them runs."""

    def setUp(self) -> None:
        super().setUp()
        reserved, port = reserve_port()
        self.addCleanup(reserved.close)
        self.uri = f"mongodb://127.0.0.1:{port}"
        self.script = f"""
from indico import config, server
from indico.core import serving
serving.DEFAULT_MONGODB_PORT = {port}
config.MONGODB = config.DEFAULT_MONGODB = "{self.uri}"
server.main(debug=False, port=0)
"""
        self.servers = self.start_servers(script=self.script)

    def find_mongod(self) -> int:
        """The process of the mongod."""
        found: list[int] = []

        def is_found() -> bool:
            found[:] = [pid for pid in processes_in(self.folder) if is_mongod(pid)]
            return len(found) == 1

        wait_until(is_found, "a single mongod")
        return found[0]

    def test_kill_9_of_mongod_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            for _ in range(3):
                load.wait_for_writes()
                os.kill(self.find_mongod(), signal.SIGKILL)
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, self.servers)

    def test_kill_9_of_the_server_that_runs_mongod_loses_nothing(self) -> None:
        with Load(self.servers) as load:
            for _ in range(3):
                load.wait_for_writes()
                number = self.find_owner()
                self.assertEqual(self.servers[number].stop(signal.SIGKILL), -signal.SIGKILL)
                load.wait_for_trouble()
                self.servers[number] = self.start(script=self.script, MONGODB_TIMEOUT=str(MONGODB_TIMEOUT))
                load.replace(number, self.servers[number])
            load.wait_for_writes()
        self.assert_nothing_is_lost(load, self.servers, kills=True)

    def find_owner(self) -> int:
        """Which of the servers runs the mongod."""
        path = f"/proc/{self.find_mongod()}/stat"
        with open(path) as file:
            parent = int(file.read().rpartition(")")[2].split()[1])
        return [server.pid for server in self.servers].index(parent)
