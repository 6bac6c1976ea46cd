"""
Partitions: two servers and the three members of a replica set, each in a network namespace of its own, while
clients write, find, log in and out through both servers. What the clients saw is then checked.

PARTITION_MINUTES in the environment makes the first test go on for so long. With REQUIRE_NAMESPACES, the
tests fail where they can't run, and are not skipped. With TEST_REPORT, figures are added to that file.
"""

from __future__ import annotations

import os
import random
import time
import unittest
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from pymongo import MongoClient
from pymongo.read_concern import ReadConcern

from indico.tests.testutils import slow
from indico.tests.testutils.history import Client, Clients, History, Window
from indico.tests.testutils.namespaces import Network, find_obstacle
from indico.tests.testutils.process import ProcessTest, ServerProcess, linux, report_figures
from indico.tests.testutils.replica import SETTINGS, Member, ReplicaSet

MONGODB_TIMEOUT = 2  # seconds
ELECTION = SETTINGS["electionTimeoutMillis"] / 1000  # seconds
OUTDATED = 2 * ELECTION  # seconds in which a primary may not know that it is none
CALM = 1.5  # seconds before a fault, and after its end
TROUBLE = {  # seconds of each fault: without an answer from the old primary, writes stop for up to 11 s
    "kill": 5,
    "hang": 7,
    "cut off": 13,
    "cut off with a server": 13,
    "cut off from members alone": 13,
}
# docs/durability has MONGODB_TIMEOUT plus 1 for an answer, and 11 seconds for a write. Both are 2 more here,
# because servers, clients and mongods share the processors with other programs.
SLOWEST_ANSWER = MONGODB_TIMEOUT + 1 + 2  # seconds
LONGEST_GAP = 11 + 2  # seconds without a write

# What the server once had: reads of what is not committed, and a logout that writes nothing without a key.
LAZY_LOGOUT = """
import indico.db.auth_db as AuthDB
from indico import db, server

really_end_key = AuthDB.end_key

async def end_key(key, next_key, also=()):
    if await db.mongodb.auth.find_one(AuthDB.query_login(key)) is None:
        return False
    return await really_end_key(key, next_key, also)

AuthDB.end_key = end_key
server.main(debug=False, port=0)
"""


