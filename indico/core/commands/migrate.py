"""
Brings what MongoDB holds to what the code expects: `python -m indico.migrate` says what there is to do, and
with `--apply` does it.

First come the migrations, the files in `indico/migrations` that were not run yet, in the order of their
names, and then the indexes that the code declares. What MongoDB has beyond those is dropped only with
`--drop`, because servers of the version before may still need it.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

from bson.objectid import ObjectId
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError

from indico import config, db, migrations, server
from indico.core.progress import progress
from indico.db import Document

LEASE = 30  # seconds that the lock outlives whoever died with it


class NotMigrated(Exception):
    """What ended it, a sentence. What was done until then is done for good."""


class Step(NamedTuple):
    """Something to do: `run`, `build`, `rebuild` or `drop`, what, and how."""

    action: str
    subject: str
    do: Callable[[], Any]


# Migrations


def find_migrations(database: Database[Document]) -> list[Step]:
    """Those that were not run yet, in their order."""
    names = sorted(module.name for module in pkgutil.iter_modules(migrations.__path__))
    done = {document["_id"] for document in database.migration.find({"applied": {"$exists": True}})}
    return [Step("run", name, partial(run_migration, database, name)) for name in names if name not in done]


def run_migration(database: Database[Document], name: str) -> None:
    importlib.import_module(f"{migrations.__name__}.{name}").up(database)
    now = datetime.datetime.now(datetime.UTC)
    database.migration.insert_one({"_id": name, "applied": now})


# Indexes


def find_indexes(database: Database[Document]) -> list[Step]:
    """What MongoDB lacks, what it has otherwise, and last what the code does not declare."""
    there = {
        (collection, index["name"]): dict(index)
        for collection in sorted(database.list_collection_names(filter={"type": "collection"}))
        for index in database[collection].list_indexes()
        if index["name"] != "_id_"
    }
    declared = {
        (collection, model.document["name"]): dict(model.document) for collection, model in db.INDEXES
    }
    steps = []
    for place, new in declared.items():
        collection, name = place
        if place not in there:  # but maybe under another name, which MongoDB takes for a conflict
            others = [other for other in there if other not in declared and other[0] == collection]
            place = next((other for other in others if fields(there[other]) == fields(new)), place)
        old = there.pop(place, None)
        if old is None or not is_same(old, new):
            make = partial(make_index, database, collection, new, old)
            steps.append(Step("rebuild" if old else "build", f"{collection}.{name}", make))
    for collection, name in there:
        steps.append(Step("drop", f"{collection}.{name}", partial(database[collection].drop_index, name)))
    return steps


def fields(index: Document) -> list[tuple[str, Any]]:
    return list(index["key"].items())


def is_same(old: Document, new: Document) -> bool:
    """Whether MongoDB's index is the declared one: name, fields in their order, and options."""
    if "collation" in old and "collation" in new:  # which MongoDB completes
        old = {**old, "collation": {name: old["collation"].get(name) for name in new["collation"]}}
    ignored = ("v", "ns", "key")
    options = [
        {name: value for name, value in index.items() if name not in ignored and value is not False}
        for index in (old, new)
    ]
    return options[0] == options[1] and fields(old) == fields(new)


def make_index(database: Database[Document], collection: str, new: Document, old: Document | None) -> None:
    """Make an index in the place of an old one, which is put back when MongoDB refuses the new one."""
    if old is not None:
        database[collection].drop_index(old["name"])
    try:
        database.command("createIndexes", collection, indexes=[new])
    except OperationFailure as error:
        if old is not None:
            database.command("createIndexes", collection, indexes=[old])
        reason = str(error).partition(", full error")[0]
        raise NotMigrated(f"{collection}.{new['name']} can't be made: {reason}") from error


# The command


@contextmanager
def hold_lock(database: Database[Document]) -> Iterator[None]:
    """Raise NotMigrated when another process migrates this database, and keep others from it."""
    holder = ObjectId()
    lease = [{"$set": {"holder": holder, "until": {"$add": ["$$NOW", LEASE * 1000]}}}]
    with suppress(DuplicateKeyError):  # somebody holds it, or died with it
        database.migration.insert_one({"_id": "lock"})
    free = {"_id": "lock", "$expr": {"$lt": ["$until", "$$NOW"]}}  # what is missing is less than any time
    if not database.migration.update_one(free, lease).matched_count:
        raise NotMigrated(f"Another process is at it. If it died, try again in {LEASE} seconds.")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(LEASE / 5):
            with suppress(PyMongoError):  # MongoDB is away for a moment: there is another try before the end
                database.migration.update_one({"_id": "lock", "holder": holder}, lease)

    renewer = threading.Thread(target=renew, daemon=True)
    renewer.start()
    try:
        yield
    finally:
        done.set()
        renewer.join()
        database.migration.delete_one({"_id": "lock", "holder": holder})


def migrate(database: Database[Document], apply: bool, drop: bool) -> None:
    """Say what there is to do, and do it: `apply` all, and with `drop` also what drops an index."""
    if not apply:
        steps = [*find_migrations(database), *find_indexes(database)]
        for step in steps:
            print(f"{step.action:8} {step.subject}")
        if any(step.action != "drop" for step in steps):
            print("Nothing was done yet: --apply does it.")
        if any(step.action == "drop" for step in steps):
            print("When no server runs any more that declares them, --apply --drop drops indexes.")
        return
    with hold_lock(database):
        for find_steps in (find_migrations, find_indexes):
            for step in find_steps(database):
                if step.action == "drop" and not drop:
                    print(f"kept     {step.subject}")
                    continue
                with progress(f"{step.action:8} {step.subject}"):
                    step.do()
                print(f"{step.action:8} {step.subject}: done", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Do what these words say, those of the command line by default; what ends it is one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m indico.migrate",
        description="Say which migrations were not run yet, and where MongoDB's indexes are not the code's.",
    )
    parser.add_argument("--apply", action="store_true", help="run those migrations, and make those indexes")
    parser.add_argument("--drop", action="store_true", help="and drop indexes that the code does not declare")
    arguments = parser.parse_args(words)
    list(map(importlib.import_module, server.BATTERIES))  # which declare indexes, as the server's routes do
    try:
        config.check()
        with connect() as database:
            migrate(database, arguments.apply, arguments.drop)
    except (config.SettingError, NotMigrated) as error:
        sys.exit(f"Not migrated: {error}")
    except ConnectionFailure as error:
        sys.exit(
            f"Not migrated to the end: MONGODB has gone, {type(error).__name__}. Run this again when it is"
            " back; until then an index that was being rebuilt may be missing."
        )


@contextmanager
def connect() -> Iterator[Database[Document]]:
    """The database. Unlike the server's client this one waits for as long as a command takes."""
    milliseconds = int(config.MONGODB_TIMEOUT * 1000)
    with ExitStack() as stack:
        try:
            client: MongoClient[Document] = stack.enter_context(
                MongoClient(config.MONGODB, w="majority", journal=True, serverSelectionTimeoutMS=milliseconds)
            )
            client.admin.command("ping")
        except PyMongoError as error:  # whose text may hold parts of the URI
            raise NotMigrated(f"MONGODB can't be used, {type(error).__name__}.") from error
        yield client[config.MONGODB_DATABASE]
