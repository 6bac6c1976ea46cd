"""
A key beside another `Authorization`, as browsers and proxies send it, on each server.
"""

from __future__ import annotations

from unittest import mock

from tornado.testing import gen_test

from indico import config
from indico.asgi import ASGIApplication
from indico.routes.auth import AuthRoute
from indico.tests.mocks import LOGIN_DATA, USER_KEY
from indico.tests.test_asgi import Exchange
from indico.tests.testutils import slow
from indico.tests.testutils.server import ServerTest

OTHERS = (
    "Basic dXNlcjpwYXNzd29yZA==",
    "basic dXNlcjpwYXNzd29yZA==",
    'Digest username="ada", realm="b", uri="/auth/check"',
    "Negotiate YIIFZAYGKwYBBQUCoIIFWDCC",
)


class OtherSchemeTest(ServerTest):
    routes = [AuthRoute]
    stores = ("auth", "user")

    def setUp(self) -> None:
        super().setUp()
        self.post("auth/login", LOGIN_DATA, {})

    @slow
    def test_the_key_counts_beside_another_scheme(self) -> None:
        for other in OTHERS:
            with self.subTest(other):
                answer = self.post("auth/check", {}, {"indico_key": USER_KEY, "Authorization": other})
                self.assertEqual(answer, {"status": 200, "data": True})

    def test_another_scheme_alone_is_no_key(self) -> None:
        for other in (*OTHERS, f"Basic {USER_KEY}", f"Token {USER_KEY}"):
            with self.subTest(other):
                self.assertEqual(self.post("auth/check", {}, {"Authorization": other})["status"], 401)


class OtherSchemeOnTornadoTest(OtherSchemeTest):
    def setUp(self) -> None:
        patch = mock.patch.object(config, "HTTP_SERVER", "tornado")
        patch.start()
        self.addCleanup(patch.stop)
        super().setUp()


class OtherSchemeWithASGITest(OtherSchemeTest):
    @gen_test
    async def test_the_key_counts_beside_another_scheme_in_a_scope(self) -> None:
        application = ASGIApplication(self._app)
        for other in OTHERS:
            headers = ((b"indico_key", USER_KEY.encode()), (b"authorization", other.encode()))
            exchange = Exchange(application, "POST /auth/check", *headers).give(b"")
            self.assertEqual(await exchange.finish(), (200, True))
