"""
Migrations and indexes: what `python -m indico.migrate` says, does and refuses to do.
"""

from __future__ import annotations

import datetime
import io
import itertools
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest import mock

from pymongo import IndexModel, MongoClient, common
from pymongo.collection import Collection
from pymongo.errors import AutoReconnect, OperationFailure

import indico.migrate
from indico import config, db, migrations
from indico.core import log
from indico.core.commands import migrate
from indico.core.commands.migrate import NotMigrated
from indico.core.mongo import indexes, lock
from indico.core.mongo.lock import Locked
from indico.tests.core.mongo.test_outages import start_with_auth
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import DatabaseTest
from indico.tests.testutils.process import ProcessTest, linux, make_environment, run_main, wait_until

NO_LOCK = {"_id": {"$ne": "lock"}}


class MigrateTest(DatabaseTest):
    """A database, a code that declares `self.indexes`, and a folder of migrations, `self.folder`."""

    def setUp(self) -> None:
        super().setUp()
        self.indexes: list[tuple[str, IndexModel]] = []
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        for patch in (
            mock.patch.object(indexes, "INDEXES", self.indexes),
            mock.patch.object(migrations, "__path__", [folder.name]),
        ):
            patch.start()
            self.addCleanup(patch.stop)

    def declare(self, collection: str, *fields: str, **options: Any) -> None:
        db.index(collection, *fields, **options)

    def write(self, name: str, body: str) -> None:
        (self.folder / f"{name}.py").write_text(f"def up(database):\n    {body}\n")
        self.addCleanup(sys.modules.pop, f"indico.migrations.{name}", None)

    def migrate(self, apply: bool = False, drop: bool = False) -> list[str]:
        """What it printed."""
        with redirect_stdout(io.StringIO()) as output:
            migrate.migrate(self.database, apply, drop)
        lines = output.getvalue().splitlines()
        self.assertLessEqual(max(map(len, lines), default=0), 80)
        return lines

    def names(self, collection: str) -> set[str]:
        return set(self.database[collection].index_information()) - {"_id_"}


