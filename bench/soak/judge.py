"""
What the soak found, beside what it should have found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from bench.findings import Finding, at_least, at_most
from bench.soak.control import COUNTED
from bench.soak.honest import ROUTES
from bench.soak.noise import KINDS
from bench.soak.phases import Soak
from bench.soak.processes import Sampler, find_processes

LONGEST = 3000  # ms: MONGODB_TIMEOUT and a second
POSSIBLE = {200, 400, 401, 413, 429, 503}
QUIET_TIME = 0.1  # seconds of processor time in a second in which nobody computes


def judge(soak: Soak, sampler: Sampler, log: str, port: int) -> Iterator[Finding]:
    yield from judge_responses(soak)
    yield from judge_times(soak)
    yield from judge_batteries(soak, log)
    yield at_least("step-downs", soak.step_downs, 1, digits=0)
    yield at_least("workers killed", soak.kills, 1, digits=0)
    yield at_most("tracebacks in the log", log.count("Traceback"), 0, digits=0)
    yield from judge_counts(soak, sampler)
    for pid in sorted(find_processes(port)):
        yield from sampler.judge(pid, soak.slot * len(KINDS))


def judge_responses(soak: Soak) -> Iterator[Finding]:
    notes, floods = soak.honest.notes, soak.floods.statuses
    for line in notes.wrong[:20]:
        soak.log("wrong: " + line)
    statuses = sum(floods.values(), notes.statuses)
    text = ", ".join(f"{status}: {number:,}" for status, number in sorted(statuses.items()))
    yield Finding("responses", text)
    impossible: Counter[str] = Counter()
    unshown = [name for name in KINDS if name not in floods]
    for name, found in floods.items():
        kind = KINDS[name]
        impossible.update(
            {f"{name} {each}": found[each] for each in found.keys() - POSSIBLE - kind.also_possible}
        )
        unshown += [f"{name} {status}" for status in kind.shown if not found[status]]
    for what, names in (("impossible", impossible), ("not seen", unshown)):
        if names:
            soak.log(f"{what}: {names}")
    yield at_most("statuses of floods other than they may be", impossible.total(), 0, digits=0)
    yield at_most("floods and their statuses that were not seen", len(unshown), 0, digits=0)
    yield at_most("honest requests with a wrong response", len(notes.wrong), 0, digits=0)
    yield Finding("honest requests without a response", str(notes.unanswered))
    yield Finding("honest requests answered 503", f"{notes.statuses[503]} of {notes.statuses.total():,}")
    missing = [route for route in ROUTES if not notes.routes[route]]
    yield at_most(" ".join(["routes that never succeeded", *missing]), len(missing), 0, digits=0)


def judge_times(soak: Soak) -> Iterator[Finding]:
    times = soak.honest.notes.times
    yield Finding("p99 of honest clients alone", f"{percentile(times['calm'], 99):.0f} ms")
    yield at_most("p99 of honest clients under noise", percentile(times["noise"], 99), LONGEST, "ms", 0)
    yield Finding("p50 of honest clients under noise", f"{percentile(times['noise'], 50):.0f} ms")


def percentile(times: list[float], share: int) -> float:
    return sorted(times)[len(times) * share // 100]


def judge_batteries(soak: Soak, log: str) -> Iterator[Finding]:
    count = soak.honest.count
    added = count("jobs acknowledged")
    yield at_least(
        "honest jobs that are done, of those that were acknowledged", count("jobs done"), added, digits=0
    )
    for what in ("calls above the limit", "requests repeated", "passwords reset"):
        yield at_least(f"honest clients: {what}", count(what), 1, digits=0)
    yield at_most("different responses of one Idempotency-Key in floods", soak.floods.replays, 1, digits=0)
    yield at_most("webhooks to a private address", len(soak.private.posts), 0, digits=0)
    yield at_least("webhooks that were refused", log.count("PrivateAddress"), 1, digits=0)


def judge_counts(soak: Soak, sampler: Sampler) -> Iterator[Finding]:
    before, after = soak.quiet
    for name in COUNTED:
        most = [max(counts[name] for counts in quiet.workers.values()) for quiet in (before, after)]
        yield at_most(f"{name} of a worker at the end", most[1], most[0], digits=0)
    yield at_most("processes at the end", after.processes, before.processes, digits=0)
    replaced = len(sampler.compute_processes) - after.computing.number
    yield at_least("compute processes that were replaced", replaced, 1, digits=0)
    grown = after.computing.memory - before.computing.memory
    yield at_most(
        f"memory of a compute process: {before.computing.memory:.0f} MB, at the end", grown, 20, "MB more", 1
    )
    for quiet, when in ((before, "before the noise"), (after, "at the end")):
        yield at_most(f"processor time of compute processes {when}", quiet.computing.seconds, QUIET_TIME, "s")
