"""
Jobs: what clients get, and what workers do.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from unittest import mock

from bson.objectid import ObjectId
from tornado.testing import gen_test

from indico import config, db
from indico.batteries import jobs
from indico.batteries.jobs import Progress, get_worker, install, job, running, store
from indico.core.hooks import Application
from indico.core.openapi import OpenAPIDocument
from indico.error import InvalidValue, Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.tests.db.test_auth_db import UpdateListener
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_ID
from indico.tests.testutils import slow
from indico.tests.testutils.mongo import MongoTest
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

PATIENCE = 10  # seconds until a wait fails
OTHER_LOGIN = {**LOGIN_DATA, "oauth_id": "2"}


def wait_until(condition: Callable[[], Any], what: str) -> None:
    """Return when the condition, which runs the event loop, is true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE} seconds: {what}"


class WorkHandler(IndicoHandler):
    """Jobs of all kinds."""

    progress: Progress
    calls: ClassVar[list[Any]] = []  # of the current test

    @auth
    @job
    @unpack("a", b=1)
    @type_check(int, int)
    async def add(self, a: int, b: int) -> dict[str, Any]:
        return {
            "sum": a + b,
            "user": self.user_id,
            "roles": self.roles,
            "headers": list(self.request.headers),
        }

    @auth
    @job
    def echo(self, data: bytes) -> None:
        self.progress(0.5)
        loop = asyncio.get_running_loop()
        loop.call_later(0.2, self.respond, {"body": data.decode()})
        loop.call_later(0.2, self.respond, "a second response")

    @auth
    @job
    async def reject(self, data: bytes) -> None:
        self.respond("not today", 409)

    @auth
    @job(retries=1)
    async def stumble(self, data: bytes) -> None:
        self.calls.append(data)
        raise (Unavailable("later"), ValueError("broken"), InvalidValue("bad"), asyncio.CancelledError())[
            int(data)
        ]

    @auth
    @job(retries=1)
    async def recover(self, data: bytes) -> str:
        self.calls.append(data)
        if len(self.calls) == 1:
            raise Unavailable("later")
        return "recovered"

    @auth
    @job
    async def wait(self, data: bytes) -> str:
        await self.progress({"step": 1})
        self.calls.append("began")
        try:
            await asyncio.sleep(float(data))
        finally:
            self.calls.append("ended")
        return "waited"

    @auth
    @job
    async def grow(self, data: bytes) -> str:
        return 17 * 1024 * 1024 * "x"


class CleanHandler(IndicoHandler):
    calls: ClassVar[list[Any]] = []

    @job(every=3600)
    @unpack(days=7)
    @type_check(int)
    async def clean(self, days: int) -> int:
        """Run each hour."""
        self.calls.append((days, self.user_id, self.roles))
        return days


WorkRoute = (r"/work/(?P<action>[a-zA-Z]+)?", WorkHandler)
CleanRoute = (r"/clean/(?P<action>[a-zA-Z]+)?", CleanHandler)


