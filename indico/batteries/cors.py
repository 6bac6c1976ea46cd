"""
CORS: lets pages of the origins in CORS_ORIGINS call the server from a browser.

Preflights get a response on any path, even one without a route, because a page can only see the 404 if the
preflight succeeded. All responses to these pages have the headers, errors included. Requests from other
origins are handled as without this battery.
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

# Headers that a page may send: those that actions and batteries read, and those that browsers' tracing adds.
ALLOWED = (
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "indico_key",
    "X-Request-Id",
    "baggage",
    "sentry-trace",
    "traceparent",
    "tracestate",
    "Webhook-URL",
)
# Headers that a page may read, besides the safelisted ones.
EXPOSED = "Idempotent-Replayed, RateLimit, RateLimit-Policy, Retry-After, X-Request-Id"
MAX_AGE = 2 * 3600  # seconds that a browser may cache a preflight; the maximum of some browsers


def install(application: Application) -> None:
    """Handle preflights and add the headers, if CORS_ORIGINS is set."""
    if config.CORS_ORIGINS:
        application.add_handlers(".*", [Rule(PreflightMatcher(), PreflightHandler)])
        application.hooks.response_headers.append(find_headers)


def is_allowed(request: HTTPServerRequest) -> bool:
    """Whether the request comes from a page that may call the server."""
    origin = request.headers.get("Origin")
    return origin is not None and (config.CORS_ORIGINS == ["*"] or origin in config.CORS_ORIGINS)


def find_headers(handler: RequestHandler) -> Iterator[tuple[str, str]]:
    """Yield the headers that tell the browser whether the page may read this response."""
    if config.CORS_ORIGINS != ["*"]:
        yield "Vary", "Origin"
    if not is_allowed(handler.request):
        return
    if config.CORS_ORIGINS == ["*"]:  # never with credentials
        yield "Access-Control-Allow-Origin", "*"
    else:
        yield "Access-Control-Allow-Origin", handler.request.headers["Origin"]
        yield "Access-Control-Allow-Credentials", "true"
    yield "Access-Control-Expose-Headers", EXPOSED


class PreflightMatcher(Matcher):
    """Matches an allowed preflight, whatever its path."""

    def match(self, request: HTTPServerRequest) -> dict[str, Any] | None:
        is_preflight = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
        return {} if is_preflight and is_allowed(request) else None


class PreflightHandler(LimitedHandler):
    allowed_methods = "OPTIONS"

    def options(self) -> None:
        self.set_header("Access-Control-Allow-Methods", "GET, POST")
        self.set_header("Access-Control-Allow-Headers", ", ".join((*ALLOWED, *config.CORS_HEADERS)))
        self.set_header("Access-Control-Max-Age", MAX_AGE)
        self.respond(True)
