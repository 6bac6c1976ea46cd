from indico.routes.auth import AuthRoute
from indico.tests.mocks import HEADERS, LOGIN_DATA, USER_KEY
from indico.tests.testutils.server import ServerTest


class LoginTest(ServerTest):
    routes = [AuthRoute]

    def test_login(self):
        answer = self.post("auth/login", LOGIN_DATA)
        self.assertEqual(answer["status"], 200)
        self.assertEqual(answer["data"]["indico_key"], USER_KEY)
        self.assertEqual(self.post("auth/check", {}), {"status": 200, "data": True})
