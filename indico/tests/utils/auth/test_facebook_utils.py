"""
Facebook, played by a stub on loopback: which tokens are valid.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application, RequestHandler

from indico import config
from indico.error import FacebookTokenError, Unavailable
from indico.tests.mocks import OAUTH_ID
from indico.tests.testutils.strict import StrictTest
from indico.utils.auth.facebook_utils import check_access_token

VALID = {"is_valid": True, "app_id": "2015", "user_id": OAUTH_ID}


class GraphHandler(RequestHandler):
    """Facebook's Graph API. Its response has the data that the test sets."""

    data: Any

    def get(self) -> None:
        self.finish({"data": self.data})


class CheckAccessTokenTest(StrictTest, AsyncHTTPTestCase):
    def get_app(self) -> Application:
        return Application([("/debug_token", GraphHandler)], log_function=lambda handler: None)

    def check(self, data: Any, token: str = "token", app_id: str = "2015") -> bool:
        GraphHandler.data = data
        url = self.get_url("")
        settings = {"FACEBOOK_APP_ID": app_id, "FACEBOOK_APP_SECRET": "secret", "FACEBOOK_GRAPH_URL": url}
        with mock.patch.dict(vars(config), settings):
            return bool(self.io_loop.run_sync(lambda: check_access_token(token, OAUTH_ID)))

    def test_what_facebook_calls_valid_is_accepted(self) -> None:
        self.assertTrue(self.check(VALID))

    def test_any_other_token_is_refused(self) -> None:
        for change in ({"is_valid": False}, {"app_id": "2016"}, {"user_id": "1"}, {"user_id": None}):
            with self.subTest(change), self.assertRaises(FacebookTokenError):
                self.check({**VALID, **change})
        with self.assertRaises(FacebookTokenError):
            self.check(VALID, token="a b")

    def test_a_response_that_makes_no_sense_is_unavailable(self) -> None:
        for data in ([True], None):
            with self.subTest(data), self.assertRaises(Unavailable):
                self.check(data)

    def test_without_credentials_production_is_unavailable(self) -> None:
        with mock.patch.object(config, "PRODUCTION", True), self.assertRaises(Unavailable):
            self.check(VALID, app_id="")
