"""
The removal of a user with data in all batteries: nothing is left, also after an outage in its middle.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple

from pymongo.database import Database

from indico import config
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, ServerProcess, wait_until
from indico.tests.testutils.replica import ReplicaSet

NOTES = 5000  # of a user: MongoDB needs about a tenth of a second to delete them
SCRIPT = f"""
from indico import db, server
from indico.batteries.files import StoredFile, save_file
from indico.batteries.idempotency import idempotent
from indico.batteries.jobs import job
from indico.batteries.limit import limit
from indico.db import mongo
from indico.routes.handler import IndicoHandler
from indico.utils import Upload, type_check, unpack
from indico.utils.auth.auth_utils import auth

@mongo
async def insert_notes(user_id: str) -> None:
    await db.mongodb.note.insert_many([{{"user_id": user_id}} for _ in range({NOTES})])

@mongo
async def remove_notes(user_id: str) -> None:
    await db.mongodb.note.delete_many({{"user_id": user_id}})

db.index("note", "user_id")
db.on_remove(remove_notes)

class DataHandler(IndicoHandler):
    @auth
    @unpack("file")
    @type_check(Upload)
    async def upload(self, file: Upload) -> StoredFile:
        return await save_file(file, self.user_id)

    @auth
    @job
    async def work(self, data: bytes) -> str:
        return self.user_id

    @auth
    @limit("100/minute")
    @idempotent
    async def note(self, data: bytes) -> str:
        await insert_notes(self.user_id)
        return self.user_id

server.ROUTES.append((r"/data/(?P<action>[a-zA-Z]+)?", DataHandler))
server.main(debug=False, port=0)
"""
HOLDING = {
    "user",
    "auth",
    "password",
    "password_token",
    "fs.files",
    "job",
    "note",
    "idempotency",
}  # user's data
PASSWORD = "correct horse"
PART = b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
BODY = b"--boundary\r\n" + PART + 600_000 * b"a" + b"\r\n--boundary--"
FORM = {"Content-Type": "multipart/form-data; boundary=boundary", "Content-Length": str(len(BODY))}


class Account(NamedTuple):
    user_id: str
    email: str
    headers: dict[str, str]


@slow
class RemovalTest(ProcessTest):
    def start_server(self, **settings: str) -> ServerProcess:
        return self.start(script=SCRIPT, PUBLIC_URL="https://app.example.com", JOB_WORKERS="1", **settings)

    def make_account(self, server: ServerProcess, number: int) -> Account:
        """Register a user, and let each battery store something of this user."""

        def ask(route: str, data: Any, headers: dict[str, str]) -> Any:
            answer = server.fetch(route, data, headers)
            self.assertIn(answer.status, (200, 202), (route, answer))
            return answer.data

        email = f"user{number}@example.com"
        mails = server.output.count("verify?token=")
        ask("password/register", {"email": email, "password": PASSWORD, "user": {}}, {})
        server.wait_for("verify?token=", mails + 1)
        token = re.findall(r"verify\?token=([\w-]+)", server.output)[-1]
        ask("password/verify", {"token": token}, {})
        login = ask("password/login", {"email": email, "password": PASSWORD}, {})
        headers = {"indico_key": login["indico_key"]}
        ask("password/forgot", {"email": email}, {})
        ask("key/create", {"name": "backup"}, headers)
        ask("data/work", {}, headers)
        ask("data/note", {}, {**headers, "Idempotency-Key": "1"})
        account = Account(login["user"]["user_id"], email, headers)
        self.assertEqual(self.upload(server, account), 200)
        return account

    def upload(self, server: ServerProcess, account: Account, meanwhile: Callable[[], Any] = bool) -> int:
        """Upload a file, call `meanwhile` in the middle of the body, and return the status."""
        with closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            connection.putrequest("POST", "/data/upload")
            for name, value in {**account.headers, **FORM}.items():
                connection.putheader(name, value)
            connection.endheaders(BODY[:-10])
            meanwhile()
            connection.send(BODY[-10:])
            return connection.getresponse().status

    def find_traces(self, database: Database[Any], account: Account) -> set[str]:
        """Return the collections that have a document with the user's id or address, in whatever field."""
        names = database.list_collection_names()
        return {name for name in names for found in database[name].find() if is_of(account, found)}

    def assert_gone(self, database: Database[Any], server: ServerProcess, account: Account) -> None:
        self.assertEqual(self.find_traces(database, account), set())
        chunks = {chunk["files_id"] for chunk in database["fs.chunks"].find()}
        self.assertEqual(chunks, {file["_id"] for file in database["fs.files"].find()})
        self.assertEqual(server.fetch("auth/check", None, account.headers).status, 401)

    def test_nothing_is_left_of_what_all_batteries_have_and_nobody_else_loses_any(self) -> None:
        server = self.start_server()
        account, other = (self.make_account(server, number) for number in range(2))
        for each in (account, other):
            self.assertEqual(self.find_traces(self.database, each), HOLDING)
        self.assertEqual(server.fetch("user/remove", None, account.headers).status, 200)
        self.assert_gone(self.database, server, account)
        self.assertEqual(self.find_traces(self.database, other), HOLDING)
        self.assertEqual(self.database.note.count_documents({}), NOTES)

    def test_an_upload_that_ends_after_the_removal_leaves_nothing(self) -> None:
        server = self.start_server()
        account = self.make_account(server, 0)

        def remove() -> None:
            time.sleep(0.5)  # the server waits for the end of the body
            self.assertEqual(server.fetch("user/remove", None, account.headers).status, 200)

        self.assertEqual(self.upload(server, account, remove), 404)
        wait_until(lambda: not self.database["fs.chunks"].find_one(), "the end of the pieces")
        self.assert_gone(self.database, server, account)

    def test_a_removal_in_whose_middle_mongodb_goes_away_is_sent_again_until_nothing_is_left(self) -> None:
        with ReplicaSet(count=1) as replica:
            [member] = replica.members
            server = self.start_server(MONGODB=replica.uri, MONGODB_TIMEOUT="2")
            database = member.client[config.MONGODB_DATABASE]
            for number, fault in enumerate(("kill", "hang", "kill")):
                account = self.make_account(server, number)
                self.assertEqual(self.find_traces(database, account), HOLDING)
                with ThreadPoolExecutor(1) as pool:
                    removal = pool.submit(server.fetch, "user/remove", None, account.headers)
                    wait_until(lambda: database.note.estimated_document_count() < NOTES, "the middle")
                    member.kill() if fault == "kill" else member.hang()
                    self.assertEqual(removal.result().status, 503)
                if fault == "kill":
                    replica.restart_members()
                    left = self.find_traces(database, account)
                    self.assertEqual(("user" in left, "auth" in left), (False, True))
                else:
                    member.resume()
                statuses: list[int] = []

                def remove(headers: dict[str, str] = account.headers, to: list[int] = statuses) -> bool:
                    to.append(server.fetch("user/remove", None, headers).status)
                    return to[-1] != 503

                wait_until(remove, "a removal")
                self.assertEqual(statuses[-1], 200, statuses)
                self.assert_gone(database, server, account)
            self.assertNotIn("Traceback", server.output)


def is_of(account: Account, document: dict[str, Any]) -> bool:
    text = repr(document)
    return account.user_id in text or account.email in text
