"""
The server of `bench.batteries`: an action with a key, and what batteries add to it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from indico import config, server
from indico.batteries import idempotency
from indico.batteries.idempotency import idempotent
from indico.batteries.limit import limit
from indico.routes.handler import IndicoHandler
from indico.utils.auth.auth_utils import auth

EVENTS = 20_000  # of a stream


class CostHandler(IndicoHandler):
    @auth
    async def plain(self, data: bytes) -> bool:
        return True

    @auth
    @limit("1000000/second")
    async def limited(self, data: bytes) -> bool:
        return True

    @auth
    @idempotent
    async def idempotent(self, data: bytes) -> bool:
        return True

    async def stream(self, data: bytes) -> AsyncIterator[int]:
        for number in range(EVENTS):
            yield number


if __name__ == "__main__":
    server.ROUTES.append((r"/cost/(?P<action>[a-z]+)?", CostHandler))
    server.BATTERIES[:] = [idempotency.__name__]  # `@limit` needs no installation
    logging.disable(logging.INFO)
    server.main(debug=False, port=config.PORT)
