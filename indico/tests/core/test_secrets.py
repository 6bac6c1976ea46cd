"""
A run in production with everything that can go wrong, and then a search through all that it wrote.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlsplit

from indico import config
from indico.tests.mocks import LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.graph import APP_SECRET, BROKEN, REFUSED, VALID, graph_in_thread
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.process import ProcessTest, make_environment

SALT = "a-salt-that-nobody-may-see"
PASSWORD = "a-password-that-nobody-may-see"
WRONG = "a-token-that-nobody-may-see"


class SecretsTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        database = start_mongodb()[self.database.name]
        database.command("createUser", "server", pwd=PASSWORD, roles=["readWrite"])
        self.addCleanup(database.command, "dropUser", "server")
        place = urlsplit(config.MONGODB).netloc
        self.settings = {
            "INDICO_ENV": "production",
            "ADDRESS": "127.0.0.1",
            "DEV_TOKEN": "",
            "USER_SALT": SALT,
            "MONGODB": f"mongodb://server:{PASSWORD}@{place}/?authSource={self.database.name}",
        }

    @slow
    def test_no_secret_is_in_anything_that_a_full_run_wrote(self) -> None:
        secrets = [SALT, PASSWORD, APP_SECRET, quote(APP_SECRET, safe=""), VALID, WRONG, *BROKEN, *REFUSED]
        with graph_in_thread() as graph:
            server = self.start(WORKERS="2", **self.settings, **graph.settings)
            for token in (WRONG, *BROKEN, *REFUSED):
                answer = server.post("auth/login", {**LOGIN_DATA, "access_token": token}, {})
                self.assertIn(answer["status"], (401, 503))
            key = server.post("auth/login", {**LOGIN_DATA, "access_token": VALID}, {})["data"]["indico_key"]
        secrets += [key, key[:28], key[28:]]
        headers = {"indico_key": key}
        self.assertEqual(server.post("auth/check", {}, headers)["status"], 200)
        for route in (f"auth/{key}", key, f"auth/check?indico_key={key}", f"user/update/{VALID}#{key}"):
            server.post(route, {}, headers)
        for data in (
            {},
            {"update_user": key},
            {"update_user": {"name": [key]}},
            {"update_user": {key: "\0"}},
        ):
            server.post("user/update", data, headers)
        self.database.user.update_one({}, {"$set": {"odd": sys.maxsize, "user_id": key}})
        server.post("user/find", {}, headers)
        self.assertEqual(server.post("auth/logout", {}, headers)["status"], 200)
        titles = [Path(f"/proc/{pid}/cmdline").read_text() for pid in self.find_processes(server.pid)]
        self.assertEqual(len(titles), 3)
        self.assertEqual(server.stop(), 0)
        written = server.output + "".join(titles)
        self.assertIn("auth.login", written)
        for secret in secrets:
            self.assertNotIn(secret, written)

    def find_processes(self, parent: int) -> list[int]:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return [parent, *map(int, children)]

    @slow
    def test_no_secret_is_in_the_help_or_in_what_refuses_the_start(self) -> None:
        uris = (
            self.settings["MONGODB"].replace("mongodb:", "mongo:"),
            f"mongodb://server:{PASSWORD}@host:port",
            f"mongodb://server:{PASSWORD}@@host",
            f"mongodb://server:{PASSWORD}/@host/?w=x&w=y",
            f"mongodb://server:1/{PASSWORD}@host/?a=b",
            f"mongodb://server:1?{PASSWORD}@host/?a=b",
        )
        for uri in uris:
            with self.subTest(uri):
                output = self.run_server(
                    MONGODB=uri, DEV_TOKEN=WRONG, PORT="x", FACEBOOK_APP_SECRET=APP_SECRET
                )
                self.assertIn("PORT should be", output)
                output += self.run_server(MONGODB=uri)
                for secret in (SALT, PASSWORD, WRONG, APP_SECRET):
                    self.assertNotIn(secret, output)

    @slow
    def test_no_secret_is_in_the_help(self) -> None:
        output = self.run_server("--help", FACEBOOK_APP_SECRET=APP_SECRET)
        self.assertIn("--port", output)
        for secret in (SALT, PASSWORD, APP_SECRET):
            self.assertNotIn(secret, output)

    def run_server(self, *arguments: str, **settings: str) -> str:
        """Whatever it writes before it ends by itself."""
        return subprocess.run(
            [sys.executable, "-m", "indico.server", *arguments],
            cwd=self.folder,
            env=make_environment({**self.settings, **settings}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        ).stdout
