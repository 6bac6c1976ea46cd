"""FastAPI with Beanie, an object-document mapper over PyMongo's async client, on uvicorn."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from beanie import Document, UpdateResponse, init_beanie
from beanie.operators import Set
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict
from pymongo import AsyncMongoClient

from bench import work


class Key(Document):
    key: str
    secret: str
    user_id: str
    login: int
    generation: int

    class Settings:
        name = "auth"


class User(Document):
    model_config = ConfigDict(extra="allow")

    user_id: str
    name: str
    phone: str
    email: str
    birthday: int
    profilePic: str
    created: int

    class Settings:
        name = "user"


class Echo(BaseModel):
    message: str


class Update(BaseModel):
    update_user: dict[str, Any]


@asynccontextmanager
async def lifespan(application: FastAPI) -> AsyncIterator[None]:
    client: Any = AsyncMongoClient(work.MONGODB)
    await init_beanie(client[work.DATABASE], document_models=[Key, User], skip_indexes=True)
    yield


application = FastAPI(lifespan=lifespan)


@application.exception_handler(work.Refused)
async def refuse(request: Request, error: work.Refused) -> Response:
    return respond(error.message, error.code)


def respond(data: Any, code: int = 200) -> Response:
    return Response(work.envelope(data, code), code, work.HEADERS, work.CONTENT_TYPE)


async def find_user_id(
    indico_key: Annotated[str | None, Header(convert_underscores=False)] = None,
) -> str:
    since = work.current_time() - work.KEY_LIFETIME * 1000
    query = {**work.stored_key(work.check_key(indico_key)), "login": {"$gt": since}}
    key = await Key.find_one(query)
    if key is None:
        raise work.Refused("User not authenticated", 401)
    return key.user_id


UserId = Annotated[str, Depends(find_user_id)]


@application.post("/echo/echo")
async def echo(body: Echo) -> Response:
    return respond({"message": body.message})


@application.post("/auth/check")
async def check(user_id: UserId) -> Response:
    return respond(True)


@application.post("/user/update")
async def update(user_id: UserId, body: Update) -> Response:
    user = await User.find_one(User.user_id == user_id).update(
        Set(body.update_user), response_type=UpdateResponse.NEW_DOCUMENT
    )
    if user is None:
        raise work.Refused("User not authenticated", 401)
    data = user.model_dump()
    return respond({"_id": data.pop("id"), **data})


if __name__ == "__main__":
    work.run_uvicorn(application)