class JobsTest(ServerTest):
    routes = [AuthRoute, UserRoute, WorkRoute]
    stores = ("auth", "job", "user")
    settings: ClassVar[Mapping[str, Any]] = {}

    def setUp(self) -> None:
        for name, value in {"SHUTDOWN_TIMEOUT": 0.1, **self.settings}.items():
            patch = mock.patch.object(config, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        for target, name, value in ((running, "CHECK_SECONDS", 0.05), (jobs.worker, "POLL_SECONDS", 0.05)):
            patch = mock.patch.object(target, name, value)
            patch.start()
            self.addCleanup(patch.stop)
        WorkHandler.calls.clear()
        CleanHandler.calls.clear()
        super().setUp()
        self.post("auth/login", LOGIN_DATA)

    def add(self, action: str, data: Any = None) -> str:
        answer = self.post(f"work/{action}", data)
        self.assertEqual((answer["status"], list(answer["data"])), (202, ["job"]))
        return str(answer["data"]["job"])

    def find(self, job: str) -> dict[str, Any]:
        answer = self.post("job/find", {"job": job})
        self.assertEqual(answer["status"], 200)
        return dict(answer["data"])

    def wait_for(self, job: str, *states: str) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [self.find(job)]
            return found[0]["state"] in (states or store.ENDED)

        wait_until(is_there, f"a job in {states or store.ENDED}")
        return found[0]

    def stored(self, job: str) -> dict[str, Any]:
        document = self.database.job.find_one({"_id": ObjectId(job)})
        assert document is not None
        return document

    async def pause(self, seconds: float = 0.2) -> None:
        await asyncio.sleep(seconds)

    def run_until(self, condition: Callable[[], bool]) -> None:
        """Run the event loop until the condition is true."""

        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(poll, PATIENCE)


class ActionTest(JobsTest):
    def test_an_action_runs_in_a_worker_with_the_user_and_without_headers(self) -> None:
        self.database.auth.update_one({}, {"$set": {"roles": ["admin"]}})
        job = self.add("add", {"a": 2})
        result = {"sum": 3, "user": USER_ID, "roles": ["admin"], "headers": []}
        self.assertEqual(self.wait_for(job), {"state": "done", "progress": None, "result": result})

    @slow
    def test_a_plain_function_responds_later_and_reports_progress(self) -> None:
        job = self.add("echo", {"c": 1})
        self.assertEqual(
            self.wait_for(job), {"state": "done", "progress": 0.5, "result": {"body": '{"c": 1}'}}
        )

    def test_a_body_that_the_action_would_refuse_is_refused_and_not_stored(self) -> None:
        for body, sentence in (
            ({}, "a field was not provided"),
            ({"a": "x"}, "Field a - x is type str but should be int"),
            ({"a": 1, "b": None}, "Field b - None is type NoneType but should be int"),
        ):
            self.assertEqual(self.post("work/add", body), {"status": 400, "data": sentence})
        self.assertEqual(self.database.job.count_documents({}), 0)

    def test_without_a_key_nothing_is_stored(self) -> None:
        self.assertEqual(self.post("work/add", {"a": 1}, {})["status"], 401)
        self.assertEqual(self.database.job.count_documents({}), 0)

    def test_a_response_of_an_error_is_the_error_of_the_job(self) -> None:
        expected = {"state": "failed", "progress": None, "error": "not today"}
        self.assertEqual(self.wait_for(self.add("reject")), expected)

    def test_an_error_below_500_is_not_repeated(self) -> None:
        self.assertEqual(self.wait_for(self.add("stumble", 2))["error"], "bad")
        self.assertEqual(WorkHandler.calls, [b"2"])

    def test_other_errors_are_repeated_and_then_kept(self) -> None:
        unexpected = "we screwed up and have some debugging to do"
        for number, error in ((0, "later"), (1, unexpected), (3, unexpected)):
            WorkHandler.calls.clear()
            with mock.patch.object(running, "MAX_BACKOFF", 0), self.assertLogs("indico"):
                state = self.wait_for(self.add("stumble", number))
            self.assertEqual((state["state"], state["error"]), ("failed", error))
            self.assertEqual(len(WorkHandler.calls), 2)

    def test_an_action_that_succeeds_at_the_second_attempt_is_done(self) -> None:
        with mock.patch.object(running, "MAX_BACKOFF", 0), self.assertLogs("indico", "WARNING"):
            self.assertEqual(self.wait_for(self.add("recover"))["result"], "recovered")

    @slow
    def test_the_first_pause_after_a_failure_is_a_second_or_more(self) -> None:
        with self.assertLogs("indico", "WARNING"):
            job = self.add("recover")
            wait_until(lambda: self.find(job) and self.stored(job)["failures"], "a failure")
            pause = self.stored(job)["due"] - datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
            self.assertGreater(pause.total_seconds(), 0.5)
            self.io_loop.run_sync(self.pause)
            self.assertEqual(self.find(job)["state"], "waiting")
            self.database.job.update_one({}, {"$currentDate": {"due": True}})
            self.wait_for(job)

    @slow
    def test_a_result_that_mongodb_can_not_store_is_a_failure(self) -> None:
        state = self.wait_for(self.add("grow"))
        self.assertEqual(state["state"], "failed")
        self.assertIn("The document can't be stored", state["error"])

    def test_a_result_has_its_end(self) -> None:
        with mock.patch.object(config, "JOB_LIFETIME", 60):
            job = self.add("add", {"a": 1})
            self.wait_for(job)
        document = self.stored(job)
        self.assertEqual((document["expires"] - document["ended"]).total_seconds(), 60)
        self.assertNotIn("due", document)
        ttl = self.database.job.index_information()["expires_1"]
        self.assertEqual(ttl["expireAfterSeconds"], 0)


class ClientTest(JobsTest):
    def test_a_battery_may_add_fields_to_a_new_job(self) -> None:
        worker = jobs.get_worker(self._app)
        assert worker is not None
        worker.field_readers.append(lambda handler: {"asked_by": handler.user_id})
        job = self.add("grow")
        found = self.database.job.find_one({"_id": ObjectId(job)})
        assert found is not None
        self.assertEqual(found["asked_by"], USER_ID)

    def test_a_job_of_another_user_or_none_is_404(self) -> None:
        job = self.add("add", {"a": 1})
        key = self.post("auth/login", OTHER_LOGIN)["data"]["indico_key"]
        for action in ("find", "cancel", "follow"):
            for unknown, headers in ((job, {"indico_key": key}), (str(ObjectId()), HEADERS), ("x", HEADERS)):
                answer = self.post(f"job/{action}", {"job": unknown}, headers)
                self.assertEqual(answer, {"status": 404, "data": "job could not be found"})
        self.assertEqual(self.wait_for(job)["state"], "done")

    def test_a_cancelled_job_stops_and_stays_cancelled(self) -> None:
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")
        self.assertEqual(
            self.post("job/cancel", {"job": job})["data"], {"state": "cancelled", "progress": {"step": 1}}
        )
        wait_until(
            lambda: self.find(job) and WorkHandler.calls == ["began", "ended"], "the end of the action"
        )
        self.assertEqual(self.find(job)["state"], "cancelled")
        self.assertEqual(self.wait_for(self.add("add", {"a": 1}))["state"], "done")

    def test_a_job_that_has_ended_is_not_cancelled(self) -> None:
        job = self.add("add", {"a": 1})
        self.wait_for(job)
        self.assertEqual(self.post("job/cancel", {"job": job})["data"]["state"], "done")

    def test_follow_sends_each_change_until_the_end(self) -> None:
        job = self.add("wait", 0.3)
        with mock.patch.object(jobs, "FOLLOW_SECONDS", 0.05):
            body = self.fetch(
                "/job/follow", method="POST", body=json.dumps({"job": job}), headers=HEADERS
            ).body.decode()
        events = [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: ")]
        self.assertEqual(events[-2]["data"], {"state": "done", "progress": {"step": 1}, "result": "waited"})
        self.assertGreater(len(events), 2)
        self.assertIn("event: end", body)

    def test_the_jobs_of_a_removed_user_are_cancelled_and_deleted(self) -> None:
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")
        waiting = self.add("add", {"a": 1})
        exported = self.post("user/export", None)["data"]["job"]
        self.assertEqual([each["action"] for each in exported], ["work.wait", "work.add"])
        self.assertEqual(exported[1]["body"], '{"a": 1}')
        self.assertTrue(self.post("user/remove", None)["data"])
        self.run_until(lambda: len(WorkHandler.calls) == 2)
        self.assertEqual(self.database.job.count_documents({}), 0)
        self.assertTrue(waiting)


@slow
class TornadoServerTest(JobsTest):
    settings = {"HTTP_SERVER": "tornado"}
    test_follow_sends_each_change_until_the_end = ClientTest.test_follow_sends_each_change_until_the_end


class LeaseTest(JobsTest):
    settings = {"JOB_LEASE": 1}

    @slow
    def test_a_job_longer_than_its_lease_is_not_taken_by_another(self) -> None:
        other = jobs.worker.Worker(dict(jobs.worker.find_jobs(self._app.routes)))
        task = self.io_loop.asyncio_loop.create_task(other(self._app))  # type: ignore[attr-defined]
        self.assertEqual(self.wait_for(self.add("wait", 1.5))["result"], "waited")
        task.cancel()
        self.assertEqual(WorkHandler.calls, ["began", "ended"])

    @mock.patch.object(config, "JOB_LEASE", 0.5)
    def test_a_worker_that_can_not_renew_its_lease_cancels_the_action_before_it_ends(self) -> None:
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")
        failing = mock.AsyncMock(side_effect=Unavailable("The database can't be reached"))
        began = time.monotonic()
        with (
            mock.patch.object(store, "update_job", failing),
            mock.patch.object(store, "claim_job", failing),
            self.assertLogs("indico", "WARNING") as logs,
        ):
            self.run_until(lambda: WorkHandler.calls == ["began", "ended"])
            self.assertLess(time.monotonic() - began, config.JOB_LEASE)
            self.io_loop.run_sync(self.pause)
        self.assertEqual(len(logs.records), 1)
        self.assertEqual(self.stored(job)["state"], "running")
        wait_until(lambda: self.find(job) and len(WorkHandler.calls) == 3, "another attempt")
        self.post("job/cancel", {"job": job})

    @slow
    @mock.patch.object(config, "JOB_LEASE", 0.5)
    def test_a_check_that_does_not_return_is_not_waited_for(self) -> None:
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")

        async def hang(*_: Any) -> bool:
            await asyncio.sleep(60)
            return True

        began = time.monotonic()
        with mock.patch.object(store, "update_job", hang):
            self.run_until(lambda: WorkHandler.calls[:2] == ["began", "ended"])
            self.assertLess(time.monotonic() - began, config.JOB_LEASE)
            self.post("job/cancel", {"job": job})

    @slow
    def test_a_worker_that_lost_its_lease_does_not_answer(self) -> None:
        update = store.update_job

        async def hold(*words: Any) -> bool:
            await update(*words)
            return True

        with mock.patch.object(store, "update_job", hold):
            job = self.add("wait", 0.5)
            wait_until(lambda: self.find(job)["progress"], "progress")
            self.database.job.update_one({}, {"$set": {"holder": ObjectId(), "progress": '"other"'}})
            wait_until(lambda: self.find(job) and len(WorkHandler.calls) == 2, "the end of the action")
            self.assertEqual(self.find(job), {"state": "running", "progress": "other"})

    def test_a_job_whose_worker_was_lost_each_time_fails(self) -> None:
        self._app.state.draining = True  # so that it is not claimed yet
        job = self.add("add", {"a": 1})
        self.database.job.update_one({}, {"$set": {"state": "running", "lost": running.MAX_LOST}})
        self._app.state.draining = False
        self.assertEqual(self.wait_for(job)["error"], "The worker ended each time that the job ran")

    def test_an_outcome_is_stored_when_mongodb_is_back(self) -> None:
        update = store.update_job
        failures = [Unavailable("no primary"), Unavailable("no primary")]

        async def fail_twice(*words: Any) -> bool:
            if failures:
                raise failures.pop()
            await update(*words)
            return True

        with (
            mock.patch.object(running, "STORE_SECONDS", 0.01),
            mock.patch.object(store, "update_job", fail_twice),
        ):
            self.assertEqual(self.wait_for(self.add("echo"))["state"], "done")

    def test_an_outcome_that_can_not_be_stored_is_logged(self) -> None:
        failing = mock.AsyncMock(side_effect=[InvalidValue("1"), ValueError("2"), None])
        with (
            mock.patch.object(config, "JOB_LEASE", 0.3),
            mock.patch.object(store, "update_job", failing),
            self.assertLogs("indico", "ERROR") as logged,
        ):
            job = self.add("add", {"a": 1})
            wait_until(lambda: self.find(job) and logged.records, "a second attempt, which is logged")
        self.assertEqual(self.wait_for(job)["state"], "done")


class StopTest(JobsTest):
    @slow
    def test_a_job_that_runs_when_the_server_stops_is_given_back(self) -> None:
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")
        self.io_loop.run_sync(lambda: self._lifespan.__aexit__(None, None, None))
        self.assertEqual((self.stored(job)["state"], WorkHandler.calls), ("waiting", ["began", "ended"]))
        self.assertNotIn("holder", self.stored(job))
        self._lifespan = mock.MagicMock(__aexit__=mock.AsyncMock())

    def test_a_worker_that_is_cancelled_gives_its_jobs_back(self) -> None:
        with mock.patch.object(config, "JOB_WORKERS", 1):
            worker = jobs.worker.Worker(dict(jobs.worker.find_jobs(self._app.routes)))
            held = [self.add("wait", 60), self.add("wait", 60)]
            task = self.io_loop.asyncio_loop.create_task(worker(self._app))  # type: ignore[attr-defined]
            for job in held:
                wait_until(lambda: self.find(job)["progress"], "progress")  # noqa: B023
            self._app.state.draining = True  # so that it is not claimed again
            task.cancel()
            self.io_loop.run_sync(lambda: asyncio.wait([task]))
        self.assertEqual(sorted(self.stored(job)["state"] for job in held), ["running", "waiting"])

    def test_a_process_without_workers_runs_none(self) -> None:
        worker = jobs.worker.Worker(dict(jobs.worker.find_jobs(self._app.routes)))
        with mock.patch.object(config, "JOB_WORKERS", 0):
            self.io_loop.run_sync(lambda: worker(self._app))

    @slow
    def test_a_job_that_is_aborted_twice_is_given_back(self) -> None:
        """By the end of the server, and by the end of the worker."""
        job = self.add("wait", 60)
        wait_until(lambda: self.find(job)["progress"], "progress")
        self._app.state.draining = True  # so that it is not claimed again
        [run] = self._app.state.in_flight
        update = store.update_job

        async def update_slowly(*arguments: Any) -> None:
            await self.pause(0.1)
            await update(*arguments)

        async def abort() -> None:
            run.abort_with(Unavailable("The server is stopping"))
            await self.pause(0.05)
            run.abort_with(Unavailable("The server is stopping"))
            await self.pause(0.2)

        with mock.patch.object(store, "update_job", update_slowly):
            self.io_loop.run_sync(abort)
        self.assertEqual(self.stored(job)["state"], "waiting")

    @slow
    def test_a_server_that_is_going_down_claims_nothing(self) -> None:
        self._app.state.draining = True
        self.io_loop.run_sync(lambda: self.pause(0.1))  # a look for jobs may be under way
        job = self.add("add", {"a": 1})
        self.io_loop.run_sync(self.pause)
        self.assertEqual(self.stored(job)["state"], "waiting")


class ScheduleTest(JobsTest):
    routes = [AuthRoute, CleanRoute]

    def test_one_worker_of_all_runs_it_for_each_time(self) -> None:
        other = jobs.worker.Worker(dict(jobs.worker.find_jobs(self._app.routes)))
        task = self.io_loop.asyncio_loop.create_task(other(self._app))  # type: ignore[attr-defined]
        for hour in range(3):
            with mock.patch.object(time, "time", return_value=time.time() + 3600 * hour):
                self.run_until(lambda: len(CleanHandler.calls) == hour + 1)  # noqa: B023
        self.io_loop.run_sync(self.pause)
        task.cancel()
        self.assertEqual(CleanHandler.calls, 3 * [(7, "", [])])
        slots = [document["slot"] for document in self.database.job.find().sort("created")]
        self.assertEqual(len(slots), 3)
        self.assertRegex(slots[0], r"clean\.clean \d+00$")

    @slow
    def test_it_is_kept_until_its_time_is_over(self) -> None:
        self.run_until(lambda: bool(CleanHandler.calls))
        with mock.patch.object(config, "JOB_LIFETIME", 1):
            self.database.job.update_one({}, {"$unset": {"slot": 1}})
            worker = get_worker(self._app)
            assert worker is not None
            worker._slots.clear()
            self.run_until(lambda: len(CleanHandler.calls) == 2)
            self.io_loop.run_sync(self.pause)
        document = self.database.job.find_one({"slot": {"$exists": True}})
        assert document is not None
        self.assertEqual((document["expires"] - document["ended"]).total_seconds(), 7200)

    def test_clients_can_not_call_it(self) -> None:
        answer = self.post("clean/clean", {"days": 1})
        self.assertEqual(answer, {"status": 404, "data": "clean route could not be found"})
        self.io_loop.run_sync(self.pause)
        self.assertEqual(self.database.job.count_documents({}), 1)


class UnusedTest(ServerTest):
    routes = [AuthRoute]
    stores = False

    def test_without_an_action_it_changes_nothing(self) -> None:
        self.assertIsNone(get_worker(self._app))
        self.assertEqual(self.post("job/find", {"job": "1"})["status"], 404)


class LateTest(ServerTest):
    routes = [AuthRoute]

    def get_app(self) -> Application:
        application = super().get_app()
        application.add_handlers(".*", [WorkRoute])
        return application

    def test_a_route_that_is_added_after_the_battery_is_an_error_in_the_log(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        with self.assertLogs("indico", "ERROR") as logs:
            self.assertEqual(self.post("work/add", {"a": 1})["status"], 500)
        self.assertIn("is not in BATTERIES", str(logs.records[0].exc_info))


class MajorityTest(MongoTest):
    @gen_test
    async def test_a_job_is_stored_by_a_majority_whatever_the_uri_says(self) -> None:
        await db.close()
        listener = UpdateListener()
        db.connect(f"{config.MONGODB.rstrip('/')}/?w=1", listeners=[listener])
        await store.add_job("work.add", b"", {})
        self.assertEqual(listener.concerns, [{"w": "majority"}])


class DecoratorTest(StrictTest):
    def test_wrong_arguments_and_places_are_type_errors(self) -> None:
        async def action(self: Any, data: bytes) -> None:
            """Nothing."""

        async def stream(self: Any, data: bytes) -> Any:
            yield 1

        async def take(self: Any, file: Upload) -> None:
            """Nothing."""

        for decorate in (
            lambda: job(retries=-1),
            lambda: job(every=0),
            lambda: job(every=1e9),
            lambda: job(stream),
            lambda: job(unpack("file")(type_check(Upload)(take))),
            lambda: job(job(action)),
            lambda: unpack("data")(job(action)),
        ):
            with self.assertRaises(TypeError):
                decorate()

    def test_the_description_has_202_and_the_id(self) -> None:
        document = OpenAPIDocument()
        document.add("/work/add", WorkHandler.add, WorkHandler, ())
        types = document.describe_types()
        responses = document.paths["/work/add"]["post"]["responses"]
        self.assertNotIn("200", responses)
        self.assertIn("NewJob", json.dumps(responses["202"]))
        self.assertEqual(types["NewJob"]["properties"]["job"]["type"], "string")

    def test_an_action_without_auth_or_every_is_refused(self) -> None:
        class OpenHandler(IndicoHandler):
            @job
            async def go(self, data: bytes) -> None:
                """Nothing."""

        application = Application([(r"/(?P<action>go)", OpenHandler)], database=db)
        with self.assertRaisesRegex(TypeError, "OpenHandler.go needs @auth above @job"):
            install(application)
