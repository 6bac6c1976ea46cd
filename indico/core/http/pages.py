"""
What is read by GET.
"""

from __future__ import annotations

from typing import Any

from indico.core.http.request_handler import LimitedHandler
from indico.error import RouteNotFound


class PageHandler(LimitedHandler):
    """
    A page, for batteries. A subclass has `get`, which calls `respond` or raises. A page that is no envelope
    sets `content_type` and calls `send`; its errors are envelopes.
    """

    allowed_methods = "GET, HEAD"
    content_type = ""

    def send(self, body: str | bytes) -> None:
        """Respond with this body as it is."""
        self.set_header("Content-Type", self.content_type)
        self.finish(body)

    def head(self, *args: Any, **kwargs: Any) -> Any:
        # Tornado leaves out the body. Many uptime monitors ask with HEAD.
        return self.get(*args, **kwargs)


class UnknownHandler(LimitedHandler):
    """Every path that no route matches."""

    def check_path(self) -> None:
        raise RouteNotFound(self.request.path)

    async def post(self) -> None:
        if self.begin_action():
            self.check_path()
