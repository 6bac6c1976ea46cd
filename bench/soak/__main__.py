"""
The soak: honest clients on two workers with all batteries, while others harm, MongoDB's primary steps down
and workers are killed: `python -m bench.soak --minutes 20`. Exits with 1 if something is not as it should be.

The first and the last tenth of the time are quiet. In between, each kind of flood comes and goes, the primary
steps down every two minutes, and a worker is killed every four. In a short run the intervals are shorter.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

from bench.findings import Finding, at_most, show
from bench.machine import Failure, Running, Server, scratch
from bench.mongodb import SALT, TOKEN
from bench.soak.control import WORKERS, Control
from bench.soak.judge import judge
from bench.soak.mails import Mails
from bench.soak.phases import Soak
from bench.soak.processes import Sampler, find_processes
from indico.tests.testutils.collector import Collector
from indico.tests.testutils.replica import ReplicaSet

SETTINGS = {
    "WORKERS": str(WORKERS),
    "KEY_CACHE": "60",
    "MONGODB_TIMEOUT": "2",
    "USER_SALT": SALT,
    "DEV_TOKEN": TOKEN,
    "LOGIN_RATE": "10/minute",
    **dict.fromkeys(("HEADER_TIMEOUT", "BODY_TIMEOUT", "WRITE_TIMEOUT", "IDLE_TIMEOUT"), "5"),
    **dict.fromkeys(("MAX_UNREAD", "MAX_UNSENT"), str(32 * 1024 * 1024)),
    "CORS_ORIGINS": "https://example.com",
    "COMPUTE_WORKERS": "1",
    "JOB_LEASE": "5",
    "METRICS_TOKEN": "the soak's token for metrics",
    "OPENID_PROVIDERS": "example https://issuer.example.com client",
    "PUBLIC_URL": "https://app.example.com",
    "SENTRY_TRACES_SAMPLE_RATE": "0.05",
}


def run(seconds: float, folder: Path) -> list[Finding]:
    with ExitStack() as stack:
        collector, mails = stack.enter_context(Collector()), stack.enter_context(Mails())
        replica = stack.enter_context(ReplicaSet())
        settings = {
            **SETTINGS,
            "MAIL_URL": f"smtp://127.0.0.1:{mails.port}",
            "MONGODB": replica.uri + "&maxIdleTimeMS=2000",
            "SENTRY_DSN": f"http://key@127.0.0.1:{collector.port}/1",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.port}",
        }
        with Running(Server("soak", "bench.soak.server"), settings, folder, core=None) as running:
            running.wait_ready()
            soak = Soak(Control(running.port, replica), replica, mails, seconds)
            with Sampler(running.port, pause=max(0.5, seconds / 300)) as sampler:
                soak.run()
            findings = list(judge(soak, sampler, running.log, running.port))
        left = find_processes(running.port)
        findings.append(at_most("processes after the server has stopped", len(left), 0, digits=0))
        if any(finding.met is False for finding in findings):
            warnings = [line for line in running.log.splitlines() if '"level": "INFO"' not in line]
            print("\n".join(warnings[-20:]))
        return findings


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))  # and so stop what was started
    with scratch() as folder:
        try:
            findings = run(60 * given.minutes, folder)
        except Failure as failure:
            sys.exit(str(failure))
    show(findings)
    sys.exit(any(finding.met is False for finding in findings))


if __name__ == "__main__":
    main()
