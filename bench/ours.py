"""
Our server with one more route, as its users write them: `python -m bench.ours`. Settings come from the
environment; BATTERIES=none and BATTERIES=default leave out batteries.
"""

from __future__ import annotations

import asyncio
import logging
import os

from indico import batteries, config, server
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack


class EchoHandler(IndicoHandler):
    @unpack("message")
    @type_check(str)
    async def echo(self, message: str) -> dict[str, str]:
        """Give the message back."""
        return {"message": message}

    @unpack("seconds")
    @type_check(int)
    async def wait(self, seconds: int) -> bool:
        """Answer so many seconds later."""
        await asyncio.sleep(seconds)
        return True


EchoRoute = (r"/echo/(?P<action>[a-zA-Z]+)?", EchoHandler)
server.ROUTES.append(EchoRoute)
DEFAULT = [  # a copy has these by default
    f"{batteries.__name__}.{name}"
    for name in ("cors", "docs_page", "health", "limit", "logs", "metrics", "openapi")
]

if __name__ == "__main__":
    kept = {"none": (), "default": DEFAULT}.get(os.environ.get("BATTERIES", ""), server.BATTERIES)
    server.BATTERIES[:] = [name for name in server.BATTERIES if name in kept]
    if not os.environ.get("REQUEST_LOG"):
        logging.disable(logging.INFO)  # the peers write no line for each request either
    server.main(debug=False, port=config.PORT)
