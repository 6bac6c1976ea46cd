"""
`python -m indico.worker`, and jobs whose workers, servers and MongoDB are killed.

JOBS in the environment is how many jobs the last test runs: 100 by default.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import threading
import time
from collections import Counter
from typing import Any
from unittest import mock

from bson.objectid import ObjectId
from pymongo import MongoClient

from indico import worker
from indico.core.commands.worker import main
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    ProcessTest,
    ServerProcess,
    linux,
    report_figures,
    run_main,
    wait_until,
)
from indico.tests.testutils.replica import ReplicaSet
from indico.tests.testutils.strict import StrictTest

JOBS = int(os.environ.get("JOBS") or 100)
THREADS = 4
PATIENCE = 1200  # seconds
READY = "A worker is ready for jobs"
SCRIPT = """
import asyncio, os, sys
from indico import db, server
from indico.batteries.jobs import job
from indico.core.commands import worker
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

class TaskHandler(IndicoHandler):
    @auth
    @job(retries=20)
    @unpack("number", seconds=0.02)
    @type_check(int, float)
    async def run(self, number, seconds):
        await db.mongo(insert)("begun", number)
        await asyncio.sleep(seconds)
        await db.mongo(insert)("done", number)
        return os.getpid()

async def insert(collection, number):
    await db.mongodb[collection].insert_one({"number": number})

server.ROUTES.append((r"/task/(?P<action>[a-zA-Z]+)?", TaskHandler))
if sys.argv[1:] == ["worker"]:
    worker.main([])
else:
    server.main(debug=False, port=0)
