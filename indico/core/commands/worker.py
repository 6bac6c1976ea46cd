"""
`python -m indico.worker`: runs jobs in a process that serves no requests.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from indico import config
from indico.core.command_line import read_env_file
from indico.core.hooks import Application
from indico.core.lifecycle import check_settings, lifespan
from indico.core.log import LOGGER
from indico.core.serving import configure_logging, exit_on_errors, run, stop_on_signals


def main(words: Sequence[str] | None = None) -> None:
    """Run jobs until stopped, at least one at a time. A wrong setting exits with one sentence."""
    argparse.ArgumentParser(
        prog="python -m indico worker",
        description="Run the jobs of all servers with the same database, JOB_WORKERS at a time, until stopped"
        " by Ctrl-C or SIGTERM.",
    ).parse_args(words)
    read_env_file()
    configure_logging()

    from indico.batteries.jobs import get_worker
    from indico.server import make_app

    config.JOB_WORKERS = config.JOB_WORKERS or 1
    with exit_on_errors():
        application = make_app()
        if get_worker(application) is None:
            sys.exit("No action has @job, or the battery jobs is not in BATTERIES: there is nothing to run.")
        asyncio.run(check_settings(application))
        run(run_jobs(application))


async def run_jobs(application: Application) -> None:
    """Run jobs until SIGTERM or SIGINT. Jobs that run then have SHUTDOWN_TIMEOUT to end."""
    stop = stop_on_signals()
    async with lifespan(application):
        LOGGER.info("A worker is ready for jobs")
        await stop.wait()
        application.state.draining = True
