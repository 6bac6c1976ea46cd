"""
What is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sized
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from indico.core.http.envelope import EnvelopeHandler, name_request

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram

LAG_INTERVAL = 0.1  # seconds between two looks at the event loop
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


class RequestMetrics:
    """How many requests there were, how long they took, and how many are in flight."""

    def __init__(self, registry: CollectorRegistry, in_flight: Sized) -> None:
        from prometheus_client import Counter, Gauge, Histogram

        self._in_flight = in_flight
        self._requests = Counter(
            "http_requests",
            "Requests by route, action and status",
            ["route", "action", "status"],
            registry=registry,
        )
        self._durations = Histogram(
            "http_request_duration_seconds",
            "How long requests took, by route and action",
            ["route", "action"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._in_progress = Gauge(
            "http_requests_in_progress",
            "Requests without a response",
            registry=registry,
            multiprocess_mode="livesum",
        )
        # The metrics of each kind of request. To look them up by their labels takes longer than to count.
        self._known: dict[Any, tuple[Callable[[], None], Callable[[float], None]]] = {}

    def watch(self, handler: EnvelopeHandler) -> Callable[[], None]:
        """Count a request, and measure it, when it ends."""
        began = perf_counter()
        self._in_progress.set(len(self._in_flight))

        def end() -> None:
            self._in_progress.set(len(self._in_flight))
            kind = type(handler), handler.action, handler.get_status()
            if kind not in self._known:
                route, _, action = name_request(handler).partition(".")
                self._known[kind] = (
                    self._requests.labels(route, action, handler.get_status()).inc,
                    self._durations.labels(route, action).observe,
                )
            count, observe = self._known[kind]
            count()
            observe(perf_counter() - began)

        return end


class CommandMetrics(CommandListener):
    """MongoDB's commands, by name. Motor calls this from its threads."""

    def __init__(self, registry: CollectorRegistry) -> None:
        from prometheus_client import Counter, Histogram

        self._durations = Histogram(
            "mongodb_command_duration_seconds",
            "How long MongoDB's commands took, by name",
            ["command"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._failures = Counter(
            "mongodb_command_failures",
            "MongoDB's commands that failed, by name",
            ["command"],
            registry=registry,
        )

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing to count yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._durations.labels(event.command_name).observe(event.duration_micros / 1_000_000)

    def failed(self, event: CommandFailedEvent) -> None:
        self._durations.labels(event.command_name).observe(event.duration_micros / 1_000_000)
        self._failures.labels(event.command_name).inc()


def make_lag(registry: CollectorRegistry) -> Histogram:
    from prometheus_client import Histogram

    return Histogram(
        "event_loop_lag_seconds",
        "How late the event loop was for what it should have done",
        buckets=BUCKETS,
        registry=registry,
    )


async def measure_lag(lag: Histogram) -> None:
    """Measure how late the event loop is, until this is cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL
        await asyncio.sleep(LAG_INTERVAL)
        lag.observe(max(loop.time() - due, 0))
