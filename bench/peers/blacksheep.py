"""BlackSheep, on uvicorn."""

from __future__ import annotations

from typing import Any

from blacksheep import Application, Content, Request, Response

from bench import work

HEADERS = [(name.encode(), value.encode()) for name, value in work.HEADERS.items()]
CONTENT_TYPE = work.CONTENT_TYPE.encode()

application = Application()
state: dict[str, Any] = {}


class Headers:
    """The one method of a mapping that `bench.work` needs."""

    def __init__(self, request: Request) -> None:
        self._headers = request.headers

    def get(self, name: str) -> str | None:
        value = self._headers.get_first(name.encode())
        return None if value is None else value.decode()


def respond(answer: work.Answer) -> Response:
    status, body = answer
    return Response(status, [*HEADERS], Content(CONTENT_TYPE, body))  # it adds to the list


@application.on_start
async def start(application: Application) -> None:
    state["database"] = work.connect()


@application.router.post("/echo/echo")
async def echo(request: Request) -> Response:
    return respond(work.echo(await request.read()))


@application.router.post("/auth/check")
async def check(request: Request) -> Response:
    return respond(await work.check(state["database"], Headers(request)))


@application.router.post("/user/update")
async def update(request: Request) -> Response:
    return respond(await work.update(state["database"], Headers(request), await request.read()))


@application.router.post("/auth/login")
async def login(request: Request) -> Response:
    return respond(await work.login(state["database"], await request.read()))


if __name__ == "__main__":
    work.run_uvicorn(application)
