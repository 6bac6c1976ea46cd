"""
Start and stop of the application on any HTTP server: settings, batteries, MongoDB and background tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from indico import config
from indico.core.development import get_secret
from indico.core.hooks import Application, DatabaseRoom
from indico.core.log import LOGGER
from indico.core.mongo import key_cache
from indico.core.tasks import spawn
from indico.error import Unavailable

RETRY_PAUSE = 1  # seconds between attempts to create the indexes
POLL_INTERVAL = 0.02  # seconds between checks for requests in flight


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """
    Check the settings, start the batteries, connect to MongoDB and create the indexes. At the end, wait for
    the requests in flight, close the connection and stop the batteries.

    If MongoDB can't be reached, the server starts anyway and creates the indexes later. Raises SettingError.
    """
    config.check()
    if config.PRODUCTION and not (config.FACEBOOK_APP_ID and config.FACEBOOK_APP_SECRET):
        LOGGER.warning("FACEBOOK_APP_ID or FACEBOOK_APP_SECRET is not set: logins with Facebook answer 503")
    if not config.PRODUCTION and not config.DEV_TOKEN:
        config.DEV_TOKEN = get_secret("dev_token")
    database = application.database
    async with AsyncExitStack() as batteries:
        for battery_lifespan in application.hooks.lifespans:
            await batteries.enter_async_context(battery_lifespan(application))
        database.connect(listeners=application.hooks.mongo_listeners)
        indexes = spawn(make_indexes(database))
        background = [indexes]
        if config.KEY_CACHE:
            background.append(spawn(key_cache.follow_logouts(database)))
        try:
            await asyncio.wait([indexes], timeout=config.MONGODB_TIMEOUT)
            yield
        finally:
            await drain(application)
            for task in background:
                task.cancel()
            await asyncio.wait(background)
            key_cache.forget_all()
            await database.close()


async def make_indexes(database: DatabaseRoom) -> None:
    """Create the indexes. Retry every RETRY_PAUSE while MongoDB can't be reached."""
    warned = False
    while True:
        try:
            return await database.ensure_indexes()
        except Unavailable as error:
            if not warned:
                LOGGER.warning("%s: requests that need it answer 503 until it can", error.message)
                warned = True
            await asyncio.sleep(RETRY_PAUSE)


async def drain(application: Application) -> None:
    """Wait SHUTDOWN_TIMEOUT at most for the requests in flight. Respond to the rest with 503."""
    in_flight = application.state.in_flight
    deadline = asyncio.get_running_loop().time() + config.SHUTDOWN_TIMEOUT
    while in_flight and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(POLL_INTERVAL)
    for handler in list(in_flight):
        handler.abort_with(Unavailable("The server is going down"))


async def check_settings(application: Application) -> None:
    """Raise SettingError if the server can't start with these settings. Runs once, before the workers."""
    config.check()
    for sentence in config.environment.find_misspelt():
        LOGGER.warning(sentence)
    application.database.connect()
    await application.database.close()
