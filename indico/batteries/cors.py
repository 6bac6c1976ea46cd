"""
CORS: lets pages of CORS_ORIGINS, which are on other origins, call the server from a browser.

A preflight is answered before anything else looks at it, whatever its path, because a page has to be let
in to see a 404 as well. Every answer carries the headers, errors too. A page of any other origin, and a
request that is no preflight, gets what it would get without this battery.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tornado.httputil import HTTPServerRequest
from tornado.routing import Matcher, Rule
from tornado.web import RequestHandler

from indico import config
from indico.core.hooks import Application
from indico.core.http.request_handler import LimitedHandler

EXPOSED = "Retry-After, X-Request-Id"  # what a page may read besides what it always may
MAX_AGE = 2 * 3600  # seconds that a browser may remember a preflight's answer; some take no more
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, indico_key, X-Request-Id",
    "Access-Control-Max-Age": str(MAX_AGE),
}


def install(application: Application) -> None:
    """Answer preflights and add the headers, if CORS_ORIGINS names anybody."""
    if config.CORS_ORIGINS:
        application.default_router.rules.insert(0, Rule(PreflightMatcher(), PreflightHandler))
        application.hooks.response_headers.append(find_headers)


def is_allowed(request: HTTPServerRequest) -> bool:
    """Whether the request comes from a page that may call the server."""
    origin = request.headers.get("Origin")
    return origin is not None and (config.CORS_ORIGINS == ["*"] or origin in config.CORS_ORIGINS)


def find_headers(handler: RequestHandler) -> Iterator[tuple[str, str]]:
    """Tell the browser whether the page may read this response."""
    if config.CORS_ORIGINS != ["*"]:
        yield "Vary", "Origin"
    if not is_allowed(handler.request):
        return
    if config.CORS_ORIGINS == ["*"]:  # and never with credentials
        yield "Access-Control-Allow-Origin", "*"
    else:
        yield "Access-Control-Allow-Origin", handler.request.headers["Origin"]
        yield "Access-Control-Allow-Credentials", "true"
    yield "Access-Control-Expose-Headers", EXPOSED


class PreflightMatcher(Matcher):
    """Any path, when a browser asks whether a page may send what it wants to send."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        return {} if is_preflight and is_allowed(request) else None


class PreflightHandler(LimitedHandler):
    allowed_methods = "OPTIONS"

    def options(self) -> None:
        for name, value in PREFLIGHT.items():
            self.set_header(name, value)
        self.respond(True)
