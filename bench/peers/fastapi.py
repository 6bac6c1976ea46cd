"""FastAPI, on uvicorn: models for bodies, a dependency for the key, answers past its slower encoder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel

from bench import work


class Echo(BaseModel):
    message: str


class Update(BaseModel):
    update_user: dict[str, Any]


class Login(BaseModel):
    access_token: str
    oauth_id: str
    user: dict[str, Any]


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    application.state.database = work.connect()
    yield


application = FastAPI(lifespan=lifespan)


@application.exception_handler(work.Refused)
async def refuse(request: Request, error: work.Refused) -> Response:
    return respond(error.message, error.code)


def respond(data: Any, code: int = 200) -> Response:
    return Response(work.envelope(data, code), code, work.HEADERS, work.CONTENT_TYPE)


async def find_user_id(
    request: Request, indico_key: Annotated[str | None, Header(convert_underscores=False)] = None
) -> str:
    return await work.find_user_id(request.app.state.database, work.check_key(indico_key))


UserId = Annotated[str, Depends(find_user_id)]


@application.post("/echo/echo")
async def echo(body: Echo) -> Response:
    return respond({"message": body.message})


@application.post("/auth/check")
async def check(user_id: UserId) -> Response:
    return respond(True)


@application.post("/user/update")
async def update(request: Request, user_id: UserId, body: Update) -> Response:
    return respond(await work.update_user(request.app.state.database, user_id, body.update_user))


@application.post("/auth/login")
async def login(request: Request, body: Login) -> Response:
    database = request.app.state.database
    return respond(await work.store_login(database, body.access_token, body.oauth_id, body.user))


if __name__ == "__main__":
    work.run_uvicorn(application)
