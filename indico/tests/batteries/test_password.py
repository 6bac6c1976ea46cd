"""
Users with an e-mail address and a password: accounts, links and mails.
"""

from __future__ import annotations

import asyncio
import json
import re
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime, timedelta
from email.message import Message
from io import StringIO
from typing import Any
from unittest import mock

import aiosmtplib
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from tornado.testing import bind_unused_port

from indico import config, db
from indico.batteries import password
from indico.batteries.password import accounts, hashing, mail
from indico.core.hooks import Application
from indico.db.auth_db import digest
from indico.routes.auth import AuthRoute
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.server import BATTERIES, make_app
from indico.tests.batteries.password_mails import MailServer
from indico.tests.mocks import HEADERS, LOGIN_DATA
from indico.tests.testutils import slow
from indico.tests.testutils.process import (
    ProcessTest,
    ServerProcess,
    linux,
    read_peak,
    report_figures,
    wait_until,
)
from indico.tests.testutils.replica import ReplicaSet
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth.key_utils import end_all_keys, remove_user

EMAIL = "ada@example.com"
PASSWORD = "correct horse"
OTHER = "battery staple"
REFUSED = {"status": 401, "data": "E-mail or password invalid"}
INVALID = {"status": 400, "data": "Token invalid"}
TRUE = {"status": 200, "data": True}
CHEAP = Argon2Hasher(1, 8, 1)


class PasswordTest(ServerTest):
    routes = [AuthRoute, UserRoute, KeyRoute]
    stores = ("auth", "password", "password_token", "user")

    def get_app(self) -> Application:
        self.mail_server = MailServer()
        self.set(config, "PUBLIC_URL", "https://app.example.com/")
        self.set(config, "MAIL_URL", self.io_loop.run_sync(self.mail_server.start))
        self.addCleanup(self.mail_server.stop)
        self.set_hasher(CHEAP)
        return make_app(routes=self.routes)

    def set_hasher(self, hasher: Argon2Hasher) -> None:
        self.set(hashing, "get_hasher", lambda: PasswordHash([hasher]))
        self.set(hashing, "NO_HASH", hashing.NO_HASH.replace("m=65536,t=3,p=4", "m=8,t=1,p=1"))

    def ask(self, action: str, headers: Any = (), **data: Any) -> Any:
        return self.post(f"password/{action}", data, dict(headers))

    def run_until(self, condition: Callable[[], object]) -> None:
        async def poll() -> None:
            while not condition():
                await asyncio.sleep(0.01)

        self.io_loop.run_sync(poll, 10)

    def wait_mail(self, number: int = 1) -> Message:
        """Return the mail of this number."""
        self.run_until(lambda: len(self.mail_server.mails) >= number)
        return self.mail_server.mails[number - 1]

    def read_token(self, number: int = 1, name: str = "verify") -> str:
        text = str(self.wait_mail(number).get_payload(decode=True))
        [token] = re.findall(rf"https://app\.example\.com/{name}\?token=([\w-]+)", text)
        return str(token)

    def register(self, **data: Any) -> str:
        """Register, and return the token of the mail."""
        number = len(self.mail_server.mails) + 1
        answer = self.ask(
            "register", **{"email": EMAIL, "password": PASSWORD, "user": {"name": "Ada"}, **data}
        )
        self.assertEqual(answer, TRUE)
        return self.read_token(number)

    def make_account(self, **data: Any) -> None:
        self.assertEqual(self.ask("verify", token=self.register(**data)), TRUE)

    def forget(self) -> str:
        """Ask for a new password, and return the token of the mail."""
        number = len(self.mail_server.mails) + 1
        self.assertEqual(self.ask("forgot", email=EMAIL), TRUE)
        return self.read_token(number, "reset")

    def log_in(self, password: str = PASSWORD, email: str = EMAIL) -> Any:
        return self.ask("login", email=email, password=password)

    def get_key(self) -> dict[str, str]:
        return {"indico_key": self.log_in()["data"]["indico_key"]}

    def count(self, collection: str, **query: Any) -> int:
        return self.database[collection].count_documents(query)


