"""Sanic, on its own server, in one process."""

from __future__ import annotations

from typing import Any

from sanic import HTTPResponse, Request, Sanic

from bench import work

application = Sanic("bench", configure_logging=False)
application.config.ACCESS_LOG = False
application.config.TOUCHUP = True


def respond(answer: work.Answer) -> HTTPResponse:
    status, body = answer
    return HTTPResponse(body, status, work.HEADERS, work.CONTENT_TYPE)


@application.before_server_start
async def start(application: Any) -> None:
    application.ctx.database = work.connect()


@application.post("/echo/echo")
async def echo(request: Request) -> HTTPResponse:
    return respond(work.echo(request.body))


@application.post("/auth/check")
async def check(request: Request) -> HTTPResponse:
    return respond(await work.check(request.app.ctx.database, request.headers))


@application.post("/user/update")
async def update(request: Request) -> HTTPResponse:
    return respond(await work.update(request.app.ctx.database, request.headers, request.body))


@application.post("/auth/login")
async def login(request: Request) -> HTTPResponse:
    return respond(await work.login(request.app.ctx.database, request.body))


if __name__ == "__main__":
    application.run(host="127.0.0.1", port=work.PORT, single_process=True, motd=False)
