"""Litestar, on uvicorn: structs for bodies, a header parameter for the key."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Litestar, Request, Response, post
from litestar.datastructures import State
from litestar.params import Parameter

from bench import work


class Echo(msgspec.Struct):
    message: str


class Update(msgspec.Struct):
    update_user: dict[str, Any]


class Login(msgspec.Struct):
    access_token: str
    oauth_id: str
    user: dict[str, Any]


Key = Annotated[str | None, Parameter(header="indico_key", required=False)]


def respond(body: Any, code: int = 200) -> Response[bytes]:
    return Response(
        work.envelope(body, code), status_code=code, headers=work.HEADERS, media_type=work.CONTENT_TYPE
    )


def refuse(request: Request[Any, Any, Any], error: work.Refused) -> Response[bytes]:
    return respond(error.message, error.code)


@post("/echo/echo", status_code=200)
async def echo(data: Echo) -> Response[bytes]:
    return respond({"message": data.message})


@post("/auth/check", status_code=200)
async def check(state: State, key: Key = None) -> Response[bytes]:
    await work.find_user_id(state.database, work.check_key(key))
    return respond(True)


@post("/user/update", status_code=200)
async def update(state: State, data: Update, key: Key = None) -> Response[bytes]:
    user_id = await work.find_user_id(state.database, work.check_key(key))
    return respond(await work.update_user(state.database, user_id, data.update_user))


@post("/auth/login", status_code=200)
async def login(state: State, data: Login) -> Response[bytes]:
    return respond(await work.store_login(state.database, data.access_token, data.oauth_id, data.user))


async def start(application: Litestar) -> None:
    application.state.database = work.connect()


application = Litestar(
    [echo, check, update, login],
    on_startup=[start],
    exception_handlers={work.Refused: refuse},
    openapi_config=None,
)

if __name__ == "__main__":
    work.run_uvicorn(application)