"""


class MainTest(StrictTest):
    def test_without_jobs_there_is_nothing_to_run(self) -> None:
        with self.assertRaisesRegex(SystemExit, "No action has @job"):
            run_main(worker)

    def test_a_wrong_setting_is_one_sentence(self) -> None:
        from indico import config

        wrong = config.SettingError("MONGODB can't be used")
        with (
            mock.patch("indico.batteries.jobs.get_worker"),
            mock.patch("indico.core.commands.worker.check_settings", side_effect=wrong),
            self.assertRaisesRegex(SystemExit, "MONGODB can't be used"),
        ):
            main([])


class WorkerTest(ProcessTest):
    def start_worker(self, **settings: str) -> ServerProcess:
        process = self.launch("worker", script=SCRIPT, **settings)
        process.wait_for(READY)
        return process

    def start_server(self, **settings: str) -> ServerProcess:
        return self.start(script=SCRIPT, **settings)

    def find(self, job: str) -> Any:
        return self.database.job.find_one({"_id": ObjectId(job)})

    def test_it_runs_the_jobs_of_a_server_and_ends_with_sigterm(self) -> None:
        server = self.start_server(JOB_WORKERS="0")
        process = self.start_worker(JOB_WORKERS="0")
        server.post("auth/login", LOGIN_DATA)
        job = server.post("task/run", {"number": 1})["data"]["job"]
        wait_until(lambda: self.find(job)["state"] == "done", "the end of the job")
        self.assertEqual(server.post("job/find", {"job": job})["data"]["result"], process.pid)
        self.assertEqual(process.stop(), 0, process.output)

    @slow
    @linux
    def test_a_worker_that_was_stopped_for_two_leases_does_not_answer_over_the_other(self) -> None:
        settings = {"JOB_LEASE": "2"}
        server = self.start_server(JOB_WORKERS="0")
        first = self.start_worker(**settings)
        server.post("auth/login", LOGIN_DATA)
        job = server.post("task/run", {"number": 1, "seconds": 1.5})["data"]["job"]
        wait_until(lambda: self.database.begun.count_documents({}) == 1, "the first attempt")
        first.send(signal.SIGSTOP)
        second = self.start_worker(**settings)
        began = time.monotonic()
        wait_until(lambda: self.database.begun.count_documents({}) == 2, "the second attempt")
        time.sleep(max(0, began + 4 - time.monotonic()))
        first.send(signal.SIGCONT)
        wait_until(lambda: self.find(job)["state"] == "done", "the end of the job")
        time.sleep(3)  # the first one could answer now
        self.assertEqual(server.post("job/find", {"job": job})["data"]["result"], second.pid)
        self.assertEqual(self.find(job)["lost"], 1)
        report_figures(self, "1 worker stopped for two leases")


@slow
@linux
class KillTest(ProcessTest):
    def test_each_acknowledged_job_is_done_while_everything_is_killed_in_turn(self) -> None:
        with ReplicaSet() as replica:
            settings = {"MONGODB": replica.uri, "MONGODB_TIMEOUT": "2", "JOB_LEASE": "3"}
            client: MongoClient[dict[str, Any]] = MongoClient(replica.uri)
            self.addCleanup(client.close)
            database = client[self.database.name]
            servers = [self.start(script=SCRIPT, **settings) for _ in range(2)]
            workers = [self.launch("worker", script=SCRIPT, **settings) for _ in range(3)]
            for process in workers:
                process.wait_for(READY)
            servers[0].post("auth/login", LOGIN_DATA)
            acknowledged, kills = dict[int, str](), Counter[str]()  # ids of jobs by numbers of requests
            ports = [server.port for server in servers]
            left, requests = iter(range(JOBS)), itertools.count()

            def post_jobs() -> None:
                for _ in left:
                    answer = None
                    while answer is None:
                        number = next(requests)  # another one if it is sent again
                        data = {"number": number, "seconds": 0.02 if number % 5 else 0.5}
                        answer = self.try_to_post(ports[number % 2], data)
                        if answer is None:
                            time.sleep(0.2)
                    acknowledged[number] = answer

            threads = [threading.Thread(target=post_jobs) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            turn, deadline = 0, time.monotonic() + PATIENCE
            while turn < 6 or any(map(threading.Thread.is_alive, threads)) or self.count_active(database):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(1)
                victim = turn % 6
                if victim < 2:
                    servers[victim].stop(signal.SIGKILL)
                    servers[victim] = self.start(script=SCRIPT, **settings)
                    ports[victim] = servers[victim].port
                    kills["servers"] += 1
                elif victim < 5:
                    workers[victim - 2].stop(signal.SIGKILL)
                    workers[victim - 2] = self.launch("worker", script=SCRIPT, **settings)
                    workers[victim - 2].wait_for(READY)
                    kills["workers"] += 1
                else:
                    replica.wait_for_primary().kill()
                    kills["primaries"] += 1
                    replica.wait_for_primary()
                    replica.restart_members()
                turn += 1
            for thread in threads:
                thread.join()
            states = {str(job["_id"]): job["state"] for job in database.job.find()}
            begun, done = (
                Counter(each["number"] for each in database[name].find()) for name in ("begun", "done")
            )
            repeated, twice = (sum(count > 1 for count in counts.values()) for counts in (begun, done))
            report_figures(
                self,
                f"{JOBS} jobs acknowledged, {next(requests) - JOBS} requests sent again, {len(states)} jobs"
                f" stored; killed {dict(kills)}; states {dict(Counter(states.values()))};"
                f" {repeated} jobs began more than once, {twice} of them ran to the end more than once",
            )
            self.assertEqual(len(acknowledged), JOBS)
            self.assertEqual(set(states.values()), {"done"})
            self.assertLessEqual(set(acknowledged.values()), set(states))
            self.assertLessEqual(set(acknowledged), set(done))

    def count_active(self, database: Any) -> int:
        return int(database.job.count_documents({"due": {"$exists": True}}))

    def try_to_post(self, port: int, data: Any) -> str | None:
        """Return the id of the job, or None if it is not acknowledged."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("POST", "/task/run", json.dumps(data), HEADERS)
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        self.assertIn(answer["status"], (202, 503), answer)
        return str(answer["data"]["job"]) if answer["status"] == 202 else None
