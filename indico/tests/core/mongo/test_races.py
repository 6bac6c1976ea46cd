"""
Two servers at once: what holds when logins, logouts and removals of one user race.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from typing import Any

from indico.tests.mocks import LOGIN_DATA, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, ServerProcess

NOT_AUTHENTICATED = {"status": 401, "data": "User not authenticated"}
TRUE = {"status": 200, "data": True}
LOGINS = 60
THREADS = 8
ROUNDS = 12  # for each thread


@slow
class RaceTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        self.servers = [self.launch(), self.launch()]
        for server in self.servers:
            server.wait_ready()

    def call(self, server: ServerProcess, route: str, key: str) -> Any:
        return server.post(route, {}, {"indico_key": key})

    def login(self, server: ServerProcess) -> Any:
        answer = server.post("auth/login", LOGIN_DATA, {})
        self.assertEqual(answer["status"], 200)
        return answer["data"]

    def race(self, run: Any, times: int, threads: int) -> list[Any]:
        """Call `run` with each server in turn, in so many threads."""
        with ThreadPoolExecutor(threads) as executor:
            return list(executor.map(run, [server for server, _ in zip(cycle(self.servers), range(times))]))

    def test_many_first_logins_at_once_make_one_user_one_key_and_one_created(self) -> None:
        answers = self.race(self.login, LOGINS, threads=LOGINS)
        self.assertEqual(len(answers), LOGINS)
        for answer in answers:
            self.assertEqual(answer, answers[0])
        self.assertEqual(answers[0]["indico_key"], USER_KEY)
        self.assertEqual(self.database.user.count_documents({}), 1)
        self.assertEqual(self.database.auth.count_documents({}), 1)

    def test_no_key_that_a_logout_ended_ever_opens_anything_again(self) -> None:
        ended: set[str] = set()

        def come_and_go(server: ServerProcess) -> None:
            other = self.servers[0] if server is self.servers[1] else self.servers[1]
            for _ in range(ROUNDS):
                dead = list(ended)
                key = self.login(server)["indico_key"]
                self.assertNotIn(key, dead)
                if self.call(other, "auth/logout", key) == TRUE:
                    ended.add(key)
                for old in {key, *dead[-3:]} & ended:
                    self.assertEqual(self.call(server, "user/find", old), NOT_AUTHENTICATED)

        self.race(come_and_go, THREADS, THREADS)
        self.assertGreater(len(ended), ROUNDS)
        for key in ended:
            for server in self.servers:
                self.assertEqual(self.call(server, "auth/check", key), NOT_AUTHENTICATED)
        [document] = self.database.auth.find()
        self.assertEqual(document["generation"], len(ended))

    def test_a_key_that_outlives_a_race_with_removals_has_its_user(self) -> None:
        def come_and_vanish(server: ServerProcess) -> None:
            for _ in range(ROUNDS):
                key = self.login(server)["indico_key"]
                self.call(server, "user/remove", key)
                self.assertEqual(self.call(server, "user/update", key), NOT_AUTHENTICATED)

        def come_and_stay(server: ServerProcess) -> str:
            return str([self.login(server) for _ in range(ROUNDS)][-1]["indico_key"])

        with ThreadPoolExecutor(THREADS) as executor:
            vanishing = [executor.submit(come_and_vanish, server) for server in self.servers * 2]
            staying = [executor.submit(come_and_stay, server) for server in self.servers * 2]
            for future in vanishing:
                future.result()
            keys = {future.result() for future in staying}
        for key in keys:
            if self.call(self.servers[0], "auth/check", key) == TRUE:
                self.assertEqual(self.call(self.servers[1], "user/find", key)["status"], 200)
        self.assertLessEqual(self.database.user.count_documents({}), 1)
        self.assertEqual(self.database.auth.count_documents({}), 1)
