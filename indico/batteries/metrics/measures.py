"""
The metrics of requests, MongoDB's commands and the event loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sized
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from indico.core.http.envelope import EnvelopeHandler, name_request

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Gauge, Histogram

LAG_INTERVAL = 0.1  # seconds between two measurements
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


class RequestMetrics:
    """The number of requests, their durations, and the number in flight."""

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
        # The metrics of each kind of request. Finding them by their labels takes longer than counting.
        self._metrics_by_kind: dict[Any, tuple[Callable[[], None], Callable[[float], None]]] = {}

    def watch(self, handler: EnvelopeHandler) -> Callable[[], None]:
        """Count a request when it ends, and measure its duration."""
        began = perf_counter()
        self._in_progress.set(len(self._in_flight))

        def end() -> None:
            self._in_progress.set(len(self._in_flight))
            kind = type(handler), handler.action, handler.get_status()
            if kind not in self._metrics_by_kind:
                route, _, action = name_request(handler).partition(".")
                self._metrics_by_kind[kind] = (
                    self._requests.labels(route, action, handler.get_status()).inc,
                    self._durations.labels(route, action).observe,
                )
            count, observe = self._metrics_by_kind[kind]
            count()
            observe(perf_counter() - began)

        return end


class CommandMetrics(CommandListener):
    """The durations and failures of MongoDB's commands. Motor calls this from its threads."""

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


class Gauges:
    """The gauges of other batteries."""

    def __init__(
        self, registry: CollectorRegistry, functions: Mapping[str, tuple[str, Callable[[], float]]]
    ) -> None:
        self._registry = registry
        self._functions = functions  # batteries may add to it until the server starts
        self._gauges: dict[str, Gauge] = {}

    def update(self) -> None:
        """Set each gauge. Files that workers share hold values, and no functions."""
        from prometheus_client import Gauge

        for name, (text, read) in self._functions.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(name, text, registry=self._registry, multiprocess_mode="livesum")
            self._gauges[name].set(read())


def make_lag(registry: CollectorRegistry) -> Histogram:
    from prometheus_client import Histogram

    return Histogram(
        "event_loop_lag_seconds",
        "How late the event loop runs its callbacks",
        buckets=BUCKETS,
        registry=registry,
    )


async def measure_lag(lag: Histogram, on_tick: Callable[[], None]) -> None:
    """Measure how late the event loop runs a timer, and call `on_tick` each time, until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + LAG_INTERVAL
        await asyncio.sleep(LAG_INTERVAL)
        lag.observe(max(loop.time() - due, 0))
        on_tick()
