"""aiohttp, on its own server and uvloop."""

from __future__ import annotations

import uvloop
from aiohttp import web

from bench import work

DATABASE = web.AppKey("database", object)


def respond(answer: work.Answer) -> web.Response:
    status, body = answer
    return web.Response(body=body, status=status, headers=work.ALL_HEADERS)


async def echo(request: web.Request) -> web.Response:
    return respond(work.echo(await request.read()))


async def check(request: web.Request) -> web.Response:
    return respond(await work.check(request.app[DATABASE], request.headers))


async def update(request: web.Request) -> web.Response:
    return respond(await work.update(request.app[DATABASE], request.headers, await request.read()))


async def login(request: web.Request) -> web.Response:
    return respond(await work.login(request.app[DATABASE], await request.read()))


async def start(application: web.Application) -> None:
    application[DATABASE] = work.connect()


async def make_app() -> web.Application:
    application = web.Application()
    application.on_startup.append(start)
    application.router.add_post("/echo/echo", echo)
    application.router.add_post("/auth/check", check)
    application.router.add_post("/user/update", update)
    application.router.add_post("/auth/login", login)
    return application


if __name__ == "__main__":
    uvloop.install()
    web.run_app(make_app(), host="127.0.0.1", port=work.PORT, access_log=None, print=None)
