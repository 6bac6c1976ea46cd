"""
The server: its routes, its batteries, and how it starts and stops.
"""

from __future__ import annotations

import asyncio
import errno
import faulthandler
import gc
import importlib.util
import json
import logging
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from tornado import autoreload
from tornado.ioloop import PeriodicCallback
from tornado.web import Application, RequestHandler

from indico import config, db
from indico.core import supervisor
from indico.core.development import get_secret, make_folder
from indico.core.http.tornado_server import Listener, listen
from indico.core.mongo import key_cache
from indico.core.mongo.mongod import Mongod, MongodError
from indico.error import Unavailable
from indico.routes.auth import AuthRoute
from indico.routes.handler import UnknownHandler, describe
from indico.routes.user import UserRoute
from indico.utils import LOGGER, spawn

DEFAULT_MONGODB_PORT = 27017
LONGEST_CALL = 1  # seconds that a call may block the loop before development names it in the log

Route = tuple[str, type[RequestHandler]]

ROUTES: list[Route] = [AuthRoute, UserRoute]
BATTERIES: list[str] = [  # modules, each with one install(application)
    "indico.batteries.cors",
    "indico.batteries.docs_page",
    "indico.batteries.health",
    "indico.batteries.login_rate",
    "indico.batteries.logs",
    "indico.batteries.metrics",
    "indico.batteries.openapi",
    "indico.batteries.openid",
    "indico.batteries.opentelemetry",
    "indico.batteries.sentry",
]


def make_app(debug: bool = False, routes: Sequence[Route] = ROUTES) -> Application:
    """The application: these routes, an envelope for whatever matches none, and the batteries."""
    application = Application(
        list(routes),
        debug=debug,
        autoreload=False,  # `serve` starts it, in a process that can be started again
        default_handler_class=UnknownHandler,
        log_function=log_request,
    )
    for battery in BATTERIES:
        importlib.import_module(battery).install(application)
    return application


def log_request(handler: RequestHandler) -> None:
    """One line a request, in which nothing comes from the client: no path, no header, no key."""
    if LOGGER.isEnabledFor(logging.INFO):
        milliseconds = 1000 * handler.request.request_time()
        LOGGER.info("%d %s %.1f ms", handler.get_status(), describe(handler), milliseconds)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """
    What surrounds serving, whoever serves: settings are checked, batteries come up, MongoDB is connected and
    its indexes are made; at the end requests in flight are waited for, MongoDB is closed, and batteries end.

    Without MongoDB the server starts all the same, and makes the indexes when it comes. Raises SettingError.
    """
    config.check()
    if config.PRODUCTION and not (config.FACEBOOK_APP_ID and config.FACEBOOK_APP_SECRET):
        LOGGER.warning("FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set: logins with Facebook answer 503")
    if not config.PRODUCTION and not config.DEV_TOKEN:
        config.DEV_TOKEN = get_secret("dev_token")
    async with AsyncExitStack() as batteries:
        for surround in application.settings.get("lifespans", ()):
            await batteries.enter_async_context(surround(application))
        db.connect()
        indexes = spawn(make_indexes())
        background = [indexes, spawn(key_cache.watch())] if config.KEY_CACHE else [indexes]
        try:
            await asyncio.wait([indexes], timeout=config.MONGODB_TIMEOUT)
            yield
        finally:
            await drain(application)
            for task in background:
                task.cancel()
            key_cache.forget_all()
            await db.close()


async def make_indexes() -> None:
    """Make the indexes, and try again every second while MongoDB can't be reached."""
    said = False
    while True:
        try:
            await db.ensure_indexes()
            return
        except Unavailable as error:
            if not said:
                LOGGER.warning("%s: requests that need it answer 503 until it can", error.message)
                said = True
            await asyncio.sleep(1)


async def drain(application: Application) -> None:
    """Wait for the requests in flight, SHUTDOWN_TIMEOUT at most, and then answer the rest with 503."""
    in_flight = application.settings.get("in_flight", set())
    deadline = asyncio.get_running_loop().time() + config.SHUTDOWN_TIMEOUT
    while in_flight and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    for handler in list(in_flight):
        handler.give_up(Unavailable("The server is going down"))


