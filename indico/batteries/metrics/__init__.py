"""
Metrics: `GET /metrics` for Prometheus shows requests by route and action, MongoDB's commands by name, and the
event loop's lag. With several WORKERS, each counts in files in a shared folder, and the page shows the sums.
"""

from __future__ import annotations

import asyncio
import hmac
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from indico import config
from indico.batteries.metrics.measures import CommandMetrics, Gauges, RequestMetrics, make_lag, measure_lag
from indico.batteries.metrics.sharing import make_folder, register_worker
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.error import AuthError
from indico.utils import LOGGER

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram


def install(application: Application) -> None:
    """Measure requests and commands, and serve the page."""
    if importlib.util.find_spec("prometheus_client") is None:
        LOGGER.warning("GET /metrics needs prometheus-client: pip install -e '.[metrics]'")
        return
    folder = make_folder()  # before the import: prometheus_client then chooses how to store values
    from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
    from prometheus_client.multiprocess import MultiProcessCollector

    disable_created_metrics()  # type: ignore[no-untyped-call] # twice as many series, rarely used
    registry = CollectorRegistry()
    # The page shows the metrics of this process, or else those that all workers have written to the folder.
    own = registry if folder is None else CollectorRegistry()
    if folder is not None:
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    else:
        ProcessCollector(registry=registry)  # of one process: sums over workers would mean nothing
    application.hooks.around_request.append(RequestMetrics(own, application.state.in_flight).watch)
    application.hooks.mongo_listeners.append(CommandMetrics(own))
    application.hooks.lifespans.append(
        partial(lifespan, make_lag(own), Gauges(own, application.hooks.gauges), folder)
    )
    application.add_handlers(".*", [(r"/metrics", MetricsHandler, {"registry": registry})])


@asynccontextmanager
async def lifespan(
    lag: Histogram, gauges: Gauges, folder: str | None, application: Application
) -> AsyncIterator[None]:
    """Measure the event loop's lag, and update the gauges, while the server runs."""
    if config.PRODUCTION and not config.METRICS_TOKEN and not application.state.worker:
        LOGGER.warning("GET /metrics needs no token: set METRICS_TOKEN unless a proxy keeps it private")
    if folder is not None:
        register_worker(folder, application.state.worker)
    parent = os.getppid()
    measuring = asyncio.create_task(measure_lag(lag, gauges.update))
    try:
        yield
    finally:
        measuring.cancel()
        await asyncio.wait([measuring])
        if (
            folder is not None and os.getppid() != parent
        ):  # the supervisor was killed, so it can't remove the folder
            shutil.rmtree(folder, ignore_errors=True)


class MetricsHandler(PageHandler):
    content_type = "text/plain; version=0.0.4; charset=utf-8"  # unless the client asks for OpenMetrics

    def initialize(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def get(self) -> None:
        """
        All metrics, in the Prometheus format that the client requests.

        401: METRICS_TOKEN is set, and is not sent as `Authorization: Bearer <token>`
        """
        given = self.request.headers.get("Authorization", "").encode("latin-1")
        if config.METRICS_TOKEN and not hmac.compare_digest(given, f"Bearer {config.METRICS_TOKEN}".encode()):
            raise AuthError()
        from prometheus_client.exposition import choose_encoder

        try:
            encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        except TypeError:  # the requested version is not a number
            encode, content_type = choose_encoder("")
        self.set_header("Content-Type", content_type)
        self.finish(encode(self._registry))