class RegisterTest(PasswordTest):
    def test_after_the_link_a_login_answers_with_the_user_and_a_key(self) -> None:
        token = self.register(email=" Ada@Example.COM ")
        self.assertEqual(self.log_in(), REFUSED)
        self.assertEqual(self.ask("verify", token=token), TRUE)
        login = self.log_in(email="ADA@example.com ")["data"]
        self.assertRegex(login["user"]["user_id"], "^password[0-9a-f]{32}$")
        self.assertEqual((login["user"]["name"], login["user"]["email"]), ("Ada", EMAIL))
        self.assertEqual(self.post("auth/check", None, {"indico_key": login["indico_key"]}), TRUE)

    def test_the_mail_is_from_us_and_goes_to_the_address_alone(self) -> None:
        self.register()
        message = self.wait_mail()
        self.assertEqual((message["From"], message["To"]), ("noreply@app.example.com", EMAIL))
        self.set(config, "MAIL_FROM", "Shop <shop@example.com>")
        self.register()
        self.assertEqual(self.wait_mail(2)["From"], "Shop <shop@example.com>")

    @slow
    def test_an_address_with_an_account_gets_a_mail_that_says_so_and_nothing_changes(self) -> None:
        self.make_account()
        self.assertEqual(self.ask("register", email=EMAIL, password=OTHER, user={}), TRUE)
        self.assertEqual(self.wait_mail(2)["Subject"], "You have an account")
        self.assertNotIn("token=", str(self.wait_mail(2).get_payload(decode=True)))
        self.assertEqual(self.log_in(OTHER), REFUSED)
        self.assertEqual(self.log_in()["status"], 200)

    def test_an_address_is_taken_by_the_registration_that_is_verified_first(self) -> None:
        first = self.register(user={"name": "Eve", "location": "London"})
        second = self.register(password=OTHER)
        self.assertEqual(self.ask("verify", token=second), TRUE)
        self.assertEqual(self.ask("verify", token=first), INVALID)
        self.assertEqual(self.log_in(), REFUSED)
        user = self.log_in(OTHER)["data"]["user"]
        self.assertEqual((user["name"], user.get("location")), ("Ada", None))
        self.assertEqual((self.count("user"), self.count("password_token")), (1, 0))

    def test_of_two_registrations_verified_at_once_one_leaves_nothing(self) -> None:
        tokens = [self.register(user={"name": str(number)}) for number in range(2)]
        answers = self.verify_at_once(*tokens)
        self.assertEqual(sorted(answers), [200, 400])
        self.assertEqual((self.count("user"), self.count("password")), (1, 1))
        self.assertEqual(self.log_in()["data"]["user"]["name"], str(answers.index(200)))

    def test_a_link_that_is_used_twice_at_once_makes_one_account(self) -> None:
        token = self.register()
        self.assertEqual(sorted(self.verify_at_once(token, token)), [200, 400])
        self.assertEqual((self.count("user"), self.count("password")), (1, 1))
        self.assertEqual(self.log_in()["data"]["user"]["name"], "Ada")

    def verify_at_once(self, *tokens: str) -> list[int]:
        """Use these links so that each has found its token before the other makes its account."""
        barrier = asyncio.Barrier(len(tokens))
        insert = accounts.insert

        async def wait_and_insert(account: Any) -> bool:
            await barrier.wait()
            return bool(await insert(account))

        async def verify() -> list[int]:
            url = self.get_url("/password/verify")
            bodies = [json.dumps({"token": token}) for token in tokens]
            asked = [
                self.http_client.fetch(url, method="POST", body=body, raise_error=False) for body in bodies
            ]
            return [response.code for response in await asyncio.gather(*asked)]

        with mock.patch.object(accounts, "insert", wait_and_insert):
            codes: list[int] = self.io_loop.run_sync(verify)
        return codes

    def test_what_only_the_server_sets_is_ignored(self) -> None:
        self.make_account(user={"user_id": "facebook1", "created": 1, "roles": ["admin"]})
        user = self.log_in()["data"]["user"]
        self.assertTrue(user["user_id"].startswith("password"))
        self.assertGreater(user["created"], 1)
        self.assertNotIn("roles", user)

    def test_an_address_gets_five_mails_of_a_kind_at_most(self) -> None:
        self.make_account()
        for action, data in (("register", {"password": PASSWORD, "user": {}}), ("forgot", {})):
            before = len(self.mail_server.mails)
            for _ in range(6):
                self.assertEqual(self.ask(action, email=EMAIL, **data), TRUE)
            self.wait_mail(before + 5)
        self.io_loop.run_sync(lambda: asyncio.sleep(0.05))
        self.assertEqual(len(self.mail_server.mails), 11)

    def test_fields_that_can_not_be_used_are_a_400(self) -> None:
        good: dict[str, Any] = {"email": EMAIL, "password": PASSWORD, "user": {}}
        emails = (
            "",
            "ada",
            "ada@example",
            "a b@example.com",
            "a@b@example.com",
            "a\n@example.com",
            "ä@example.com",
        )
        bad: Any
        for bad in (
            *({"email": email} for email in (*emails, 250 * "a" + "@example.com", 7)),
            *({"password": text} for text in ("1234567", 1025 * "x", None)),
            {"user": []},
            {"user": {"name": 7}},
            {"user": {"name": 300_000 * "x"}},
        ):
            with self.subTest(bad):
                self.assertEqual(self.ask("register", **{**good, **bad})["status"], 400)
        self.assertEqual(self.count("password_token"), 0)

    def test_passwords_of_8_and_of_1024_characters_can_be_used(self) -> None:
        for number, text in enumerate(("12345678", 1024 * "ä")):
            email = f"{number}@example.com"
            self.make_account(email=email, password=text)
            self.assertEqual(self.log_in(text, email)["status"], 200)
            self.assertEqual(self.log_in(text[:-1], email), REFUSED)

    def test_passwords_and_tokens_are_not_stored(self) -> None:
        tokens = [self.register()]
        self.make_account(email="bob@example.com")
        stored = str([list(self.database[name].find()) for name in ("password", "password_token")])
        for secret in (PASSWORD, *tokens):
            self.assertNotIn(secret, stored)
        indexes = self.database.password_token.index_information()
        self.assertEqual(indexes["expires_1"]["expireAfterSeconds"], 0)


