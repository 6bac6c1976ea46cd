"""
A server for each test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from tornado.testing import AsyncHTTPTestCase

from indico.core.hooks import Application
from indico.core.lifecycle import lifespan
from indico.core.serving import make_http_server
from indico.server import Route, make_app
from indico.tests.mocks import HEADERS
from indico.tests.testutils.mongo import DatabaseTest


class ServerTest(DatabaseTest, AsyncHTTPTestCase):
    """
    A test of routes over HTTP. The server is built like the real one, with a new database for each test.

        class OrderTest(ServerTest):
            routes = [AuthRoute, OrderRoute]

            def test_create(self):
                self.post("auth/login", LOGIN_DATA)
                answer = self.post("order/create", {"item": "tea", "count": 2})
                self.assertEqual(answer["status"], 200)
    """

    routes: ClassVar[Sequence[Route]] = ()
    _app: Application

    def setUp(self) -> None:
        super().setUp()
        self._lifespan = lifespan(self._app)
        self.io_loop.run_sync(self._lifespan.__aenter__)

    def tearDown(self) -> None:
        self.io_loop.run_sync(lambda: self._lifespan.__aexit__(None, None, None))
        super().tearDown()

    def get_http_server(self) -> Any:
        async def make() -> Any:  # while the event loop runs
            return make_http_server(self._app)

        return self.io_loop.run_sync(make)

    def get_app(self) -> Application:
        return make_app(routes=self.routes)

    def post(self, route: str, data: Any, headers: Mapping[str, str] = HEADERS) -> Any:
        """POST the data as JSON to `/<route>`. Returns the decoded body, `{"status": ..., "data": ...}`."""
        body = self.fetch(f"/{route}", method="POST", body=json.dumps(data), headers=dict(headers)).body
        try:
            return json.loads(body)
        except ValueError as error:
            raise ValueError(body) from error
