"""
Sentry: sends logged errors to SENTRY_DSN, with the traceback and the name of the action. Data from the
request is not sent: no body, no header, no variable, and no message that quotes one of them.
"""

from __future__ import annotations

import asyncio
import importlib.util
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
from indico.core.http.proxies import is_from_proxy
from indico.error import IndicoError
from indico.utils import LOGGER, smart_parse

FLUSH_SECONDS = 2  # at shutdown, for sending the remaining events
DSN = re.compile(r"https?://[^/@\s]+@[^/@:\s]+(:\d{1,5})?/(\S+/)?\d+")
FILTERED = "[Filtered]"
MIN_LENGTH = 6  # characters; shorter values are not filtered
WORD = re.compile(rf"\w{{{MIN_LENGTH},}}")
SECRET = re.compile(r"(?<![0-9a-f])[0-9a-f]{56}(?![0-9a-f])|(?<=://)[^/@\s]+(?=@)")  # keys, passwords in URIs


# A weak reference, because contexts can outlive requests and would keep the handler in memory.
_handler: ContextVar[Callable[[], EnvelopeHandler | None]] = ContextVar("handler", default=lambda: None)
_transaction: ContextVar[Any] = ContextVar("transaction", default=None)


def install(application: Application) -> None:
    """Send errors while the server runs, if SENTRY_DSN is set."""
    if not config.SENTRY_DSN:
        return
    if importlib.util.find_spec("sentry_sdk") is None:
        LOGGER.warning("SENTRY_DSN needs sentry-sdk: pip install -e '.[sentry]'")
        return
    if not DSN.fullmatch(config.SENTRY_DSN):
        raise config.SettingError("SENTRY_DSN should be like https://key@example.com/1.")
    application.hooks.lifespans.append(lifespan)


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Start Sentry's thread in this worker. At shutdown, send the remaining events."""
    import sentry_sdk
    from sentry_sdk.integrations.logging import EventHandler

    sentry_sdk.init(
        config.SENTRY_DSN,
        environment=config.INDICO_ENV,
        before_send=prepare,
        traces_sample_rate=config.SENTRY_TRACES_SAMPLE_RATE,
        # Integrations, variables and breadcrumbs can contain tokens and bodies.
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
        await asyncio.to_thread(sentry_sdk.get_client().close, timeout=FLUSH_SECONDS)
        sentry_sdk.get_global_scope().set_client(None)


def watch(handler: EnvelopeHandler) -> Callable[[], object]:
    """Remember the handler for the request's events. Trace it if SENTRY_TRACES_SAMPLE_RATE is set."""
    import sentry_sdk

    _handler.set(weakref.ref(handler))
    if not config.SENTRY_TRACES_SAMPLE_RATE:
        return lambda: None
    # Others could have all their requests sampled, or add them to the traces of strangers.
    given = handler.request.headers.get("sentry-trace", "") if is_from_proxy(handler.request) else ""
    trace = {"sentry-trace": given} if given else {}
    transaction: Any = sentry_sdk.start_transaction(sentry_sdk.continue_trace(trace, op="http.server"))
    _transaction.set(transaction)

    def end() -> None:
        transaction.name = name_request(handler)
        transaction.set_http_status(handler.get_status())
        transaction.finish()

    return end


def prepare(event: Any, hint: Any) -> Any:
    """Return the event with the name of its request's action, and without data that the client sent."""
    handler, transaction = _handler.get()(), _transaction.get()
    trace = {"trace_id": uuid.uuid4().hex, "span_id": uuid.uuid4().hex[:16]}
    if handler is not None:
        event["transaction"] = name_request(handler)
        if handler.request_id is not None:
            event.setdefault("tags", {})["request_id"] = handler.request_id
        if transaction is not None:
            trace = transaction.get_trace_context()
    event.setdefault("contexts", {})["trace"] = trace
    secrets = sorted({*find_secrets(handler)}, key=len, reverse=True)
    for exception in event.get("exception", {}).get("values", ()):
        exception["value"] = scrub(exception["value"], secrets)
    event["logentry"] = {"message": scrub(event.get("logentry", {}).get("formatted", ""), secrets)}
    event["extra"] = {name: scrub(value, secrets) for name, value in event.get("extra", {}).items()}
    return event


def find_secrets(handler: EnvelopeHandler | None) -> Iterator[str]:
    """Yield strings to remove from messages: the server's secrets, and the client's data in all quotings."""
    yield from filter(None, (config.USER_SALT, config.DEV_TOKEN, config.FACEBOOK_APP_SECRET))
    if handler is None:
        return
    yield from (value for value in handler.request.headers.values() if len(value) >= MIN_LENGTH)
    for text in read_strings(handler.request.body):
        if len(text) >= MIN_LENGTH:
            yield from (text, repr(text)[1:-1], quote_plus(text))
            yield from WORD.findall(text)  # punctuation may be escaped, even twice, but words are not


def read_strings(body: bytes) -> list[str]:
    """Return the strings in a body, at any depth."""
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
    """Return the value as a string, without these secrets, keys, and passwords in URIs."""
    text = str(value)
    for secret in secrets:
        text = text.replace(secret, FILTERED)
    return SECRET.sub(FILTERED, text)