class IndexTest(MigrateTest):
    def test_what_is_as_declared_needs_nothing(self) -> None:
        collation = {"locale": "en", "strength": 2}
        self.declare("tea", "name", unique=True, partialFilterExpression={"name": {"$gt": ""}})
        self.declare("tea", "name", "year", collation=collation)
        self.declare("tea", "until", expireAfterSeconds=0)
        self.assertEqual(len(self.migrate(apply=True)), 3)
        self.assertEqual(self.migrate(), ["Nothing is pending."])

    def test_nothing_is_done_without_apply(self) -> None:
        self.declare("tea", "name")
        self.database.tea.create_index("old")
        said = [
            "build    tea.name_1",
            "drop     tea.old_1",
            "Nothing was changed yet: run this again with --apply.",
            "When no server uses these indexes any more, --apply --drop drops them.",
        ]
        self.assertEqual(self.migrate(), said)
        self.assertEqual(self.names("tea"), {"old_1"})

    def test_what_is_missing_is_built_and_what_is_not_declared_is_kept_at_first(self) -> None:
        self.declare("tea", "name")
        self.database.tea.create_index("old")
        self.assertEqual(self.migrate(apply=True), ["build    tea.name_1 ... done", "kept     tea.old_1"])
        self.assertEqual(self.names("tea"), {"name_1", "old_1"})
        self.assertEqual(self.migrate(apply=True, drop=True), ["drop     tea.old_1 ... done"])
        self.assertEqual(self.names("tea"), {"name_1"})

    def test_the_index_of_ids_and_indexes_of_collections_that_are_gone_from_the_code(self) -> None:
        self.database.cup.create_index("size")
        self.migrate(apply=True, drop=True)
        self.assertEqual(list(self.database.cup.index_information()), ["_id_"])

    def test_collections_of_mongodb_itself_are_neither_read_nor_named(self) -> None:
        self.database.command("profile", 2)
        self.addCleanup(self.database.command, "profile", 0)
        self.database["system.js"].insert_one({"_id": "f", "value": 1})
        self.database.create_collection("weather", timeseries={"timeField": "at"})
        self.database.tea.insert_one({})
        begin = self.database["system.profile"].count_documents({})
        self.assertEqual(self.migrate(), ["Nothing is pending."])
        self.migrate(apply=True, drop=True)
        self.database.command("profile", 0)
        commands = list(self.database["system.profile"].find().skip(begin))
        self.assertIn(f"{self.database.name}.tea", [command["ns"] for command in commands])
        system = [command for command in commands if ".system." in command["ns"]]
        self.assertEqual(
            [command["command"] for command in system if "listIndexes" in command["command"]], []
        )

    def test_other_options_or_another_order_of_fields_or_another_name_rebuild_it(self) -> None:
        self.database.tea.create_index("name")
        self.database.tea.create_index([("b", 1), ("a", 1)], name="a_1_b_1")
        self.database.tea.create_index("year", name="by_year")
        self.declare("tea", "name", unique=True)
        self.declare("tea", "a", "b")
        self.declare("tea", "year")
        said = self.migrate(apply=True)
        self.assertEqual(said, [f"rebuild  tea.{name} ... done" for name in ("name_1", "a_1_b_1", "year_1")])
        indexes = self.database.tea.index_information()
        self.assertEqual(set(indexes), {"_id_", "name_1", "a_1_b_1", "year_1"})
        self.assertTrue(indexes["name_1"]["unique"])
        self.assertEqual(indexes["a_1_b_1"]["key"], [("a", 1), ("b", 1)])

    def test_what_can_not_be_rebuilt_is_put_back(self) -> None:
        self.database.tea.create_index("name", sparse=True)
        self.database.tea.insert_many([{"name": "a"}, {"name": "a"}])
        before = self.database.tea.index_information()
        self.declare("tea", "name", unique=True)
        with self.assertRaisesRegex(NotMigrated, r"tea\.name_1 can't be built: .*duplicate key"):
            self.migrate(apply=True)
        self.assertEqual(self.database.tea.index_information(), before)

    def test_what_can_not_be_built_is_named(self) -> None:
        self.database.tea.insert_many([{"name": "a"}, {"name": "a"}])
        self.declare("tea", "name", unique=True)
        with self.assertRaisesRegex(NotMigrated, r"tea\.name_1 can't be built"):
            self.migrate(apply=True)
        self.assertEqual(self.database.migration.count_documents({}), 0)


class MigrationTest(MigrateTest):
    def test_each_runs_once_in_the_order_of_their_numbers_and_before_the_indexes(self) -> None:
        self.write("0002_second", "database.tea.update_many({}, {'$rename': {'b': 'c'}})")
        self.write("0001_first", "database.tea.update_many({}, {'$rename': {'a': 'b'}})")
        self.database.tea.insert_one({"_id": 1, "a": 1})
        self.declare("tea", "c")
        said = self.migrate(apply=True)
        steps = ["run      0001_first", "run      0002_second", "build    tea.c_1"]
        self.assertEqual(said, [f"{step} ... done" for step in steps])
        self.assertEqual(self.database.tea.find_one(), {"_id": 1, "c": 1})
        self.assertEqual(
            [one["_id"] for one in self.database.migration.find()], ["0001_first", "0002_second"]
        )
        self.assertEqual(self.migrate(apply=True), [])

    def test_none_runs_without_apply(self) -> None:
        self.write("0001_first", "raise AssertionError")
        self.assertEqual(self.migrate()[0], "run      0001_first")
        self.assertEqual(self.database.list_collection_names(), [])

    def test_one_that_fails_is_named_before_it_runs_and_run_again_and_the_lock_is_free(self) -> None:
        self.write("0001_first", "database.tea.insert_one({'_id': 1 / database.tea.count_documents({})})")
        with redirect_stdout(io.StringIO()) as output, self.assertRaises(ZeroDivisionError):
            migrate.migrate(self.database, apply=True, drop=False)
        self.assertEqual(output.getvalue(), "run      0001_first ... ")
        self.database.tea.insert_one({})
        self.assertEqual(self.migrate(apply=True), ["run      0001_first ... done"])