@slow
@linux
class PartitionTest(ProcessTest):
    def setUp(self) -> None:
        obstacle = find_obstacle()
        if obstacle and not os.environ.get("REQUIRE_NAMESPACES"):
            raise unittest.SkipTest(obstacle)
        self.assertIsNone(obstacle)
        super().setUp()
        stack = ExitStack()
        self.addCleanup(stack.close)
        self.network = stack.enter_context(Network(5))
        stack.enter_context(self.network.hub.enter())
        self.replica = stack.enter_context(ReplicaSet(namespaces=self.network.nodes[:3]))
        self.homes = self.network.nodes[3:]  # of the servers

    def start_servers(self, options: str = "", **settings: Any) -> list[ServerProcess]:
        servers = []
        for home in self.homes:
            with home.enter():
                servers.append(
                    self.launch(
                        MONGODB=self.replica.uri + options,
                        MONGODB_TIMEOUT=str(MONGODB_TIMEOUT),
                        LOGIN_RATE="off",
                        ADDRESS=home.address,
                        **settings,
                    )
                )
        return [server.wait_ready() for server in servers]

    def make_trouble(self, kind: str, history: History) -> None:
        """Have a fault of this kind for a while, and mend it."""
        time.sleep(CALM)
        primary = self.replica.wait_for_primary()
        home = primary.namespace
        assert home is not None
        others = [node for node in self.network.nodes[:3] if node is not home]
        self.note_window(history)
        if kind == "kill":
            primary.kill()
        elif kind == "hang":
            primary.hang()
        elif kind == "cut off":
            self.network.disconnect([home], others + self.homes)
        elif kind == "cut off with a server":
            with_it = random.choice(self.homes)
            self.network.disconnect(
                [home, with_it], [node for node in others + self.homes if node is not with_it]
            )
        else:
            self.network.disconnect([home], others)
        time.sleep(TROUBLE[kind])
        self.end_trouble(kind, primary, history)
        time.sleep(CALM)

    def end_trouble(self, kind: str, primary: Member, history: History) -> None:
        if kind == "hang":
            self.note_window(history)  # it wakes up as the primary
            primary.resume()
        self.network.reconnect()
        self.replica.restart_members()

    def note_window(self, history: History) -> None:
        now = time.monotonic()
        history.windows.append(Window(now, now + OUTDATED))

    def run_clients(self, servers: list[ServerProcess], kinds: list[str], history: History) -> None:
        """Have these faults, one after the other, while clients are at work."""
        with Clients(history, self.list_addresses(servers)) as clients:
            for kind in kinds:
                self.make_trouble(kind, history)
        clients.check_ended_keys()

    def list_addresses(self, servers: list[ServerProcess]) -> list[tuple[str, int]]:
        return [(home.address, server.port) for home, server in zip(self.homes, servers, strict=True)]

    def read_users(self) -> dict[str, list[dict[str, Any]]]:
        """Return the documents of each user, as a majority has them."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.replica.uri)
        users = defaultdict(list)
        with client:
            database = client.get_database(self.database.name, read_concern=ReadConcern("majority"))
            for user in database.user.find():
                users[user["user_id"]].append(user)
        return users

    def report(self, history: History, faults: dict[str, list[str]]) -> None:
        figures = [f"{status}: {number}" for status, number in sorted(history.count().items())]
        figures += [f"{name} {seconds:.1f} s" for name, seconds in history.measure().items()]
        figures += [f"{name} {len(found)}" for name, found in faults.items()]
        figures.append(f"outdated reads in a window {history.stale}")
        report_figures(self, ", ".join(figures))

    def assert_kept(self, history: History, servers: list[ServerProcess]) -> None:
        faults = history.find_faults(self.read_users())
        self.report(history, faults)
        self.assertEqual({name: found[:5] for name, found in faults.items() if found}, {})
        times = history.measure()
        self.assertLess(times["slowest answer"], SLOWEST_ANSWER)
        self.assertLess(times["without an answer"], SLOWEST_ANSWER)
        self.assertLess(times["without a write"], LONGEST_GAP)
        for server in servers:
            self.assertNotIn("Traceback", server.output)

    def test_with_the_key_cache_no_promise_is_broken(self) -> None:
        servers = self.start_servers(KEY_CACHE="60")
        history = History(grace=1)
        deadline = time.monotonic() + 60 * float(os.environ.get("PARTITION_MINUTES", "0"))
        self.run_clients(servers, list(TROUBLE), history)
        while time.monotonic() < deadline:
            self.run_clients(servers, [random.choice(list(TROUBLE))], history)
        self.assert_kept(history, servers)

    def test_with_linearizable_reads_nothing_is_outdated_at_any_time(self) -> None:
        servers = self.start_servers("&readConcernLevel=linearizable")
        history = History(grace=0)
        self.run_clients(servers, ["cut off with a server", "cut off from members alone"], history)
        history.windows.clear()
        self.assert_kept(history, servers)

    def test_with_w_1_updates_are_lost_which_the_history_shows(self) -> None:
        servers = self.start_servers("&w=1")
        history = History(grace=0)
        faults: dict[str, list[str]] = {"lost": []}
        for _ in range(3):
            if not faults["lost"]:
                self.run_clients(servers, ["cut off from members alone"], history)
                faults = history.find_faults(self.read_users())
        self.report(history, faults)
        self.assertGreater(len(faults["lost"]), 0)

    def test_a_logout_that_writes_nothing_ends_no_key_which_the_history_shows(self) -> None:
        servers = self.start_servers("&readConcernLevel=local", KEY_CACHE="60", script=LAZY_LOGOUT)
        found: list[str] = []
        for number in range(5):
            if not found:
                found = self.log_out_twice(servers, f"{number}").find_faults(self.read_users())["ended key"]
        self.assertGreater(len(found), 0)

    def log_out_twice(self, servers: list[ServerProcess], oauth_id: str) -> History:
        """
        Log out through both servers while the primary is cut off from the other members. So is the first
        server, which can't repeat its write on the next primary.
        """
        history = History(grace=1)
        clients = [
            Client(history, [address], f"client{number}", 0)
            for number, address in enumerate(self.list_addresses(servers))
        ]
        key = clients[0].log_in(oauth_id)
        ends = frozenset({key})
        for client in 20 * clients:  # both caches have the key
            client.post("auth/check", key, None, key)
        primary = self.replica.wait_for_primary().namespace
        assert primary is not None
        others = [node for node in self.network.nodes[:3] if node is not primary]
        self.network.disconnect([primary, self.homes[0]], others)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(clients[0].post, "auth/logout", key, None, key, ends=ends)
            time.sleep(0.2)
            clients[1].post("auth/logout", key, None, key, ends=ends)
        time.sleep(TROUBLE["hang"])
        self.network.reconnect()
        self.replica.restart_members()
        for client in 20 * clients:
            client.post("auth/check", key, None, key)
        for client in clients:
            client.close()
        return history
