"""
A replica set of three mongods. Tests can kill, stop and disconnect its members. Linux only.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from indico.core import supervisor
from indico.core.mongo.mongod import find_mongod
from indico.tests.testutils.namespaces import Namespace
from indico.tests.testutils.process import make_folder, open_files, wait_until
from indico.tests.testutils.proxy import HOST, Proxy, reserve_port

NAME = "tests"
PATIENCE = 60  # seconds until a wait fails
SETTINGS = {
    "electionTimeoutMillis": 1500,
    "heartbeatIntervalMillis": 250,
    "heartbeatTimeoutSecs": 2,
}


class Member:
    """One mongod of the set. `address` is that of its proxy, if it has one. It can have a namespace."""

    def __init__(self, folder: Path, proxied: bool, namespace: Namespace | None = None) -> None:
        self.folder = folder
        self.namespace = namespace
        self.host = namespace.address if namespace else HOST
        self._reserved, self.port = reserve_port()
        self.proxy = Proxy((HOST, self.port)) if proxied else None
        self.address = f"{self.host}:{self.proxy.port if self.proxy else self.port}"
        self.pid: int | None = None
        self.reachable = False  # not killed, stopped or disconnected
        # Not through the proxy, so that tests can query a disconnected member.
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            self.host,
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=1000,
            connectTimeoutMS=1000,
            socketTimeoutMS=5000,
        )

    def start(self) -> None:
        """Start it. Call this in the main thread, because mongod ends with the thread that starts it."""
        path = find_mongod()
        assert path is not None, "no mongod is installed"
        self.folder.mkdir(exist_ok=True)
        options = {
            "--replSet": NAME,
            "--dbpath": str(self.folder),
            "--logpath": str(self.folder / "mongod.log"),
            "--port": str(self.port),
            "--bind_ip": self.host,
            "--oplogSize": "64",
            "--wiredTigerCacheSizeGB": "0.25",
            "--setParameter": "diagnosticDataCollectionEnabled=false",
        }
        words = [word for option in options.items() for word in option]
        words += ["--nounixsocket", "--quiet", "--logappend"]
        with self.namespace.enter() if self.namespace else nullcontext():
            self.pid = supervisor.start_tied_to_parent([path, *words])
        self.reachable = True

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self.pid is not None:
            pid = self.pid
            os.kill(pid, signal.SIGKILL)
            self.reachable = False
            wait_until(lambda: supervisor.has_ended(pid), "the end of a mongod")
            self.pid = None

    def hang(self) -> None:
        """Stop it with SIGSTOP: it keeps its connections and does not respond."""
        assert self.pid is not None
        self.reachable = False
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)
        self.reachable = True

    def ask(self, command: str) -> dict[str, Any]:
        """Run a command, and return the reply, or {} if there is none."""
        try:
            return dict(self.client.admin.command(command))
        except PyMongoError:
            return {}

    def close(self) -> None:
        self.kill()
        self.client.close()
        if self.proxy is not None:
            self.proxy.close()
        self._reserved.close()


class ReplicaSet:
    """
    A replica set of `count` members. They elect a primary within a few seconds.

        with ReplicaSet() as replica:
            client = MongoClient(replica.uri)
            replica.wait_for_primary().kill()

    With `proxied`, each member has a proxy, so that `cut_off` can disconnect it. With `namespaces`, each
    member is in one of them. The block begins when all members are ready. At its end, they are killed and
    their data is removed.
    """

    def __init__(
        self, proxied: bool = False, count: int = 3, namespaces: Sequence[Namespace | None] | None = None
    ) -> None:
        self.folder = make_folder()
        self.members = [
            Member(self.folder / str(number), proxied, namespace)
            for number, namespace in enumerate(namespaces or count * [None])
        ]
        self.uri = f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet={NAME}"

    def __enter__(self) -> ReplicaSet:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> ReplicaSet:
        """Start all members, and return when they are ready. Does not clean up if that fails."""
        for member in self.members:
            member.start()
        for member in self.members:
            wait_until(lambda: member.ask("ping"), "a response of a mongod", PATIENCE)  # noqa: B023
        hosts = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        configuration = {"_id": NAME, "members": hosts, "settings": SETTINGS}
        self.members[0].client.admin.command("replSetInitiate", configuration)
        self.wait_until_whole()
        return self

    def wait_for_primary(self, other_than: Member | None = None) -> Member:
        """Wait for a reachable member to be the primary, and return it."""

        found: list[Member] = []

        def is_found() -> bool:
            candidates = [member for member in self.members if member.reachable and member is not other_than]
            found[:] = [member for member in candidates if member.ask("hello").get("isWritablePrimary")]
            return bool(found)

        wait_until(is_found, "a primary", PATIENCE)
        return found[0]

    def wait_until_whole(self) -> None:
        """Return when one member is the primary, and all others are secondaries."""

        def is_whole() -> bool:
            states = [
                sorted(member["stateStr"] for member in each.ask("replSetGetStatus").get("members", []))
                for each in self.members
            ]
            followers = len(self.members) - 1
            return states == len(self.members) * [["PRIMARY", *followers * ["SECONDARY"]]]

        wait_until(is_whole, "all members, one of them the primary", PATIENCE)

    def restart_members(self) -> None:
        """Start the members that were killed, and return when all are ready."""
        for member in self.members:
            if member.pid is None:
                member.start()
        self.wait_until_whole()

    def step_down(self) -> None:
        """Make the primary step down, so that another member is elected."""
        self.wait_for_primary().client.admin.command("replSetStepDown", 10)

    def cut_off(self, member: Member) -> None:
        """Disconnect a member from all others and from clients, in both directions."""
        member.reachable = False
        for each in self.members:
            assert each.proxy is not None and member.pid is not None, "it takes a set that is proxied"
            each.proxy.hold(None if each is member else owner_of_port(member.pid))

    def isolate(self, member: Member) -> None:
        """Disconnect a member from all others in both directions, and not from clients."""
        others = [each for each in self.members if each is not member]
        for each in self.members:
            assert each.proxy is not None and each.pid is not None, "it takes a set that is proxied"
            peers = [owner_of_port(other.pid or 0) for other in (others if each is member else [member])]
            each.proxy.hold(lambda port, peers=peers: any(owns(port) for owns in peers))  # type: ignore[misc]

    def reconnect(self) -> None:
        """Reconnect all members. Data that was kept arrives now."""
        for each in self.members:
            assert each.proxy is not None, "it takes a set that is proxied"
            each.proxy.pass_on()
            each.reachable = each.pid is not None

    def close(self) -> None:
        """Kill all members, and remove their data."""
        for member in self.members:
            member.close()
        shutil.rmtree(self.folder)


def owner_of_port(pid: int) -> Callable[[int], bool]:
    """Return a function that tells whether this process has a connection from a port."""

    def owns(port: int) -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}")}
        return not sockets.isdisjoint(open_files(pid))

    return owns
