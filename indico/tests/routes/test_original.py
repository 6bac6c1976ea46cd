"""
A test case of one's own, as the original's users wrote them: a client of Motor's in place of ours, Tornado's
plain application and server, and a database that is dropped as the test ends.
"""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from bson.objectid import ObjectId
from motor.motor_tornado import MotorClient
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

import indico.db
from indico import config
from indico.routes.auth import AuthRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER
from indico.tests.routes.test_styles import CallbackHandler
from indico.tests.testutils.mongo import start_mongodb
from indico.tests.testutils.process import wait_until
from indico.tests.testutils.strict import StrictTest


class OriginalTest(StrictTest, AsyncHTTPTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.databases = start_mongodb().list_database_names
        self.name = f"test_original_{ObjectId()}"
        client: Any = MotorClient(config.MONGODB)
        self.addCleanup(client.close)
        patch = mock.patch.multiple(indico.db, create=True, CLIENT=client, mongodb=client[self.name])
        patch.start()
        self.addCleanup(patch.stop)

    def get_app(self) -> Application:
        return Application([AuthRoute, (r"/user/(?P<action>[a-zA-Z]+)?", CallbackHandler)], debug=False)

    def post(self, route: str, data: Any) -> Any:
        body = json.dumps(data)
        return json.loads(self.fetch(f"/{route}", method="POST", body=body, headers=HEADERS).body)

    def tearDown(self) -> None:
        indico.db.CLIENT.drop_database(self.name)  # which nobody awaits
        super().tearDown()
        wait_until(lambda: self.name not in self.databases(), "the end of the database")

    def test_a_user_is_updated(self) -> None:
        self.assertEqual(self.post("auth/login", LOGIN_DATA)["status"], 200)
        self.assertIn(self.name, self.databases())
        answer = self.post("user/update", {"update_user": {"name": "Grace"}})
        self.assertEqual(answer["status"], 200)
        self.assertEqual(answer["data"]["email"], USER["email"])
        self.assertEqual(answer["data"]["name"], "Grace")

    def test_what_is_wrong_is_an_answer(self) -> None:
        nobody = {"status": 401, "data": "User not authenticated"}
        self.assertEqual(self.post("user/update", {"update_user": {}}), nobody)
        self.post("auth/login", LOGIN_DATA)
        missing = {"status": 400, "data": "update_user field was not provided"}
        self.assertEqual(self.post("user/update", {}), missing)
