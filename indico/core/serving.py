"""
Runs the server: sockets, worker processes, start and shutdown.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

from tornado import autoreload
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.ioloop import PeriodicCallback

from indico import config
from indico.core import blocking, reloading, supervisor
from indico.core.development import make_folder
from indico.core.hooks import Application
from indico.core.http.filters import guard_hosts
from indico.core.http.server import Server
from indico.core.http.sockets import listen
from indico.core.http.tornado_server import TornadoServer, make_tornado_server
from indico.core.lifecycle import check_settings, drain, lifespan
from indico.core.log import announce
from indico.core.mongo.mongod import Mongod, MongodError, is_answering
from indico.core.welcome import print_welcome

DEFAULT_MONGODB_PORT = 27017
MONGOD_TICK_MS = 1000  # between checks of the mongod that this process started


def run_server(make_app: Callable[[], Application], debug: bool, port: int) -> None:
    """
    Serve until stopped. In development, start a mongod first if none runs at the default MONGODB. With
    `debug`, restart when the source changes. If the start fails, print one sentence and exit with status 1.
    """
    if supervisor.is_compute_process():
        return
    open_standard_streams()
    configure_logging()
    with exit_on_errors():
        application = make_app()
        asyncio.run(check_settings(application))
        sockets = bind(port)
        with run_mongod() as mongod:
            application.state.mongod_folder = mongod.folder if mongod and mongod.pid is not None else None
            if config.WORKERS == 1:
                run(serve(application, sockets, debug, mongod))
            else:
                run_workers(application, sockets, mongod)


@contextmanager
def exit_on_errors() -> Iterator[None]:
    """Exit with one sentence for each error that has a sentence, and without a traceback after Ctrl-C."""
    try:
        yield
    except (config.SettingError, MongodError, supervisor.WorkersDied) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def open_standard_streams() -> None:
    """Open the null device for each closed standard stream. A socket could get its number, and the log."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - it stays open


def configure_logging() -> None:
    """Log to stderr, one line for each record."""
    logging.basicConfig(level=config.LOG_LEVEL, format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def bind(port: int) -> list[socket.socket]:
    """Listen on ADDRESS and this port. Raises SettingError if that is impossible."""
    try:
        return listen(port, config.ADDRESS)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", "no host can have such a name")
        hint = ""
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            hint = f"\nStop what listens there, or use another port: --port {port % 65535 + 1}."
        raise config.SettingError(
            f"ADDRESS {config.ADDRESS or 'any'} and PORT {port} can't be used: {reason}.{hint}"
        ) from error


@contextmanager
def run_mongod() -> Iterator[Mongod | None]:
    """In development, with the default MONGODB, start a mongod if none runs yet, and stop it at the end."""
    mongod = None
    if not config.PRODUCTION and config.MONGODB == config.DEFAULT_MONGODB:
        try:
            mongod = Mongod(make_folder("mongodb"), DEFAULT_MONGODB_PORT)
        except config.SettingError:
            if not is_answering(DEFAULT_MONGODB_PORT):
                raise
    try:
        if mongod is not None:
            with announce("Waiting for mongod"):
                mongod.start()
        yield mongod
    finally:
        if mongod is not None:
            mongod.stop()


def run_workers(application: Application, sockets: list[socket.socket], mongod: Mongod | None) -> None:
    """Serve in WORKERS processes, until they are stopped."""

    def work(number: int) -> None:
        application.state.worker = number
        run(serve(application, sockets, debug=False))

    def close_sockets() -> None:
        # A client that connects after the last worker has ended would never get a response.
        for listening in sockets:
            listening.close()

    on_tick = mongod.restart_if_gone if mongod is not None else lambda: None
    supervisor.run_workers(config.WORKERS, work, on_tick, close_sockets)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run `main` on uvloop if it is installed, otherwise on asyncio."""
    if importlib.util.find_spec("uvloop"):
        importlib.import_module("uvloop").run(main)
    else:
        asyncio.run(main)


async def serve(
    application: Application, sockets: list[socket.socket], debug: bool, mongod: Mongod | None = None
) -> None:
    """Serve on these sockets until SIGTERM or SIGINT. A second signal ends the process at once."""
    stop = stop_on_signals()
    ended = threading.Event()
    # A large body creates many objects. With the default thresholds the collector would scan them repeatedly.
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)
    server = make_http_server(guard_hosts(application, config.ADDRESS))
    async with lifespan(application):
        server.add_sockets(sockets)
        if mongod is not None:
            PeriodicCallback(mongod.restart_if_gone, MONGOD_TICK_MS).start()
        if debug:
            autoreload.add_reload_hook(reloading.restart)
            autoreload.start()
            blocking.report_blocking_calls(ended)
        if not application.state.worker:  # of several workers, only the first
            print_welcome(application, sockets[0].getsockname()[1])
        await stop.wait()
        application.state.draining = True
        server.stop()
        for websocket in list(application.state.websockets):
            websocket.close(1001, "The server is stopping")
        await server.wait_until_idle()
        await drain(application)
        await server.close_all_connections()
        ended.set()


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM and SIGINT set. A second signal ends the process."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def on_signal() -> None:
        for number in supervisor.SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        stop.set()

    for number in supervisor.SIGNALS:
        loop.add_signal_handler(number, on_signal)
    return stop


def make_http_server(application: HTTPServerConnectionDelegate) -> Server | TornadoServer:
    """Return the HTTP server that HTTP_SERVER selects."""
    return make_tornado_server(application) if config.HTTP_SERVER == "tornado" else Server(application)
