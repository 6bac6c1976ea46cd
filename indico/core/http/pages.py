"""
The handlers of GET requests and of unknown paths.
"""

from __future__ import annotations

from typing import Any

from indico.core.http.request_handler import LimitedHandler
from indico.error import RouteNotFound


class PageHandler(LimitedHandler):
    """
    The base of the pages of batteries. A subclass defines `get`, and `get` calls `respond` or raises. For a
    page without an envelope, set `content_type` and call `send`. Its errors are still envelopes.
    """

    allowed_methods = "GET, HEAD"
    content_type = ""

    def send(self, body: str | bytes) -> None:
        """Respond with this body, without an envelope."""
        self.set_header("Content-Type", self.content_type)
        self.finish(body)

    def head(self, *args: Any, **kwargs: Any) -> Any:
        # Many uptime monitors send HEAD. Tornado omits the body.
        return self.get(*args, **kwargs)


class UnknownHandler(LimitedHandler):
    """The handler of all paths that no route matches."""

    def check_path(self) -> None:
        raise RouteNotFound(self.request.path)

    async def post(self) -> None:
        if self.begin_action():
            self.check_path()
