"""
Sentry: what is logged as an error goes to SENTRY_DSN, with its traceback, and named after the action. Of the
request goes nothing along: no body, no header, no variable, and no message that quotes one of them.
"""

from __future__ import annotations

import asyncio
import logging
import re
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any
from urllib.parse import quote_plus

from indico import config
from indico.core.hooks import Application
from indico.core.http.bodies import iter_levels
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.error import IndicoError
from indico.utils import LOGGER, smart_parse

FLUSH = 2  # seconds that Sentry has at the end for what was not sent yet
FILTERED = "[Filtered]"
SHORTEST = 6  # characters; what clients send that is shorter may stand in messages
WORD = re.compile(rf"\w{{{SHORTEST},}}")
SECRET = re.compile(r"(?<![0-9a-f])[0-9a-f]{56}(?![0-9a-f])|(?<=://)[^/@\s]+(?=@)")  # keys, passwords in URIs

_handler: ContextVar[Callable[[], EnvelopeHandler | None]] = ContextVar("handler", default=lambda: None)


def install(application: Application) -> None:
    """Send errors while the server runs, if there is a SENTRY_DSN."""
    if not config.SENTRY_DSN:
        return
    try:
        from sentry_sdk.utils import BadDsn, Dsn
    except ImportError:
        LOGGER.warning("SENTRY_DSN needs sentry-sdk: pip install -e '.[sentry]'")
        return
    try:
        Dsn(config.SENTRY_DSN)
    except BadDsn as error:
        raise config.SettingError("SENTRY_DSN should be like https://key@example.com/1.") from error
    application.hooks.lifespans.append(lifespan)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Start Sentry's thread in the process that serves, and have it send the rest at the end."""
    import sentry_sdk
    from sentry_sdk.integrations.logging import EventHandler

    sentry_sdk.init(
        config.SENTRY_DSN,
        environment=config.INDICO_ENV,
        before_send=prepare,
        traces_sample_rate=config.SENTRY_TRACES_SAMPLE_RATE,
        # What they collect, variables and breadcrumbs may hold tokens and bodies.
        default_integrations=False,
        auto_enabling_integrations=False,
        include_local_variables=False,
        max_breadcrumbs=0,
        auto_session_tracking=False,
        send_client_reports=False,
    )
    errors = EventHandler(logging.ERROR)
    logging.getLogger().addHandler(errors)
    application.hooks.around_request.append(watch)
    try:
        yield
    finally:
        application.hooks.around_request.remove(watch)
        logging.getLogger().removeHandler(errors)
        await asyncio.to_thread(sentry_sdk.get_client().close, timeout=FLUSH)
        sentry_sdk.get_global_scope().set_client(None)


def watch(handler: EnvelopeHandler) -> Callable[[], object]:
    """Know whose error it is, and time the request if SENTRY_TRACES_SAMPLE_RATE says so."""
    import sentry_sdk

    _handler.set(weakref.ref(handler))  # the connection keeps its context, and should not keep the handler
    if not config.SENTRY_TRACES_SAMPLE_RATE:
        return lambda: None
    headers = {name.lower(): value for name, value in handler.request.headers.items()}
    transaction: Any = sentry_sdk.start_transaction(sentry_sdk.continue_trace(headers, op="http.server"))
    vars(handler)["transaction"] = transaction

    def end() -> None:
        transaction.name = name_request(handler)
        transaction.set_http_status(handler.get_status())
        transaction.finish()

    return end


def prepare(event: Any, hint: Any) -> Any:
    """The event, named after its request's action, without anything that the client sent."""
    handler = _handler.get()()
    if handler is not None:
        event["transaction"] = name_request(handler)
        if "X-Request-Id" in handler._headers:  # which the logs have too
            event.setdefault("tags", {})["request_id"] = handler._headers["X-Request-Id"]
    transaction = vars(handler).get("transaction") if handler is not None else None
    event.setdefault("contexts", {})["trace"] = (
        transaction.get_trace_context()
        if transaction is not None
        else {"trace_id": uuid.uuid4().hex, "span_id": uuid.uuid4().hex[:16]}
    )
    secrets = sorted({*find_secrets(handler)}, key=len, reverse=True)
    for exception in event.get("exception", {}).get("values", ()):
        exception["value"] = scrub(exception["value"], secrets)
    event["logentry"] = {"message": scrub(event.get("logentry", {}).get("formatted", ""), secrets)}
    event["extra"] = {name: scrub(value, secrets) for name, value in event.get("extra", {}).items()}
    return event


def find_secrets(handler: EnvelopeHandler | None) -> Iterator[str]:
    """What no message may hold: the server's secrets and, however it may be quoted, what the client sent."""
    yield from filter(None, (config.USER_SALT, config.DEV_TOKEN, config.FACEBOOK_APP_SECRET))
    if handler is None:
        return
    yield from (value for value in handler.request.headers.values() if len(value) >= SHORTEST)
    for text in read_strings(handler.request.body):
        if len(text) >= SHORTEST:
            yield from (text, repr(text)[1:-1], quote_plus(text))
            yield from WORD.findall(
                text
            )  # whatever stands in between may have been escaped, and more than once


def read_strings(body: bytes) -> list[str]:
    """The strings that a body holds, at any depth."""
    try:
        data = smart_parse(body)
    except IndicoError:
        return [body.decode(errors="replace")]
    members = (
        member
        for level in iter_levels(data)
        for container in level
        for member in (container.values() if isinstance(container, dict) else container)
    )
    return [member for member in members if isinstance(member, str)]


def scrub(value: object, secrets: list[str]) -> str:
    """The value as text, without these secrets, keys, and passwords in URIs."""
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, FILTERED)
    return SECRET.sub(FILTERED, text)