class LockTest(MigrateTest):
    def test_two_at_once_run_a_migration_once(self) -> None:
        self.write(
            "0001_first",
            "database.started.insert_one({})\n    while not database.go.find_one(): pass",
        )
        first = threading.Thread(target=self.migrate, kwargs={"apply": True})
        first.start()
        self.addCleanup(first.join)
        self.addCleanup(self.database.go.insert_one, {})
        wait_until(lambda: self.database.started.find_one(), "the start of the migration")
        with self.assertRaisesRegex(Locked, "Another process holds the lock"):
            migrate.migrate(self.database, apply=True, drop=False)
        self.database.go.insert_one({})
        first.join()
        self.assertEqual(self.database.started.count_documents({}), 1)

    def test_the_lock_of_a_process_that_died_ends(self) -> None:
        past = datetime.datetime(2020, 1, 1)
        self.database.migration.insert_one({"_id": "lock", "holder": 1, "until": past})
        self.migrate(apply=True)
        self.assertEqual(self.database.migration.count_documents({}), 0)

    def test_the_lock_of_one_that_takes_long_does_not_end(self) -> None:
        with mock.patch.object(lock, "LEASE", 0.2), lock.hold_lock(self.database.migration):
            first = self.database.migration.find_one({"_id": "lock"})
            wait_until(lambda: self.database.migration.find_one({"_id": "lock"}) != first, "a longer lease")

    def test_the_lock_is_kept_although_mongodb_is_away_for_a_moment(self) -> None:
        update_one = Collection.update_one
        calls: Iterator[Any] = iter([update_one, mock.Mock(side_effect=AutoReconnect)])

        def falter(*arguments: Any) -> Any:
            return next(calls, update_one)(*arguments)

        with (
            mock.patch.object(lock, "LEASE", 0.2),
            mock.patch.object(Collection, "update_one", falter),
            lock.hold_lock(self.database.migration),
        ):
            first = self.database.migration.find_one({"_id": "lock"})
            wait_until(lambda: self.database.migration.find_one({"_id": "lock"}) != first, "a longer lease")


class CommandTest(DatabaseTest):
    def test_it_makes_all_that_the_routes_and_the_batteries_declare(self) -> None:
        output = run_main(indico.migrate, "--apply")
        for name in ("auth.key_1", "user.user_id_1"):
            self.assertIn(f"build    {name} ... done\n", output)
        self.assertIn("user_id_1", self.database.user.index_information())
        self.assertEqual(run_main(indico.migrate), "Nothing is pending.\n")

    def test_a_setting_that_makes_no_sense_keeps_it_from_its_work(self) -> None:
        with (
            mock.patch.dict(config.environment.environ, PORT="x"),
            self.assertRaisesRegex(
                SystemExit, r"^Not migrated: PORT should be a whole number .*, but is 'x'\.$"
            ),
        ):
            run_main(indico.migrate)

    def test_so_does_a_mongodb_that_is_away(self) -> None:
        with (
            mock.patch.object(config, "MONGODB", "mongodb://127.0.0.1:1"),
            mock.patch.object(config, "MONGODB_TIMEOUT", 0.01),
            mock.patch.object(common, "MIN_HEARTBEAT_INTERVAL", 0.01),  # PyMongo's pause
            self.assertRaisesRegex(SystemExit, "^Not migrated: MONGODB can't be used, ServerSelection"),
        ):
            run_main(indico.migrate)

    @slow
    def test_while_it_connects_it_says_so(self) -> None:
        with (
            mock.patch.object(config, "MONGODB", "mongodb://127.0.0.1:1"),
            mock.patch.object(config, "MONGODB_TIMEOUT", 0.2),
            mock.patch.object(log, "SILENT_SECONDS", 0.01),
            self.assertLogs("indico", "WARNING") as logged,
            self.assertRaises(SystemExit),
        ):
            run_main(indico.migrate)
        self.assertEqual(logged.output, ["WARNING:indico:Connecting to MONGODB ..."])

    def test_so_does_a_user_without_rights(self) -> None:
        for step, code in itertools.product(("find_migrations", "find_indexes"), (13, 8000)):
            unauthorized = OperationFailure("not authorized on shop to execute command", code)
            with (
                self.subTest(step=step, code=code),
                mock.patch.object(migrate, step, side_effect=unauthorized),
                self.assertRaisesRegex(
                    SystemExit, r"^Not fully migrated: the user in MONGODB needs the role readWrite\."
                ),
            ):
                run_main(indico.migrate)

    def test_any_other_refusal_keeps_its_traceback(self) -> None:
        refusal = OperationFailure("Document failed validation", 121)
        with (
            mock.patch.object(migrate, "find_indexes", side_effect=refusal),
            self.assertRaises(OperationFailure),
        ):
            run_main(indico.migrate)

    def test_a_mongodb_that_goes_meanwhile_is_a_sentence_too(self) -> None:
        with (
            mock.patch.object(migrate, "find_indexes", side_effect=AutoReconnect),
            self.assertRaisesRegex(
                SystemExit, r"^Not fully migrated: the connection to MONGODB was lost \(AutoReconnect\)\."
            ),
        ):
            run_main(indico.migrate, "--apply")


