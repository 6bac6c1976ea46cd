"""
Start and stop of the application on any HTTP server: settings, batteries, MongoDB and background tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from indico import config
from indico.core.development import get_secret, make_secrets
from indico.core.hooks import Application
from indico.core.log import LOGGER, announce
from indico.core.mongo import key_cache
from indico.core.startup import StartupTask, run_in_background
from indico.error import Unavailable

POLL_INTERVAL = 0.02  # seconds between checks for requests in flight


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """
    Check the settings, start the batteries, connect to MongoDB and create the indexes. At the end, wait for
    the requests in flight, close the connection and stop the batteries.

    The server starts when the first attempt to create the indexes has ended, or after MONGODB_TIMEOUT. If
    that attempt fails, whatever the cause, it is repeated while the server runs. Raises SettingError.
    """
    config.check()
    if not application.state.worker:  # of several workers, only the first
        for sentence in config.environment.find_misspelt():
            LOGGER.warning(sentence)
    # if facebook
    if config.PRODUCTION and not (config.FACEBOOK_APP_ID and config.FACEBOOK_APP_SECRET):
        LOGGER.warning("FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set: logins with Facebook answer 503")
    # end if
    if not config.PRODUCTION and not config.DEV_TOKEN:
        config.DEV_TOKEN = get_secret("dev_token")
    database = application.database
    async with AsyncExitStack() as batteries:
        for battery_lifespan in application.hooks.lifespans:
            await batteries.enter_async_context(battery_lifespan(application))
        database.connect(listeners=application.hooks.mongo_listeners)
        indexes = StartupTask("Indexes", application.state.missing)
        work = [task(application) for task in application.hooks.background_tasks]
        work.append(indexes.run(database.ensure_indexes))
        if config.KEY_CACHE:
            stream = StartupTask("Key cache", application.state.missing)
            work.append(key_cache.follow_logouts(database.get_database, stream))
        try:
            async with run_in_background(work):
                with suppress(TimeoutError), announce("Waiting for MongoDB"):
                    await asyncio.wait_for(indexes.tried.wait(), config.MONGODB_TIMEOUT)
                application.state.running = True
                try:
                    yield
                finally:
                    application.state.running = False
                    await drain(application)
        finally:
            key_cache.forget_all()
            await database.close()


async def drain(application: Application) -> None:
    """Wait SHUTDOWN_TIMEOUT at most for the requests in flight. Respond to the rest with 503."""
    in_flight = application.state.in_flight
    deadline = asyncio.get_running_loop().time() + config.SHUTDOWN_TIMEOUT
    with announce("Waiting for requests and jobs in flight; a second signal ends them at once"):
        while in_flight and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL_INTERVAL)
    for handler in list(in_flight):
        handler.abort_with(Unavailable("The server is stopping"))


async def check_settings(application: Application) -> None:
    """Raise SettingError if the server can't start with these settings. Runs once, before the workers."""
    config.check()
    make_secrets()
    application.database.connect()
    await application.database.close()