class TokenTest(PasswordTest):
    @slow
    def test_a_token_that_is_used_twice_late_or_for_another_action_is_refused(self) -> None:
        for action in ("verify", "reset"):
            with self.subTest(action):
                data = {"password": OTHER} if action == "reset" else {}
                email = {"email": f"{action}@example.com"}
                other = self.register(**email)
                if action == "reset":
                    self.assertEqual(self.ask("verify", token=other), TRUE)

                def make(action: str = action, email: dict[str, str] = email) -> str:
                    if action == "verify":
                        return self.register(**email)
                    number = len(self.mail_server.mails) + 1
                    self.ask("forgot", **email)
                    return self.read_token(number, "reset")

                late, token = make(), make()
                query = {"token": digest(late)}
                past = datetime.now(UTC) - timedelta(seconds=1)
                self.database.password_token.update_one(query, {"$set": {"expires": past}})
                self.assertEqual(self.ask(action, token=late, **data), INVALID)
                wrong = {"verify": "reset", "reset": "verify"}[action]
                extra = {"password": OTHER} if wrong == "reset" else {}
                self.assertEqual(self.ask(wrong, token=token, **extra), INVALID)
                self.assertEqual(self.ask(action, token=token[:-1], **data), INVALID)
                self.assertEqual(self.ask(action, token=token, **data), TRUE)
                self.assertEqual(self.ask(action, token=token, **data), INVALID)

    def test_a_token_is_valid_for_an_hour(self) -> None:
        for seconds, answer in ((3570, TRUE), (3630, INVALID)):
            token = self.register(email=f"{seconds}@example.com")
            query, later = {"token": digest(token)}, {"$subtract": ["$expires", 1000 * seconds]}
            self.database.password_token.update_one(query, [{"$set": {"expires": later}}])
            self.assertEqual(self.ask("verify", token=token), answer)

    @slow
    def test_a_reset_sets_the_password_and_ends_every_key(self) -> None:
        self.make_account()
        key = self.get_key()
        made = self.post("key/create", {"name": "backup"}, key)["data"]["key"]
        first, second = self.forget(), self.forget()
        self.assertEqual(self.ask("reset", token=first, password=OTHER), TRUE)
        for headers in (key, {"indico_key": made}):
            self.assertEqual(self.post("auth/check", None, headers)["status"], 401)
        self.assertEqual(self.log_in(), REFUSED)
        self.assertEqual(self.ask("reset", token=second, password=PASSWORD), INVALID)
        self.assertEqual(self.log_in(OTHER)["status"], 200)

    def test_a_link_is_used_by_one_of_two_resets_at_once(self) -> None:
        self.make_account()
        token = self.forget()

        async def reset(new_hash: str) -> str:
            try:
                return await accounts.reset(token, new_hash)
            except accounts.TokenError:
                return "refused"

        async def both() -> tuple[str, str]:
            return await asyncio.gather(reset("one"), reset("two"))

        self.assertIn("refused", self.io_loop.run_sync(both))

    def test_a_password_that_is_too_short_uses_up_no_token(self) -> None:
        self.make_account()
        token = self.forget()
        self.assertEqual(self.ask("reset", token=token, password="short")["status"], 400)
        self.assertEqual(self.ask("reset", token=token, password=OTHER), TRUE)

    def test_an_address_without_an_account_gets_no_mail(self) -> None:
        self.register()
        self.assertEqual(self.ask("forgot", email=EMAIL), TRUE)
        self.assertEqual(self.ask("forgot", email="bob@example.com"), TRUE)
        self.io_loop.run_sync(lambda: asyncio.sleep(0.05))
        self.assertEqual(len(self.mail_server.mails), 1)


