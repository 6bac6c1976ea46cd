"""
Brings a database to what the code expects: `python -m indico.migrate` says what there is to do, `--apply`
does it.

First come the migrations, the files in `indico/migrations` that have not run yet, in the order of their
names. Then come the indexes that the code declares. Those that it does not declare are dropped with `--drop`
only, because servers of the previous version may still need them.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from indico import config
from indico.core.command_line import read_env_file
from indico.core.mongo import indexes
from indico.core.mongo.lock import Locked, hold_lock

Document = dict[str, Any]
Indexes = dict[tuple[str, str], Document]  # as MongoDB describes them, by collection and name


class NotMigrated(Exception):
    """Why it ended: a sentence. What was done before stays done."""


class Step(NamedTuple):
    action: str  # run, build, rebuild or drop
    subject: str
    run: Callable[[], Any]


class Change(NamedTuple):
    """Of an index. Without `old` it is built, without `new` dropped."""

    collection: str
    old: Document | None
    new: Document | None


# Migrations


def find_migrations(database: Database[Document]) -> list[Step]:
    """The migrations that have not run yet, in order."""
    from indico import migrations

    names = sorted(module.name for module in pkgutil.iter_modules(migrations.__path__))
    applied = {document["_id"] for document in database.migration.find({"applied": {"$exists": True}})}
    pending = [name for name in names if name not in applied]
    return [Step("run", name, partial(run_migration, database, name)) for name in pending]


def run_migration(database: Database[Document], name: str) -> None:
    importlib.import_module(f"indico.migrations.{name}").up(database)
    now = datetime.datetime.now(datetime.UTC)
    database.migration.insert_one({"_id": name, "applied": now})


# Indexes


def find_indexes(database: Database[Document]) -> list[Step]:
    """What to build, rebuild and drop, in this order, to have the indexes that the code declares."""
    steps = []
    for change in compare(read_indexes(database), declared_indexes()):
        action = "drop" if change.new is None else "build" if change.old is None else "rebuild"
        index = change.new or change.old or {}
        run = partial(replace_index, database, change)
        steps.append(Step(action, f"{change.collection}.{index['name']}", run))
    return steps


def read_indexes(database: Database[Document]) -> Indexes:
    collections = sorted(database.list_collection_names(filter={"type": "collection"}))
    return {
        (collection, index["name"]): dict(index)
        for collection in collections
        for index in database[collection].list_indexes()
        if index["name"] != "_id_"
    }


def declared_indexes() -> Indexes:
    pairs = indexes.INDEXES
    return {(collection, model.document["name"]): dict(model.document) for collection, model in pairs}


def compare(existing: Indexes, declared: Indexes) -> list[Change]:
    """The changes that make the existing indexes the declared ones. Those that drop an index come last."""
    changes = []
    undeclared = {key: index for key, index in existing.items() if key not in declared}
    for key, new in declared.items():
        old = existing.get(key)
        if old is None:  # MongoDB refuses a second index on the same fields: one of another name has to go
            same = (
                other for other in undeclared if other[0] == key[0] and fields(existing[other]) == fields(new)
            )
            old = undeclared.pop(next(same, key), None)
        if old is None or not is_same(old, new):
            changes.append(Change(key[0], old, new))
    return changes + [Change(collection, old, None) for (collection, _), old in undeclared.items()]


def fields(index: Document) -> list[tuple[str, Any]]:
    return list(index["key"].items())


def is_same(old: Document, new: Document) -> bool:
    """Whether MongoDB's index is the declared one: its name, its fields in their order, its options."""
    if "collation" in old and "collation" in new:  # MongoDB adds the defaults of a collation
        old = {**old, "collation": {name: old["collation"].get(name) for name in new["collation"]}}
    options = [
        {
            name: value
            for name, value in index.items()
            if name not in ("v", "ns", "key") and value is not False
        }
        for index in (old, new)
    ]
    return options[0] == options[1] and fields(old) == fields(new)


def replace_index(database: Database[Document], change: Change) -> None:
    """Make the change. The old index is made again if MongoDB refuses the new one. Raises NotMigrated."""
    collection, old, new = change
    if old is not None:
        database[collection].drop_index(old["name"])
    if new is None:
        return
    try:
        database.command("createIndexes", collection, indexes=[new])
    except OperationFailure as error:
        if old is not None:
            database.command("createIndexes", collection, indexes=[old])
        reason = str(error).partition(", full error")[0]
        raise NotMigrated(f"{collection}.{new['name']} can't be made: {reason}") from error


# The command


def migrate(database: Database[Document], apply: bool, drop: bool) -> None:
    """Print what there is to do. `apply` does it, but drops indexes only with `drop`."""
    if not apply:
        steps = [*find_migrations(database), *find_indexes(database)]
        actions = {step.action for step in steps}
        for step in steps:
            print(f"{step.action:8} {step.subject}")
        if actions - {"drop"}:
            print("Nothing was done yet: --apply does it.")
        if "drop" in actions:
            print("When no server runs any more that declares them, --apply --drop drops indexes.")
        return
    with hold_lock(database.migration):
        for find_steps in (find_migrations, find_indexes):
            for step in find_steps(database):
                if step.action == "drop" and not drop:
                    print(f"kept     {step.subject}")
                    continue
                print(f"{step.action:8} {step.subject} ...", end=" ", flush=True)
                step.run()
                print("done", flush=True)


@contextmanager
def connect() -> Iterator[Database[Document]]:
    """The database. Unlike the server's client, this one waits for as long as a command takes."""
    options: dict[str, Any] = {
        "w": "majority",
        "journal": True,
        "serverSelectionTimeoutMS": config.MONGODB_TIMEOUT * 1000,
    }
    with ExitStack() as stack:
        try:
            client: MongoClient[Document] = stack.enter_context(MongoClient(config.MONGODB, **options))
            client.admin.command("ping")
        except PyMongoError as error:  # its text may hold parts of the URI
            raise NotMigrated(f"MONGODB can't be used, {type(error).__name__}.") from error
        yield client[config.MONGODB_DATABASE]


def main(words: Sequence[str] | None = None) -> None:
    """Run with these options, by default those of the command line. What prevents it is one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m indico.migrate",
        description="Say which migrations were not run yet, and where MongoDB's indexes are not the code's.",
    )
    parser.add_argument("--apply", action="store_true", help="run those migrations, and make those indexes")
    parser.add_argument("--drop", action="store_true", help="and drop indexes that the code does not declare")
    arguments = parser.parse_args(words)
    read_env_file()

    from indico import server  # its routes and batteries declare indexes

    for battery in server.BATTERIES:
        importlib.import_module(battery)
    try:
        config.check()
        with connect() as database:
            migrate(database, arguments.apply, arguments.drop)
    except (config.SettingError, Locked, NotMigrated) as error:
        sys.exit(f"Not migrated: {error}")
    except ConnectionFailure as error:
        sys.exit(
            f"Not migrated to the end: MONGODB has gone, {type(error).__name__}. Run this again when it is"
            " back; until then an index that was being rebuilt may be missing."
        )