async def serve(
    application: Application,
    sockets: list[socket.socket],
    debug: bool,
    announce: bool,
    mongod: Mongod | None = None,
) -> None:
    """Serve on these sockets until SIGTERM or SIGINT; a second one ends the process at once."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        for number in supervisor.SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in supervisor.SIGNALS:
        loop.add_signal_handler(number, on_signal)
    # A large body makes many objects, for which the collector would go through all there are again and again.
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    server = make_listener(application)
    async with lifespan(application):
        server.add_sockets(sockets)
        if mongod is not None:
            PeriodicCallback(mongod.tend, 1000).start()
        if debug:
            autoreload.start()
            # While a call blocks the loop nothing resets this, and the calls under way go to the log.
            faulthandler.dump_traceback_later(LONGEST_CALL)
            PeriodicCallback(lambda: faulthandler.dump_traceback_later(LONGEST_CALL), 200).start()
        if announce:
            print_welcome(application, sockets[0].getsockname()[1])
        await stop.wait()
        application.settings["draining"] = True
        server.stop()
        await server.take_leave()
        await drain(application)
        await server.close_all_connections()
    faulthandler.cancel_dump_traceback_later()


def make_listener(application: Application) -> Any:
    """The server that HTTP_SERVER names, with a Listener's methods."""
    if config.HTTP_SERVER == "tornado":
        return Listener(application)
    from indico.core.http.uvicorn_listener import UvicornListener  # which not everybody has installed

    return UvicornListener(application)


def print_welcome(application: Application, port: int) -> None:
    """Say that the server is ready and, in development, what is where and how to log in."""
    host = config.ADDRESS or "127.0.0.1"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lines = [f"indico listens on {address}"]
    if not config.PRODUCTION:
        database = db.describe()
        if folder := application.settings.get("mongod_folder"):
            database += f", started here, its data in {folder}"
        pages = application.settings.get("pages", {})
        rows = {"database": database, **{name: address + path for name, path in pages.items()}}
        width = max(map(len, rows))
        lines += [f"  {name:{width}}  {text}" for name, text in rows.items()]
        data = {"access_token": config.DEV_TOKEN, "oauth_id": "1", "user": {"name": "Ada"}}
        command = shlex.join(["curl", f"{address}/auth/login", "-d", json.dumps(data)])
        lines += ["Log in with", f"  {command}"]
    print("\n".join(lines), flush=True)


def main(debug: bool = True, port: int = config.PORT) -> None:
    """
    Serve until stopped. In development, when nothing answers at the default MONGODB, on a MongoDB of its
    own; with `debug`, in a process that starts again when its source changes. What prevents the start is
    one sentence and exit status 1.
    """
    configure_logging()
    mongod = None
    try:
        application = make_app(debug)
        asyncio.run(check_settings())
        sockets = bind(port)
        mongod = make_mongod()
        if mongod is not None:
            mongod.start()
            application.settings["mongod_folder"] = mongod.folder if mongod.pid is not None else None
        if config.WORKERS == 1:
            run(serve(application, sockets, debug, announce=True, mongod=mongod))
        else:

            def work(number: int) -> None:
                application.settings["worker"] = number
                run(serve(application, sockets, debug=False, announce=number == 0))

            supervisor.supervise(
                config.WORKERS,
                work,
                mongod.tend if mongod is not None else lambda: None,
                # Who connects to a socket that no worker listens on any more would wait for nothing.
                on_stop=lambda: close_all(sockets),
            )
    except (config.SettingError, MongodError, supervisor.WorkersDied) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # before `serve` could take it
        sys.exit(130)
    finally:
        if mongod is not None:
            mongod.stop()


def close_all(sockets: list[socket.socket]) -> None:
    for listening in sockets:
        listening.close()


def make_mongod() -> Mongod | None:
    """In development at the default MONGODB, a mongod to be started unless one answers there already."""
    if config.PRODUCTION or config.MONGODB != config.DEFAULT_MONGODB:
        return None
    return Mongod(make_folder("mongodb"), DEFAULT_MONGODB_PORT)


def configure_logging() -> None:
    """The log goes to stderr, a line each."""
    logging.basicConfig(level=config.LOG_LEVEL, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def run(main: Coroutine[Any, Any, None]) -> None:
    """`asyncio.run`, with uvloop for uvicorn if it is installed."""
    if config.HTTP_SERVER == "uvicorn" and importlib.util.find_spec("uvloop"):
        importlib.import_module("uvloop").run(main)
    else:
        asyncio.run(main)


async def check_settings() -> None:
    """Raise SettingError unless the server can start with these: here, and not in each worker."""
    config.check()
    for sentence in config.environment.find_misspelt():
        LOGGER.warning(sentence)
    if config.HTTP_SERVER == "uvicorn" and not all(map(importlib.util.find_spec, ("uvicorn", "httptools"))):
        raise config.SettingError("HTTP_SERVER is uvicorn, which `pip install -e '.[uvicorn]'` installs.")
    db.connect()
    await db.close()


def bind(port: int) -> list[socket.socket]:
    """Sockets on ADDRESS and this port. Raises SettingError when they can't be had."""
    try:
        return listen(port, config.ADDRESS)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "no host can have such a name")
        hint = ""
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            hint = f" Stop what listens there, or take another port: --port {port % 65535 + 1}."
        raise config.SettingError(
            f"ADDRESS {config.ADDRESS or 'any'} and PORT {port} can't be listened on: {reason}.{hint}"
        ) from error


if __name__ == "__main__":
    from indico.core.command_line import main as run_command_line

    run_command_line()
