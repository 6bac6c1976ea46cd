"""Starlette, on uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench import work


def respond(answer: work.Answer) -> Response:
    status, body = answer
    return Response(body, status, work.HEADERS, work.CONTENT_TYPE)


async def echo(request: Request) -> Response:
    return respond(work.echo(await request.body()))


async def check(request: Request) -> Response:
    return respond(await work.check(request.app.state.database, request.headers))


async def update(request: Request) -> Response:
    return respond(await work.update(request.app.state.database, request.headers, await request.body()))


async def login(request: Request) -> Response:
    return respond(await work.login(request.app.state.database, await request.body()))


@asynccontextmanager
async def lifespan(application: Any) -> AsyncIterator[None]:
    application.state.database = work.connect()
    yield


application = Starlette(
    routes=[
        Route("/echo/echo", echo, methods=["POST"]),
        Route("/auth/check", check, methods=["POST"]),
        Route("/user/update", update, methods=["POST"]),
        Route("/auth/login", login, methods=["POST"]),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    work.run_uvicorn(application)
