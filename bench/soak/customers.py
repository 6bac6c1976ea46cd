"""
What honest clients of the soak do with the batteries. They know what each response should be.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from typing import Any

from bench.mongodb import TOKEN
from bench.soak.client import Client, Notes, Response
from bench.soak.mails import Mails

MOST = 5  # calls of the action with a limit in a minute
LOGIN_INTERVAL = 8  # seconds, within LOGIN_RATE
KEY_SECONDS = 1.5  # that KEY_CACHE may accept a key after its end, and half a second
PASSWORDS = ("correct horse", "battery staple")
FILE_SIZE = 300_000  # bytes: two chunks


class Customer:
    """A user whose key never ends, and an account with a password. It notes what is not right."""

    def __init__(self, number: int, notes: Notes, mails: Mails) -> None:
        self._oauth_id = f"customer-{number}"
        self._notes = notes
        self.counts: Counter[str] = Counter()
        self._mails = mails
        self._key = ""
        self.jobs: dict[str, int] = {}  # that were acknowledged and are not known to be done: their numbers
        self._minute = self._sent = self._counted = 0  # of the action with a limit
        self._account: tuple[str, str] | None = None  # address and password
        self._next_login = 0.0
        self._logins = 0

    def visit(self, client: Client) -> None:
        """Use each battery once."""
        if not self._key:
            login = {"access_token": TOKEN, "oauth_id": self._oauth_id, "user": {}}
            response = client.post("auth/login", login)
            if response.status != 200:
                return
            self._key = response.data["indico_key"]
        self._compute(client)
        self._add_job(client)
        self._reach_limit(client)
        self._repeat_request(client)
        self._keep_file(client)
        if time.monotonic() > self._next_login:
            self._next_login = time.monotonic() + LOGIN_INTERVAL
            self._use_password(client)
        self.find_jobs(client)

    def _post(self, client: Client, route: str, data: Any = None, **headers: str) -> Response:
        """Send a request with the user's key, which is valid."""
        response = client.post(route, data, self._key, headers)
        self._check(response.status != 401, f"{route}: 401 with a valid key")
        return response

    def _check(self, is_right: bool, text: str) -> None:
        if not is_right:
            self._notes.wrong.append(f"{self._oauth_id}: {text}")

    def _compute(self, client: Client) -> None:
        number = random.randrange(1000)
        response = self._post(client, "soak/think", {"number": number})
        if response.status == 200:
            self._check(response.data == number**2, f"the square of {number} is {response.data}")

    def _add_job(self, client: Client) -> None:
        number = random.randrange(1000)
        response = self._post(client, "soak/work", {"number": number})
        if response.status == 202:
            self.jobs[response.data["job"]] = number
            self.counts["jobs acknowledged"] += 1

    def find_jobs(self, client: Client) -> None:
        """Ask for all jobs that have not ended yet."""
        for job, number in list(self.jobs.items()):
            response = self._post(client, "job/find", {"job": job})
            if response.status != 200 or response.data["state"] in ("waiting", "running"):
                continue
            del self.jobs[job]
            expected = {"state": "done", "progress": 0.5, "result": number**2}
            self._check(response.data == expected, f"job {job} of {number}: {response.data}")
            self.counts["jobs done"] += response.data == expected

    def _reach_limit(self, client: Client) -> None:
        """Of the requests in a minute, the first MOST are allowed. Those without a response may count."""
        for _ in range(MOST + 1):
            minute = int(time.time() // 60)
            if minute != self._minute:
                self._minute, self._sent, self._counted = minute, 0, 0
            self._sent += 1
            try:
                status = self._post(client, "soak/limited").status
            finally:
                now = int(time.time() // 60)
                if now != minute:  # it may count in either
                    self._minute, self._sent, self._counted = now, 1, 0
            if now == minute and status in (200, 429):
                self._check(status == 429 or self._counted < MOST, f"call {self._counted + 1} was allowed")
                self._check(status == 200 or self._sent > MOST, f"call {self._sent} was not allowed")
                self._counted += 1
                self.counts["calls above the limit"] += status == 429

    def _repeat_request(self, client: Client) -> None:
        """Send a request several times with one key, and then another body with it."""
        key, found = random.randbytes(8).hex(), set()
        for _ in range(3):
            response = self._post(client, "soak/once", {"number": 1}, **{"Idempotency-Key": key})
            if response.status == 200:
                found.add(response.data)
            else:
                time.sleep(0.3)
        self._check(len(found) < 2, f"one Idempotency-Key, and the responses {found}")
        if found:
            self.counts["requests repeated"] += 1
            response = self._post(client, "soak/once", {"number": 2}, **{"Idempotency-Key": key})
            self._check(response.status in (422, 503), f"another body: {response.status}")

    def _keep_file(self, client: Client) -> None:
        content = random.randbytes(FILE_SIZE)
        stored = client.upload("soak/keep", "file", content, self._key)
        if stored.status != 200:
            return
        name = stored.data["file"]
        found = client.get_file(name, self._key)
        self._check(found.status == 503 or found.content == content, f"a file that differs: {found.status}")
        if self._post(client, "soak/discard", {"file": name}).status == 200:
            status = client.get_file(name, self._key).status
            self._check(status in (404, 503), f"a removed file: {status}")

    def _use_password(self, client: Client) -> None:
        if self._account is None:
            self._register(client)
        if self._account is None:  # there was no mail, or no response
            return
        address, password = self._account
        login = client.post("password/login", {"email": address, "password": password})
        self._check(login.status in (200, 503), f"a login with the right password: {login.status}")
        if login.status == 200:
            self._logins += 1
            key = login.data["indico_key"]
            client.post("auth/check", None, key)
            if self._logins % 2:
                self._reset_password(client, key)

    def _register(self, client: Client) -> None:
        address = f"{self._oauth_id}-{random.randbytes(4).hex()}@example.com"
        account = {"email": address, "password": PASSWORDS[0]}
        if client.post("password/register", {**account, "user": {}}).status == 200:
            token = self._mails.take_token(address)
            if token and client.post("password/verify", {"token": token}).status == 200:
                self._account = address, PASSWORDS[0]

    def _reset_password(self, client: Client, key: str) -> None:
        """Set another password by mail. It ends the key of the last login."""
        assert self._account is not None
        address, password = self._account
        if client.post("password/forgot", {"email": address}).status != 200:
            return
        token = self._mails.take_token(address)
        if token is None:
            return
        new = PASSWORDS[1 - PASSWORDS.index(password)]
        self._account = None  # until the response, either password may be valid
        if client.post("password/reset", {"token": token, "password": new}).status == 200:
            self._account = address, new
            time.sleep(KEY_SECONDS)
            status = client.post("auth/check", None, key).status
            self._check(status in (401, 503), f"a key before the reset: {status}")
            self.counts["passwords reset"] += 1
