"""
The server: its routes and its batteries.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence

from tornado.web import RequestHandler

from indico import config, db
from indico.core import command_line
from indico.core.hooks import Application
from indico.core.http.envelope import name_request
from indico.core.http.pages import UnknownHandler
from indico.core.serving import run_server
from indico.routes.auth import AuthRoute
from indico.routes.key import KeyRoute
from indico.routes.user import UserRoute
from indico.utils import LOGGER

Route = tuple[str, type[RequestHandler]]

ROUTES: list[Route] = [AuthRoute, UserRoute, KeyRoute]
BATTERIES: list[str] = [  # modules, each with one install(application)
    "indico.batteries.compute",
    "indico.batteries.cors",
    "indico.batteries.docs_page",
    "indico.batteries.files",
    "indico.batteries.health",
    "indico.batteries.idempotency",
    "indico.batteries.jobs",
    "indico.batteries.limit",
    "indico.batteries.logs",
    "indico.batteries.metrics",
    "indico.batteries.openapi",
    "indico.batteries.openid",
    "indico.batteries.opentelemetry",
    "indico.batteries.password",
    "indico.batteries.sentry",
    "indico.batteries.webhooks",
]


def make_app(debug: bool = False, routes: Sequence[Route] | None = None) -> Application:
    """Make the application of these routes (by default ROUTES) and the batteries. Other paths are 404."""
    application = Application(
        list(ROUTES if routes is None else routes),
        database=db,
        debug=debug,
        autoreload=False,  # `main` starts it, in a process that can be restarted
        default_handler_class=UnknownHandler,
        log_function=log_request,
        websocket_max_message_size=config.MAX_BODY_SIZE,
        websocket_ping_interval=30,  # seconds; detects clients that have vanished
    )
    for battery in BATTERIES:
        importlib.import_module(battery).install(application)
    return application


def log_request(handler: RequestHandler) -> None:
    """Log a request in one line. It contains no data from the client: no path, no header, no key."""
    if LOGGER.isEnabledFor(logging.INFO):
        milliseconds = 1000 * handler.request.request_time()
        LOGGER.info("%d %s %.1f ms", handler.get_status(), name_request(handler), milliseconds)


def main(debug: bool = True, port: int = config.PORT) -> None:
    """Serve until stopped. With `debug`, restart when the source changes."""
    run_server(lambda: make_app(debug), debug, port)


if __name__ == "__main__":
    command_line.main()
