"""
Updates a database for the current code: `python -m indico.migrate` lists the pending steps, `--apply` runs
them.

The first steps are the migrations that have not run yet, the files in `indico/migrations` in the order of
their names. Then the declared indexes are built. Other indexes are dropped only with `--drop`, because
servers of the previous version may still need them.
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

from bson.son import SON
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import ConnectionFailure, OperationFailure, PyMongoError

from indico import config
from indico.core.command_line import read_env_file
from indico.core.log import announce
from indico.core.mongo import indexes
from indico.core.mongo.lock import Locked, hold_lock

RUN_AGAIN = "\nRun this again; until then, an index that was being rebuilt may be missing."
Document = dict[str, Any]


class NotMigrated(Exception):
    """A step failed; earlier steps keep their effect. The message is a sentence for the terminal."""


class Step(NamedTuple):
    action: str  # run, build, rebuild or drop
    subject: str
    run: Callable[[], Any]


def find_migrations(database: Database[Document]) -> list[Step]:
    """Return the migrations that have not run yet, in order."""
    from indico import migrations

    names = {module.name for module in pkgutil.iter_modules(migrations.__path__)}
    applied = {document["_id"] for document in database.migration.find({"applied": {"$exists": True}})}
    return [Step("run", name, partial(run_migration, database, name)) for name in sorted(names - applied)]


def run_migration(database: Database[Document], name: str) -> None:
    importlib.import_module(f"indico.migrations.{name}").up(database)
    database.migration.insert_one({"_id": name, "applied": datetime.datetime.now(datetime.UTC)})


def find_indexes(database: Database[Document]) -> list[Step]:
    """Return the steps from the existing to the declared indexes. Those that drop an index come last."""
    existing = read_indexes(database)
    declared = {  # SON, because dicts with another order of fields are equal
        (collection, model.document["name"]): {**model.document, "key": SON(model.document["key"])}
        for collection, model in indexes.INDEXES
    }
    undeclared = {key: index for key, index in existing.items() if key not in declared}
    steps = []
    for (collection, name), new in declared.items():
        old = existing.get((collection, name))
        if old is None:  # MongoDB rejects a second index on the same fields, so this replaces the first
            same = (key for key, index in undeclared.items() if index["key"] == new["key"])
            old = undeclared.pop(next((key for key in same if key[0] == collection), ("", "")), None)
        if old is None or not is_same(old, new):
            action = "build" if old is None else "rebuild"
            run = partial(replace_index, database[collection], old, new)
            steps.append(Step(action, f"{collection}.{name}", run))
    for collection, name in undeclared:
        steps.append(Step("drop", f"{collection}.{name}", partial(database[collection].drop_index, name)))
    return steps


def read_indexes(database: Database[Document]) -> dict[tuple[str, str], Document]:
    """Return MongoDB's descriptions of the indexes, by collection and name."""
    names = database.list_collection_names(  # those that the user has rights on
        filter={"type": "collection"}, nameOnly=True, authorizedCollections=True
    )
    return {
        (collection, index["name"]): dict(index)
        for collection in sorted(name for name in names if not name.startswith("system."))
        for index in database[collection].list_indexes()
        if index["name"] != "_id_"
    }


def is_same(old: Document, new: Document) -> bool:
    """Whether both indexes have the same name, the same fields in the same order, and the same options."""
    if "collation" in old and "collation" in new:  # MongoDB adds the defaults of a collation
        old = {**old, "collation": {name: old["collation"].get(name) for name in new["collation"]}}
    options = [
        {name: value for name, value in index.items() if name not in ("v", "ns") and value is not False}
        for index in (old, new)
    ]
    return options[0] == options[1]


def replace_index(collection: Collection[Document], old: Document | None, new: Document) -> None:
    """Build an index. If MongoDB rejects it, restores the old one and raises NotMigrated."""
    if old is not None:
        collection.drop_index(old["name"])
    try:
        collection.database.command("createIndexes", collection.name, indexes=[new])
    except OperationFailure as error:
        if old is not None:
            collection.database.command("createIndexes", collection.name, indexes=[old])
        reason = str(error).partition(", full error")[0]
        raise NotMigrated(f"{collection.name}.{new['name']} can't be built: {reason}") from error


def migrate(database: Database[Document], apply: bool, drop: bool) -> None:
    """Print the pending steps. `apply` runs them, but drops indexes only with `drop`."""
    if not apply:
        steps = [*find_migrations(database), *find_indexes(database)]
        actions = {step.action for step in steps}
        lines = [f"{step.action:8} {step.subject}" for step in steps]
        print("\n".join(lines or ["Nothing is pending."]))
        if actions - {"drop"}:
            print("Nothing was changed yet: run this again with --apply.")
        if "drop" in actions:
            print("When no server uses these indexes any more, --apply --drop drops them.")
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
    """Connect to the database. Unlike the server's client, this one has no timeout for commands."""
    wait = config.MONGODB_TIMEOUT * 1000
    with ExitStack() as stack:
        try:
            client: MongoClient[Document] = MongoClient(
                config.MONGODB, w="majority", journal=True, serverSelectionTimeoutMS=wait
            )
            with announce("Connecting to MONGODB"):
                stack.enter_context(client).admin.command("ping")
        except PyMongoError as error:  # its message may contain parts of the URI
            raise NotMigrated(f"MONGODB can't be used, {type(error).__name__}.") from error
        yield client[config.MONGODB_DATABASE]


def main(words: Sequence[str] | None = None) -> None:
    """Run with these options, by default those of the command line. Errors exit with one sentence."""
    parser = argparse.ArgumentParser(
        prog="python -m indico migrate",
        description="List the migrations that have not run, and the indexes that differ from the code's.",
    )
    parser.add_argument("--apply", action="store_true", help="run these migrations and build these indexes")
    parser.add_argument("--drop", action="store_true", help="also drop indexes that are not declared")
    arguments = parser.parse_args(words)
    read_env_file()

    from indico.server import make_app

    try:
        make_app()  # its routes and batteries declare indexes
        config.check()
        with connect() as database:
            migrate(database, arguments.apply, arguments.drop)
    except (config.SettingError, Locked, NotMigrated) as error:
        sys.exit(f"Not migrated: {error}")
    except OperationFailure as error:
        if error.code not in (13, 8000):  # Unauthorized, and the same on Atlas
            raise
        sys.exit(f"Not fully migrated: the user in MONGODB needs the role readWrite.{RUN_AGAIN}")
    except ConnectionFailure as error:
        sys.exit(
            f"Not fully migrated: the connection to MONGODB was lost ({type(error).__name__}).{RUN_AGAIN}"
        )
