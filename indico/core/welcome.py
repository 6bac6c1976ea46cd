"""
The text that the server prints when it is ready.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress

from indico import config
from indico.core.decorators import get_info
from indico.core.hooks import Application
from indico.core.http.envelope import name_route
from indico.core.log import LOGGER
from indico.core.mongo.drivers import describe


def print_welcome(application: Application, port: int) -> None:
    """Log the address of the server. In development, print it, with what there is and how to log in."""
    host = config.ADDRESS or "127.0.0.1"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if config.PRODUCTION:
        LOGGER.info("indico listens on %s", address)
        return
    database = describe(config.MONGODB, config.MONGODB_DATABASE)
    if folder := application.state.mongod_folder:
        database += f", started here, data in {folder}"
    pages = {name: address + path for name, path in application.hooks.welcome_pages.items()}
    open_actions = ", ".join(list_open_actions(application)) or "none"
    rows = {"database": database, **pages, "open actions": open_actions}
    width = max(map(len, rows))
    data = {"access_token": config.DEV_TOKEN, "oauth_id": "1", "user": {"name": "Ada"}}
    lines = [
        f"indico listens on {address}",
        *(f"  {name:{width}}  {text}" for name, text in rows.items()),
        "Log in with",
        "  " + shlex.join(["curl", f"{address}/auth/login", "-d", json.dumps(data)]),
    ]
    with suppress(OSError):  # nobody reads it, or the disk is full
        print("\n".join(lines), flush=True)


def list_open_actions(application: Application) -> list[str]:
    """Return the actions that need no key: `auth.login`."""
    found = []
    for rule in application.routes:
        for name, function in getattr(rule.target, "list_actions", dict)().items():
            if "auth" not in get_info(function).decorators:
                found.append(f"{name_route(rule.target)}.{name}")
    return found
