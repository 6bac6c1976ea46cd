"""
Which actions are open to everybody.
"""

from __future__ import annotations

from indico.core.welcome import list_open_actions
from indico.server import ROUTES, make_app
from indico.tests.testutils.strict import StrictTest

# Actions without @auth. Add one only if everybody may call it.
OPEN_ACTIONS = ["auth.login"]


class OpenActionsTest(StrictTest):
    def test_all_other_actions_need_a_key(self) -> None:
        self.assertEqual(
            list_open_actions(make_app(routes=ROUTES)),
            OPEN_ACTIONS,
            "An action without @auth is open to everybody. Add @auth to it, or its name to OPEN_ACTIONS.",
        )