@slow
class CommandProcessTest(ProcessTest):
    def run_command(self, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "indico.migrate", *words],
            cwd=self.folder,
            env=make_environment(settings),
            capture_output=True,
            text=True,
        )

    def test_it_makes_all_that_the_routes_and_the_batteries_declare(self) -> None:
        process = self.run_command("--apply")
        self.assertEqual((process.returncode, process.stderr), (0, ""))
        for name in ("auth.key_1", "user.user_id_1"):
            self.assertIn(f"build    {name} ... done\n", process.stdout)
        self.assertIn("user_id_1", self.database.user.index_information())
        self.assertEqual(self.run_command().stdout, "Nothing is pending.\n")

    def test_what_keeps_it_from_its_work_is_a_sentence_and_status_1(self) -> None:
        for settings in (
            {"PORT": "x"},
            {"MONGODB": "mongodb://127.0.0.1:1", "MONGODB_TIMEOUT": "0.2"},
            {"MONGODB": "mongodb://user:pa:ss@127.0.0.1"},
        ):
            process = self.run_command(**settings)
            self.assertEqual(process.returncode, 1)
            self.assertRegex(process.stderr, r"^Not migrated: .*\.\n$")
            self.assertNotIn("pa:ss", process.stderr)

    @linux
    def test_without_rights_it_is_a_sentence_and_status_1(self) -> None:
        with start_with_auth(self.folder / "data") as client:
            assert client.address is not None
            address = f"127.0.0.1:{client.address[1]}"
            admin = MongoClient[dict[str, Any]](f"mongodb://root:secret@{address}/")
            self.addCleanup(admin.close)
            client.admin.command("createUser", "root", pwd="secret", roles=["root"])
            admin.admin.command(
                "createUser", "reader", pwd="secret", roles=[{"role": "read", "db": self.database.name}]
            )
            admin.admin.command("createUser", "other", pwd="secret", roles=[{"role": "readWrite", "db": "a"}])
            role = r"^Not fully migrated: the user in MONGODB needs the role readWrite\.\n.*\.\n$"
            for user, words, sentence in (
                ("", (), role),
                ("reader:secret@", ("--apply",), role),
                ("other:secret@", (), role),
                ("reader:wrong@", (), r"^Not migrated: MONGODB can't be used, OperationFailure\.\n$"),
            ):
                with self.subTest(user):
                    process = self.run_command(*words, MONGODB=f"mongodb://{user}{address}/")
                    self.assertEqual(process.returncode, 1)
                    self.assertRegex(process.stderr, sentence)
                    self.assertNotIn("system.", process.stdout + process.stderr)
                    self.assertNotIn("secret", process.stderr)

    def test_while_it_connects_it_says_so(self) -> None:
        process = self.run_command(MONGODB="mongodb://127.0.0.1:1", MONGODB_TIMEOUT="3")
        self.assertRegex(process.stderr, r"\AConnecting to MONGODB \.\.\.\nNot migrated: .*\.\n\Z")
