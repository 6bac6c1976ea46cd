"""
The text that the server prints when it is ready.
"""

from __future__ import annotations

import json
import shlex
from contextlib import suppress

from indico import config
from indico.core.hooks import Application
from indico.core.mongo.drivers import describe


def print_welcome(application: Application, port: int) -> None:
    """Print the address of the server. In development, also the database, the pages and how to log in."""
    host = config.ADDRESS or "127.0.0.1"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    lines = [f"indico listens on {address}"]
    if not config.PRODUCTION:
        database = describe(config.MONGODB, config.MONGODB_DATABASE)
        if folder := application.state.mongod_folder:
            database += f", started here, its data in {folder}"
        pages = {name: address + path for name, path in application.hooks.welcome_pages.items()}
        rows = {"database": database, **pages}
        width = max(map(len, rows))
        lines += [f"  {name:{width}}  {text}" for name, text in rows.items()]
        data = {"access_token": config.DEV_TOKEN, "oauth_id": "1", "user": {"name": "Ada"}}
        command = shlex.join(["curl", f"{address}/auth/login", "-d", json.dumps(data)])
        lines += ["Log in with", f"  {command}"]
    with suppress(OSError):  # nobody reads it, or the disk is full
        print("\n".join(lines), flush=True)
