"""
Metrics: `GET /metrics` for Prometheus: requests by route and action, MongoDB's commands by name, and the
event loop's lag. With several WORKERS each of them counts in files of one folder, and the page adds them up.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from indico.batteries.metrics.measures import CommandMetrics, RequestMetrics, make_lag, measure_lag
from indico.batteries.metrics.sharing import make_folder, take_place
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.utils import LOGGER

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Histogram


def install(application: Application) -> None:
    """Count, and serve the page."""
    if importlib.util.find_spec("prometheus_client") is None:
        LOGGER.warning("GET /metrics needs prometheus-client: pip install -e '.[metrics]'")
        return
    folder = make_folder()  # before the import, which decides how values are kept
    from prometheus_client import CollectorRegistry, disable_created_metrics
    from prometheus_client.multiprocess import MultiProcessCollector

    disable_created_metrics()  # type: ignore[no-untyped-call] # twice as many series for nothing
    registry = CollectorRegistry()
    # The page shows either the metrics of this process or what all workers have written into the folder.
    own = registry if folder is None else CollectorRegistry()
    if folder is not None:
        MultiProcessCollector(registry, folder)  # type: ignore[no-untyped-call]
    application.hooks.around_request.append(RequestMetrics(own, application.state.in_flight).watch)
    application.hooks.mongo_listeners.append(CommandMetrics(own))
    application.hooks.lifespans.append(partial(lifespan, make_lag(own), folder))
    application.add_handlers(".*", [(r"/metrics", MetricsHandler, {"registry": registry})])


@asynccontextmanager
async def lifespan(lag: Histogram, folder: str | None, application: Application) -> AsyncIterator[None]:
    """Measure the lag of the loop that serves."""
    if folder is not None:
        take_place(folder, application.state.worker)
    parent = os.getppid()
    measuring = asyncio.create_task(measure_lag(lag))
    try:
        yield
    finally:
        measuring.cancel()
        await asyncio.wait([measuring])
        if folder is not None and os.getppid() != parent:  # it was killed, and can't remove the folder
            shutil.rmtree(folder, ignore_errors=True)


class MetricsHandler(PageHandler):
    content_type = "text/plain; version=0.0.4; charset=utf-8"  # unless the client asks for OpenMetrics

    def initialize(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def get(self) -> None:
        """All metrics, in the format of Prometheus that the client asks for."""
        from prometheus_client.exposition import choose_encoder

        try:
            encode, content_type = choose_encoder(self.request.headers.get("Accept", ""))
        except TypeError:  # the version that it asks for is no number
            encode, content_type = choose_encoder("")
        self.set_header("Content-Type", content_type)
        self.finish(encode(self._registry))
