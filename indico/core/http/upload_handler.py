"""
Actions with files. They start when the headers have been received, and receive the body when they want it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, get_args

from tornado.http1connection import HTTP1Connection

from indico import config
from indico.core.decorators import get_info
from indico.core.http.bodies import check_encoding, smart_parse
from indico.core.http.request_handler import LimitedHandler
from indico.core.http.uploads import Form, Upload
from indico.core.tasks import await_outcome


def takes_uploads(kind: Any) -> bool:
    """Whether the type is `Upload`, or contains it: `Upload | None`, `list[Upload]`."""
    return kind is Upload or any(map(takes_uploads, get_args(kind)))


def read_body(pass_fields: Callable[[Any, dict[str, Any]], Any], types: Iterable[Any]) -> Callable[..., Any]:
    """Return an action that passes the fields of its body on. It waits for the body if one may have files."""

    def parse(self: Any, data: str | bytes) -> Any:
        if hasattr(self, "request"):  # not if it is called without a handler
            check_encoding(self.request.headers)
        return pass_fields(self, smart_parse(data))

    async def receive(self: Any, data: bytes) -> Any:
        check_encoding(self.request.headers)
        return await await_outcome(pass_fields(self, await self.read_fields(data)))

    return receive if any(map(takes_uploads, types)) else parse


class UploadHandler(LimitedHandler):
    """A handler whose actions can take files."""

    max_body_size: int | None = None  # bytes of a body with files; None: MAX_BODY_SIZE
    body_timeout: float | None = None  # seconds for receiving such a body; None: BODY_TIMEOUT
    _form: Form | None = None  # the body, if it may have files

    def _make_form(self) -> Form | None:
        content_type = self.request.headers.get("Content-Type", "")
        if self.request.method != "POST" or not content_type.lower().startswith("multipart/form-data"):
            return None
        handler: Any = self  # IndicoHandler, which finds its actions
        info = get_info(handler.get_action(str(self.path_kwargs.get("action"))))
        kinds = zip(info.fields or (), info.types or ())
        files = {name: kind for name, kind in kinds if takes_uploads(kind)}
        return Form(content_type, files, self.max_body_size or config.MAX_BODY_SIZE) if files else None

    def _get_max_body(self) -> int:
        return super()._get_max_body() if self._form is None else self._form.limit

    def prepare(self) -> Awaitable[None] | None:
        self._form = self._make_form()
        ready = super().prepare()
        return ready if self._form is None or self._has_response else self._start_upload(self._form)

    async def _start_upload(self, form: Form) -> None:
        """Run the action. Return when it wants the body or has ended."""
        connection: Any = self.request.connection
        connection.set_body_timeout(self.body_timeout or config.BODY_TIMEOUT)
        if isinstance(connection, HTTP1Connection):  # Tornado's, whose own limit is 100 MB
            connection.set_max_body_size(2**63)
        post: Any = self.post
        action = asyncio.ensure_future(post(**self.path_kwargs))

        async def end_upload(**kwargs: Any) -> None:
            form.end()
            await action

        setattr(self, "post", end_upload)  # noqa: B010 - called after the body
        await asyncio.wait((action, form.wanted), return_when=asyncio.FIRST_COMPLETED)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        return super().data_received(chunk) if self._form is None else self._form.feed(chunk)

    async def read_fields(self, data: bytes) -> dict[str, Any]:
        """Return the fields of a body that may have files. No timeout of the action runs meanwhile."""
        if self._form is None:
            return smart_parse(data)
        self.stop_timer()
        try:
            return await self._form.read()
        finally:
            self.start_timer()

    def fail(self, error: BaseException) -> None:
        if self._form is not None and not self._form.received:
            self.set_header("Connection", "close")  # the rest of the body is not read
        super().fail(error)

    def end_action(self) -> None:
        super().end_action()
        if self._form is not None:
            self._form.close()
