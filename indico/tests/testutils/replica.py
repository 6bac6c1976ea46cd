"""
A replica set of three real mongods, whose members can be killed, stopped and cut off. Linux alone.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from indico.core import supervisor
from indico.core.mongo.mongod import find_mongod
from indico.tests.testutils.process import make_folder, wait_until
from indico.tests.testutils.proxy import HOST, Proxy, reserve_port

NAME = "tests"
PATIENCE = 60  # seconds; what takes longer will not happen
SETTINGS = {
    "electionTimeoutMillis": 1500,
    "heartbeatIntervalMillis": 250,
    "heartbeatTimeoutSecs": 2,
}


class Member:
    """One mongod of the set, which others reach at `address`: its own, or that of its proxy."""

    def __init__(self, folder: Path, proxied: bool) -> None:
        self.folder = folder
        self._reserved, self.port = reserve_port()
        self.proxy = Proxy((HOST, self.port)) if proxied else None
        self.address = f"{HOST}:{self.proxy.port if self.proxy else self.port}"
        self.pid: int | None = None
        self.reachable = False  # neither killed nor stopped nor cut off
        # Not through the proxy: what is cut off can still be looked into.
        self.client: MongoClient[dict[str, Any]] = MongoClient(
            HOST,
            self.port,
            directConnection=True,
            serverSelectionTimeoutMS=1000,
            connectTimeoutMS=1000,
            socketTimeoutMS=5000,
        )

    def start(self) -> None:
        """Start it; from the main thread, for it is bound to the life of the thread that starts it."""
        path = find_mongod()
        assert path is not None, "no mongod is installed"
        self.folder.mkdir(exist_ok=True)
        options = {
            "--replSet": NAME,
            "--dbpath": str(self.folder),
            "--logpath": str(self.folder / "mongod.log"),
            "--port": str(self.port),
            "--bind_ip": HOST,
            "--oplogSize": "64",
            "--wiredTigerCacheSizeGB": "0.25",
            "--setParameter": "diagnosticDataCollectionEnabled=false",
        }
        words = [word for option in options.items() for word in option]
        self.pid = supervisor.start_tied_to_parent([path, *words, "--nounixsocket", "--quiet", "--logappend"])
        self.reachable = True

    def kill(self) -> None:
        """End it by `kill -9`."""
        if self.pid is not None:
            pid = self.pid
            os.kill(pid, signal.SIGKILL)
            self.reachable = False
            wait_until(lambda: supervisor.has_ended(pid), "the end of a mongod")
            self.pid = None

    def hang(self) -> None:
        """Stop it, so that it keeps its connections and says nothing."""
        assert self.pid is not None
        self.reachable = False
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGCONT)
        self.reachable = True

    def ask(self, command: str) -> dict[str, Any]:
        """What it answers, and nothing while it does not."""
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
    Members, three unless `count` says otherwise, that elect a primary within a few seconds.

        with ReplicaSet() as replica:
            client = MongoClient(replica.uri)
            replica.wait_for_primary().kill()

    With `proxied` each member stands behind a proxy, so that its network can be cut (`cut_off`). The
    block begins when the set is whole, and at its end nothing of it is left.
    """

    def __init__(self, proxied: bool = False, count: int = 3) -> None:
        self.folder = make_folder()
        self.members = [Member(self.folder / str(number), proxied) for number in range(count)]
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
        """Start all members, and return when the set is whole. Closes nothing when that fails."""
        for member in self.members:
            member.start()
        for member in self.members:
            wait_until(lambda: member.ask("ping"), "an answer of a mongod", PATIENCE)  # noqa: B023
        hosts = [{"_id": number, "host": member.address} for number, member in enumerate(self.members)]
        configuration = {"_id": NAME, "members": hosts, "settings": SETTINGS}
        self.members[0].client.admin.command("replSetInitiate", configuration)
        self.wait_until_whole()
        return self

    def wait_for_primary(self, other_than: Member | None = None) -> Member:
        """The member that takes writes, of those that can be reached."""

        found: list[Member] = []

        def is_found() -> bool:
            candidates = [member for member in self.members if member.reachable and member is not other_than]
            found[:] = [member for member in candidates if member.ask("hello").get("isWritablePrimary")]
            return bool(found)

        wait_until(is_found, "a primary", PATIENCE)
        return found[0]

    def wait_until_whole(self) -> None:
        """Return when one member is the primary, and the others follow it."""

        def is_whole() -> bool:
            states = [
                sorted(member["stateStr"] for member in each.ask("replSetGetStatus").get("members", []))
                for each in self.members
            ]
            followers = len(self.members) - 1
            return states == len(self.members) * [["PRIMARY", *followers * ["SECONDARY"]]]

        wait_until(is_whole, "all members, one of them the primary", PATIENCE)

    def restart_members(self) -> None:
        """Start those that were killed, and return when the set is whole."""
        for member in self.members:
            if member.pid is None:
                member.start()
        self.wait_until_whole()

    def step_down(self) -> None:
        """Have the primary hand over to another member."""
        self.wait_for_primary().client.admin.command("replSetStepDown", 10)

    def cut_off(self, member: Member) -> None:
        """Cut the network between a member and everybody else, in both directions."""
        member.reachable = False
        for each in self.members:
            assert each.proxy is not None and member.pid is not None, "it takes a set that is proxied"
            each.proxy.hold(None if each is member else owner_of_port(member.pid))

    def mend(self) -> None:
        """Mend the network. What was on its way arrives now."""
        for each in self.members:
            assert each.proxy is not None, "it takes a set that is proxied"
            each.proxy.pass_on()
            each.reachable = each.pid is not None

    def close(self) -> None:
        """End all members, whatever state they are in."""
        for member in self.members:
            member.close()
        shutil.rmtree(self.folder)


def owner_of_port(pid: int) -> Callable[[int], bool]:
    """Whether a port is this process's end of a connection."""

    def owns(port: int) -> bool:
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}")}
        return not sockets.isdisjoint(open_files(pid))

    return owns


def open_files(pid: int) -> set[str]:
    """What a process has open, as the kernel names it; nothing when it is gone."""
    found = set()
    with suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it has just been closed
                found.add(os.readlink(link))
    return found