def after_call(function: Callable[..., Awaitable[Any]], then: Callable[[], object]) -> Callable[..., Any]:
    """Return the function, with a call of `then` after it."""

    async def call(*args: Any) -> Any:
        result = await function(*args)
        outcome = then()
        if asyncio.iscoroutine(outcome):
            await outcome
        return result

    return call


class LoginTest(PasswordTest):
    def test_unknown_unverified_and_wrong_are_the_same_answer(self) -> None:
        self.make_account()
        self.register(email="bob@example.com")
        for email, text in ((EMAIL, OTHER), ("bob@example.com", PASSWORD), ("eve@example.com", PASSWORD)):
            self.assertEqual(self.log_in(text, email), REFUSED)
        self.assertEqual(self.count("auth"), 0)

    def test_a_hash_with_other_parameters_is_replaced_by_a_login(self) -> None:
        self.make_account()
        self.set_hasher(Argon2Hasher(2, 16, 1))
        for _ in range(2):
            self.assertEqual(self.log_in()["status"], 200)
            [account] = self.database.password.find()
            self.assertIn("m=16,t=2,p=1", account["hash"])

    def test_a_hash_that_was_replaced_meanwhile_is_no_reason_to_refuse(self) -> None:
        self.make_account()
        self.set_hasher(Argon2Hasher(2, 16, 1))
        self.set(accounts, "set_hash", mock.AsyncMock(return_value=False))
        self.assertEqual(self.log_in()["status"], 200)

    @slow
    def test_a_login_during_a_reset_gets_no_key(self) -> None:
        self.make_account()
        token = self.forget()

        async def reset() -> None:
            user_id = await accounts.reset(token, CHEAP.hash(OTHER))
            await end_all_keys(user_id)

        check = after_call(accounts.check_password, reset)
        with mock.patch.object(accounts, "check_password", check):
            self.assertEqual(self.log_in(), REFUSED)
        [document] = self.database.auth.find()
        self.assertNotIn("login", document)
        self.assertEqual(self.log_in(OTHER)["status"], 200)

    def test_a_login_during_a_removal_makes_no_user(self) -> None:
        self.make_account()
        [account] = self.database.password.find()
        check = after_call(accounts.check_password, lambda: remove_user(account["user_id"]))
        with mock.patch.object(accounts, "check_password", check):
            self.assertEqual(self.log_in(), REFUSED)
        self.assertEqual((self.count("user"), self.count("auth", login={"$exists": True})), (0, 0))

    def test_logins_of_an_account_are_limited(self) -> None:
        if "indico.batteries.limit" not in BATTERIES:
            self.skipTest("the battery was taken out")
        from indico.batteries import limit

        self.set(config, "LOGIN_RATE", (2, 24 * 3600))
        limit.install(self._app)
        statuses = [self.log_in(OTHER, email)["status"] for email in (EMAIL, "ADA@example.com", EMAIL)]
        self.assertEqual(statuses, [401, 401, 429])


