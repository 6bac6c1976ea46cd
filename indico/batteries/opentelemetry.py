"""
OpenTelemetry: makes a span for each request, named after its action, and a child span for each MongoDB
command. They are sent by OTLP over HTTP to OTEL_EXPORTER_OTLP_ENDPOINT. If a request from a trusted proxy has
the header `traceparent`, that is the parent of its span.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from indico import config
from indico.core.hooks import Application
from indico.core.http.envelope import EnvelopeHandler, name_request
from indico.core.http.proxies import is_from_proxy
from indico.utils import LOGGER

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

FLUSH_SECONDS = 2  # at shutdown, for sending the remaining spans


def install(application: Application) -> None:
    """Trace while the server runs, if there is an endpoint and OpenTelemetry's variables don't disable it."""
    if not find_endpoint():
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter  # noqa: F401
    except ImportError:
        LOGGER.warning("OTEL_EXPORTER_OTLP_ENDPOINT needs an exporter: pip install -e '.[opentelemetry]'")
        return
    application.hooks.lifespans.append(lifespan)


def find_endpoint() -> str:
    """Return the URL to send spans to, or an empty string, as OpenTelemetry's specification defines it."""
    if config.OTEL_SDK_DISABLED.lower() == "true" or config.OTEL_TRACES_EXPORTER.lower() == "none":
        return ""
    common = config.OTEL_EXPORTER_OTLP_ENDPOINT
    return config.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or (common and f"{common.rstrip('/')}/v1/traces")


@asynccontextmanager
async def lifespan(application: Application) -> AsyncIterator[None]:
    """Start the exporter's thread in this worker. At shutdown, send the remaining spans."""
    from opentelemetry import trace

    provider = make_provider()
    trace.set_tracer_provider(provider)  # for spans of your own
    tracing = Tracing(provider.get_tracer("indico"))
    application.hooks.around_request.append(tracing.watch)
    application.hooks.mongo_listeners.append(tracing)
    try:
        yield
    finally:
        application.hooks.mongo_listeners.remove(tracing)
        application.hooks.around_request.remove(tracing.watch)
        ending = threading.Thread(target=provider.shutdown, daemon=True)
        ending.start()
        deadline = time.monotonic() + FLUSH_SECONDS
        while ending.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)


def make_provider() -> TracerProvider:
    """Make the provider that sends spans. The SDK reads other options from its environment variables."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create()
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "indico"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=find_endpoint())))
    return provider


class Tracing(CommandListener):
    """Makes the spans. They have names, times and outcomes, but no content of requests or commands."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def watch(self, handler: EnvelopeHandler) -> Callable[[], None]:
        """Start the span of a request. It is the current span in all tasks of the request."""
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # Others could have all their requests sampled, or add them to the traces of strangers.
        given = handler.request.headers.get("traceparent", "") if is_from_proxy(handler.request) else ""
        # The context is empty, because the connection's context still has the span of its last request.
        parent = TraceContextTextMapPropagator().extract({"traceparent": given}, context.Context())
        span = self._tracer.start_span("request", parent, trace.SpanKind.SERVER)
        span.set_attribute("http.request.method", str(handler.request.method))
        context.attach(trace.set_span_in_context(span, parent))

        def end() -> None:
            status = handler.get_status()
            span.update_name(name_request(handler))
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(trace.StatusCode.ERROR)
            span.end()

        return end

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing to send yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._add(event)

    def failed(self, event: CommandFailedEvent) -> None:
        self._add(event)

    def _add(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        from opentelemetry import trace

        if not trace.get_current_span().is_recording():  # not during a request
            return
        now = time.time_ns()
        span = self._tracer.start_span(
            f"mongodb.{event.command_name}",
            kind=trace.SpanKind.CLIENT,
            start_time=now - 1000 * event.duration_micros,
            attributes={"db.system.name": "mongodb", "db.operation.name": event.command_name},
        )
        if isinstance(event, CommandFailedEvent):
            span.set_attribute("error.type", str(event.failure.get("codeName", "unknown")))
            span.set_status(trace.StatusCode.ERROR)
        span.end(now)
