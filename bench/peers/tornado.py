"""Bare Tornado, on its own server."""

from __future__ import annotations

import asyncio
from typing import Any

from tornado.web import Application, RequestHandler

from bench import work


class Handler(RequestHandler):
    def initialize(self, database: Any) -> None:
        self.database = database

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        for name, value in work.ALL_HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        """The others make none either."""

    def respond(self, answer: work.Answer) -> None:
        status, body = answer
        self.set_status(status)
        self.finish(body)


class EchoHandler(Handler):
    async def post(self) -> None:
        self.respond(work.echo(self.request.body))


class CheckHandler(Handler):
    async def post(self) -> None:
        self.respond(await work.check(self.database, self.request.headers))


class UpdateHandler(Handler):
    async def post(self) -> None:
        self.respond(await work.update(self.database, self.request.headers, self.request.body))


class LoginHandler(Handler):
    async def post(self) -> None:
        self.respond(await work.login(self.database, self.request.body))


class WaitHandler(Handler):
    async def post(self) -> None:
        [seconds] = work.take(self.request.body, ("seconds", int))
        await asyncio.sleep(seconds)
        self.respond((200, work.envelope(True)))


async def main() -> None:
    given = {"database": work.connect()}
    routes = [
        ("/echo/echo", EchoHandler, given),
        ("/echo/wait", WaitHandler, given),
        ("/auth/check", CheckHandler, given),
        ("/user/update", UpdateHandler, given),
        ("/auth/login", LoginHandler, given),
    ]
    Application(routes).listen(work.PORT, "127.0.0.1", backlog=1024)  # for thousands of clients at once
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
