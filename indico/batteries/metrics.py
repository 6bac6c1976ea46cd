"""
Metrics: `GET /metrics` for Prometheus: requests by route and action, MongoDB's commands by name, and the
event loop's lag. With several WORKERS each writes into files of one folder, and who is asked adds them up.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from indico import config
from indico.core.hooks import Application
from indico.core.http.envelope import name_request
from indico.core.http.pages import PageHandler
from indico.core.http.request_handler import LimitedHandler
from indico.utils import LOGGER

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LAG_INTERVAL = 0.1  # seconds between two looks at the event loop
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)  # seconds


def install(application: Application) -> None:
    """Serve the page, and measure while the server runs."""
    try:
        import prometheus_client  # noqa: F401 - it takes its time, so only now
    except ImportError:
        LOGGER.warning("GET /metrics needs prometheus-client: pip install -e '.[metrics]'")
        return
    folder = None
    if config.WORKERS > 1:
        folder = tempfile.mkdtemp(prefix="indico-metrics-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)  # workers don't come to this
    shown = Shown()
    application.add_handlers(".*", [(r"/metrics", MetricsHandler, {"shown": shown})])
    application.hooks.lifespans.append(partial(lifespan, folder, shown))


@asynccontextmanager
async def lifespan(folder: str | None, shown: Shown, application: Application) -> AsyncIterator[None]:
    """Measure in the process that serves; with a folder, into its files."""
    from prometheus_client import CollectorRegistry

    registry = shown.registry = CollectorRegistry()
    if folder is not None:
        # Files are named after the worker's number. The one that takes a dead one's place counts on in them.
        share(folder, os.getpid() if application.state.worker is None else application.state.worker, registry)
    metrics = shown.metrics = Metrics(None if folder else registry, application.state.in_flight)
    parent = os.getppid()
    application.hooks.around_request.append(metrics.watch)
    application.hooks.mongo_listeners.append(metrics.commands)
    metrics.look_again()
    try:
        yield
    finally:
        metrics.timer.cancel()
        application.hooks.mongo_listeners.remove(metrics.commands)
        application.hooks.around_request.remove(metrics.watch)
        if folder is not None and os.getppid() != parent:  # which can't remove it any more
            shutil.rmtree(folder, ignore_errors=True)


class Shown:
    """What the page shows, which begins with the process that serves."""

    registry: CollectorRegistry
    metrics: Metrics


def share(folder: str, worker: int, registry: CollectorRegistry) -> None:
    """Have metrics write into files of the folder, and the registry read those of all workers."""
    from prometheus_client import values
    from prometheus_client.multiprocess import MultiProcessCollector

    os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
    values.ValueClass = values.MultiProcessValue(lambda: worker)  # type: ignore[no-untyped-call]
    MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]


class Metrics:
    """
    What is measured, in a registry or, without one, in files for all workers to read. The labels' children
    are kept at hand: to look one up takes longer than to count.
    """

    def __init__(self, registry: CollectorRegistry | None, in_flight: set[Any]) -> None:
        from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call] # they double the series for nothing
        self._is_shared = registry is None
        self._in_flight = in_flight
        self._answers = Counter(
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
            "Requests that are not answered yet",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.count_in_flight()  # of a dead worker's none is
        self._lag = Histogram(
            "event_loop_lag_seconds",
            "How late the event loop was for what it should have done",
            buckets=BUCKETS,
            registry=registry,
        )
        self._children: dict[Any, tuple[Callable[[], None], Callable[[float], None]]] = {}
        self.commands = CommandMetrics(registry)

    def watch(self, handler: LimitedHandler) -> Callable[[], None]:
        """Count a request, and measure it, when it ends."""
        self._tell_in_flight()
        return Running(self, handler)

    def count(self, handler: LimitedHandler, seconds: float) -> None:
        """Count a request that has ended."""
        self._tell_in_flight()
        key = type(handler), handler.action, handler.get_status()
        if key not in self._children:
            route, _, action = name_request(handler).partition(".")
            self._children[key] = (
                self._answers.labels(route, action, handler.get_status()).inc,
                self._durations.labels(route, action).observe,
            )
        count, observe = self._children[key]
        count()
        observe(seconds)

    def look_again(self) -> None:
        """See in a moment how late the loop is for it, and so on."""
        loop = asyncio.get_running_loop()
        self.timer = loop.call_at(loop.time() + LAG_INTERVAL, self._look)

    def _look(self) -> None:
        self._lag.observe(max(asyncio.get_running_loop().time() - self.timer.when(), 0))
        self.look_again()

    def count_in_flight(self) -> None:
        """Count the requests in progress, as they are now."""
        self._in_progress.set(len(self._in_flight))

    def _tell_in_flight(self) -> None:
        # Another worker may be asked at any time. A process that is alone counts when it is: that costs less.
        if self._is_shared:
            self.count_in_flight()


class Running:
    """A request that is measured, to be called at its end: a third as large as a `partial` of the same."""

    __slots__ = ("_began", "_handler", "_metrics")

    def __init__(self, metrics: Metrics, handler: LimitedHandler) -> None:
        self._metrics = metrics
        self._handler = handler
        self._began = perf_counter()

    def __call__(self) -> None:
        self._metrics.count(self._handler, perf_counter() - self._began)


class CommandMetrics(CommandListener):
    """MongoDB's commands, by name. Motor calls this from its threads."""

    def __init__(self, registry: CollectorRegistry | None) -> None:
        from prometheus_client import Counter, Histogram

        durations = Histogram(
            "mongodb_command_duration_seconds",
            "How long MongoDB's commands took, by name",
            ["command"],
            buckets=BUCKETS,
            registry=registry,
        )
        failures = Counter(
            "mongodb_command_failures",
            "MongoDB's commands that failed, by name",
            ["command"],
            registry=registry,
        )
        self._durations = _Children(durations)
        self._failures = _Children(failures)

    def started(self, event: CommandStartedEvent) -> None:
        """Nothing is known yet."""

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._durations[event.command_name].observe(event.duration_micros / 1_000_000)

    def failed(self, event: CommandFailedEvent) -> None:
        self._durations[event.command_name].observe(event.duration_micros / 1_000_000)
        self._failures[event.command_name].inc()


class _Children(dict[str, Any]):
    def __init__(self, metric: Any) -> None:
        self._metric = metric

    def __missing__(self, label: str) -> Any:
        child = self[label] = self._metric.labels(label)
        return child


class MetricsHandler(PageHandler):
    content_type = "text/plain; version=0.0.4; charset=utf-8"  # or OpenMetrics, for who asks for that

    def initialize(self, shown: Shown) -> None:
        self._shown = shown

    def get(self) -> None:
        """All metrics, in the format of Prometheus that the client asks for."""
        from prometheus_client.exposition import choose_encoder

        try:
            encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        except TypeError:  # of a version that is no number
            encode, content_type = choose_encoder("")
        self.set_header("Content-Type", content_type)
        self._shown.metrics.count_in_flight()
        self.finish(encode(self._shown.registry))