class ChangeTest(PasswordTest):
    def test_it_needs_the_password_and_keys_stay_valid(self) -> None:
        self.make_account()
        key = self.get_key()
        self.assertEqual(self.ask("change", key, password=OTHER, new_password=OTHER), REFUSED)
        self.assertEqual(self.ask("change", key, password=PASSWORD, new_password="short")["status"], 400)
        self.assertEqual(self.ask("change", key, password=PASSWORD, new_password=OTHER), TRUE)
        self.assertEqual(self.post("auth/check", None, key), TRUE)
        self.assertEqual((self.log_in(), self.log_in(OTHER)["status"]), (REFUSED, 200))

    def test_with_an_api_key_it_is_a_403(self) -> None:
        self.make_account()
        made = self.post("key/create", {"name": "backup"}, self.get_key())["data"]["key"]
        answer = self.ask("change", {"indico_key": made}, password=PASSWORD, new_password=OTHER)
        self.assertEqual(answer, {"status": 403, "data": "Not allowed"})

    def test_a_user_without_a_password_has_none_to_change(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        self.assertEqual(self.ask("change", HEADERS, password=PASSWORD, new_password=OTHER), REFUSED)

    def test_a_password_that_was_changed_meanwhile_stays(self) -> None:
        self.make_account()
        key = self.get_key()
        self.set(accounts, "set_hash", mock.AsyncMock(return_value=False))
        self.assertEqual(self.ask("change", key, password=PASSWORD, new_password=OTHER), REFUSED)


class DataTest(PasswordTest):
    @slow
    def test_a_removal_leaves_nothing_and_the_address_is_free(self) -> None:
        self.make_account()
        key = self.get_key()
        token = self.forget()
        self.assertEqual(self.post("user/remove", None, key), TRUE)
        self.assertEqual((self.count("password"), self.count("password_token")), (0, 0))
        self.assertEqual(self.ask("reset", token=token, password=OTHER), INVALID)
        self.make_account(password=OTHER)
        self.assertEqual(self.log_in(OTHER)["status"], 200)

    def test_an_export_has_the_address_and_no_hash(self) -> None:
        self.make_account()
        exported = self.post("user/export", None, self.get_key())["data"]["password"]
        self.assertEqual((exported["email"], list(exported)), (EMAIL, ["email", "created"]))

    def test_a_user_without_a_password_is_removed(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        self.assertEqual(self.post("user/remove", None), TRUE)


class MailTest(PasswordTest):
    unavailable = {"status": 503, "data": "Mail can't be sent at the moment"}

    def test_a_server_that_can_not_be_reached_or_refuses_is_a_503_and_a_line_of_log(self) -> None:
        socket, port = bind_unused_port()
        socket.close()
        secret = f"smtp://ada:my-secret@{config.MAIL_URL[7:]}"  # this server knows no passwords
        self.make_account()
        for url in (f"smtp://127.0.0.1:{port}", f"smtps://{config.MAIL_URL[7:]}", secret):
            with self.subTest(url), mock.patch.object(config, "MAIL_URL", url):
                for action, email in (("forgot", EMAIL), ("forgot", "bob@example.com"), ("register", EMAIL)):
                    with self.assertLogs("indico", "WARNING") as logs:
                        answer = self.ask(action, email=email, password=PASSWORD, user={})
                    self.assertEqual(answer, self.unavailable)
                    [record] = logs.records
                    self.assertNotIn("my-secret", record.getMessage())
        self.assertEqual(self.count("password_token"), 0)

    def test_a_mail_that_is_refused_is_a_line_of_log_without_the_address(self) -> None:
        with self.assertLogs("indico", "WARNING") as logs:
            self.assertEqual(
                self.ask("register", email="nobody@example.com", password=PASSWORD, user={}), TRUE
            )
            self.run_until(lambda: logs.records)
        [record] = logs.records
        self.assertEqual(record.getMessage(), "A mail could not be sent: SMTPRecipientsRefused")

    def test_a_database_that_fails_leaves_no_connection_open(self) -> None:
        self.set(accounts, "make_token", mock.AsyncMock(side_effect=accounts.TokenError()))
        self.assertEqual(self.ask("forgot", email=EMAIL), INVALID)  # StrictTest looks for open sockets
        self.io_loop.run_sync(lambda: asyncio.sleep(0.05))

    def test_in_development_without_a_server_mails_are_printed(self) -> None:
        self.set(config, "MAIL_URL", "")
        with redirect_stdout(StringIO()) as output:
            self.ask("register", email=EMAIL, password=PASSWORD, user={})
            self.run_until(output.getvalue)
        [token] = re.findall(r"https://app.example.com/verify\?token=([\w-]+)", output.getvalue())
        self.assertEqual(self.ask("verify", token=token), TRUE)

    def test_in_production_without_a_server_it_is_a_503(self) -> None:
        self.set(config, "MAIL_URL", "")
        self.set(config, "PRODUCTION", True)
        with self.assertLogs("indico", "WARNING"):
            answer = self.ask("forgot", email=EMAIL)
        self.assertEqual(answer, {"status": 503, "data": "Mail can't be sent: MAIL_URL is not set"})

    def test_a_password_of_the_server_is_sent_through_tls_alone(self) -> None:
        smtp = self.enterContext(mock.patch.object(aiosmtplib, "SMTP", autospec=True))
        for url, port, use_tls, start_tls in (
            ("smtps://a%40b:c%3A@mail.example.com", 465, True, None),
            ("smtp://a%40b:c%3A@mail.example.com", 587, False, True),
            ("smtp://a%40b:c%3A@localhost:25", 25, False, None),
            ("smtp://mail.example.com:25", 25, False, None),
        ):
            with self.subTest(url), mock.patch.object(config, "MAIL_URL", url):
                self.io_loop.run_sync(mail.connect)
                options = smtp.call_args.kwargs
                found = (options["port"], options["use_tls"], options["start_tls"])
                self.assertEqual(found, (port, use_tls, start_tls))
                user = ("a@b", "c:") if "@" in url else (None, None)
                self.assertEqual((options["username"], options["password"]), user)


class InstallTest(StrictTest):
    def install(self, **settings: Any) -> tuple[bool, list[str]]:
        """Return whether there is a route, and the messages of the log."""
        application = Application(database=db)
        with (
            mock.patch.multiple(config, **settings),
            mock.patch.object(password, "LOGGER") as logger,
            mock.patch.object(accounts, "declare_collections"),
        ):
            password.install(application)
        return bool(application.routes), [call.args[0] for call in logger.warning.call_args_list]

    def test_without_public_url_there_is_no_route(self) -> None:
        self.assertEqual(self.install(PUBLIC_URL=""), (False, []))

    def test_with_public_url_there_is_one(self) -> None:
        self.assertEqual(self.install(PUBLIC_URL="https://app.example.com"), (True, []))

    def test_production_without_mail_url_says_so(self) -> None:
        has_route, [message] = self.install(PUBLIC_URL="https://app.example.com", PRODUCTION=True)
        self.assertTrue(has_route)
        self.assertIn("MAIL_URL is not set", message)

    def test_without_the_packages_it_says_so_and_adds_no_route(self) -> None:
        for missing in ("pwdlib", "argon2", "aiosmtplib"):
            with self.subTest(missing), mock.patch.dict("sys.modules", {missing: None}):
                has_route, [message] = self.install(PUBLIC_URL="https://app.example.com")
                self.assertFalse(has_route)
                self.assertIn("pip install -e '.[password]'", message)

    def test_an_unknown_account_is_compared_with_a_hash_like_all_others(self) -> None:
        hasher = hashing.get_hasher().current_hasher
        self.assertFalse(hasher.check_needs_rehash(hashing.NO_HASH))
        self.assertEqual(hashing.THREADS._max_workers * hashing.MEMORY_COST, hashing.HASH_MEMORY)


@slow
@linux
class KeyCacheTest(ProcessTest):
    """Two servers with KEY_CACHE, which share a replica set. Mails are printed."""

    def test_a_reset_ends_the_keys_at_another_process_within_a_second(self) -> None:
        with ReplicaSet(count=1) as replica:
            settings = {"MONGODB": replica.uri, "KEY_CACHE": "60", "PUBLIC_URL": "https://app.example.com"}
            first, second = [self.launch(**settings) for _ in range(2)]
            for server in (first, second):
                server.wait_ready()
            account = {"email": EMAIL, "password": PASSWORD}
            first.post("password/register", {**account, "user": {}}, {})
            first.post("password/verify", {"token": self.read_token(first, "verify")}, {})
            key = {"indico_key": first.post("password/login", account, {})["data"]["indico_key"]}
            first.post("password/forgot", {"email": EMAIL}, {})
            reset = {"token": self.read_token(first, "reset"), "password": OTHER}
            for _ in range(20):  # the cache is in use
                self.assertEqual(second.post("auth/check", None, key)["status"], 200)
                time.sleep(0.05)
            self.assertEqual(first.post("password/reset", reset, {}), TRUE)
            ended = time.monotonic()
            wait_until(lambda: second.post("auth/check", None, key)["status"] == 401, "the end of the key")
            self.assertLess(time.monotonic() - ended, 1)

    def read_token(self, server: ServerProcess, name: str) -> str:
        server.wait_for(f"{name}?token=")
        [token] = re.findall(rf"{name}\?token=([\w-]+)", server.output)
        return str(token)


@slow
class RealHashTest(ProcessTest):
    """With real hashes, over a server of its own. Mails are printed."""

    def start_server(self) -> ServerProcess:
        server = self.start(PUBLIC_URL="https://app.example.com", REQUEST_TIMEOUT="600")
        self.fetch(server, "register", email=EMAIL, password=PASSWORD, user={})
        server.wait_for("verify?token=")
        [token] = re.findall(r"verify\?token=([\w-]+)", server.output)
        self.assertEqual(self.fetch(server, "verify", token=token), 200)
        self.fetch(server, "register", email="bob@example.com", password=PASSWORD, user={})
        return server

    def fetch(self, server: ServerProcess, action: str, **data: Any) -> int:
        return server.fetch(f"password/{action}", data, {}, timeout=600).status

    def test_unknown_unverified_and_wrong_take_the_same_time(self) -> None:
        server = self.start_server()
        cases = {
            "unknown": {"email": "eve@example.com", "password": PASSWORD},
            "unverified": {"email": "bob@example.com", "password": PASSWORD},
            "wrong": {"email": EMAIL, "password": OTHER},
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(31):
            for name, data in cases.items():
                began = time.perf_counter()
                self.assertEqual(self.fetch(server, "login", **data), 401)
                times[name].append(time.perf_counter() - began)
        medians = {name: statistics.median(each) for name, each in times.items()}
        milliseconds = {name: round(1000 * median, 1) for name, median in medians.items()}
        report_figures(self, f"logins in ms: {milliseconds}")
        self.assertLess(max(medians.values()) / min(medians.values()), 1.25)

    @linux
    def test_forty_logins_at_once_stay_within_the_memory_for_hashes(self) -> None:
        server = self.start_server()
        before = read_peak(server.pid) - hashing.MEMORY_COST  # of the first hash
        statuses: list[int] = []

        def log_in() -> None:
            statuses.append(self.fetch(server, "login", email=EMAIL, password=PASSWORD))

        threads = [threading.Thread(target=log_in) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(statuses, 40 * [200])
        grown = read_peak(server.pid) - before
        report_figures(self, f"forty logins took {grown} kB of {hashing.HASH_MEMORY}")
        self.assertLess(grown, hashing.HASH_MEMORY + 32 * 1024)
