"""
The same action on every server, in turns: `python -m bench`.
"""

from __future__ import annotations

import http.client
import json
import statistics
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from bench.findings import Finding, at_most, round_figure
from bench.machine import Failure, Load, Running, Server, run_wrk
from bench.mongodb import TOKEN, make_key, make_users, start_mongod
from bench.servers import find_obstacle, is_peer

ACTIONS = ["echo", "update", "check", "login"]
USERS = 1000
WARM_UP = 1  # seconds, before the first round

Turns = dict[str, list[Load]]  # of each server


def compare(
    wanted: Mapping[str, Sequence[Server]],
    seconds: int,
    rounds: int,
    folder: Path,
    replica_set: bool = False,
) -> dict[str, Turns]:
    """Each action on its servers, `rounds` times, and what came of it. Raises Failure."""
    servers = {server.name: server for chosen in wanted.values() for server in chosen}
    if not servers:
        raise Failure("there is no server of that name")
    obstacles = {name: find_obstacle(server, replica_set) for name, server in servers.items()}
    for name, obstacle in obstacles.items():
        if obstacle:
            print(f"left out: {name}, for {obstacle}")
    with ExitStack() as stack:
        mongod = stack.enter_context(start_mongod(folder, replica_set))
        users = folder / "users"
        make_users(mongod.uri, "bench", USERS, users)
        running = {
            name: stack.enter_context(Running(server, mongod.settings(), folder))
            for name, server in servers.items()
            if not obstacles[name]
        }
        for server in running.values():
            server.wait_ready()
            for action, chosen in wanted.items():
                if server.name in [other.name for other in chosen]:
                    verify(server, action)
        results: dict[str, Turns] = {}
        for action, chosen in wanted.items():
            turns: Turns = {server.name: [] for server in chosen if server.name in running}
            for number in range(rounds):
                order = list(turns)
                shift = number % max(1, len(order))  # so that none has always the same before it
                for name in order[shift:] + order[:shift]:
                    arguments = (running[name], action, users)
                    if number == 0:
                        run_wrk(*arguments, seconds=WARM_UP, token=TOKEN)
                    turns[name].append(
                        run_wrk(*arguments, seconds=seconds, token=TOKEN, mongod_pid=mongod.pid)
                    )
            results[action] = turns
            if turns:
                print(render(action, turns), flush=True)
    return results


class Target(NamedTuple):
    """The processor time for a request: how many times that of a peer it should be at most."""

    action: str
    names: tuple[str, ...]  # of ours; the one that takes the least counts
    peers: str  # the end of their names, all of which are compared if it is a driver; or one name
    limit: float


TARGETS = (
    Target("echo", ("indico",), "tornado/motor", 0.25),
    Target("echo", ("indico/default",), "tornado/motor", 0.45),
    Target("echo", ("indico",), "/motor", 0.8),
    Target("echo", ("indico/default",), "starlette/motor", 1.0),
    Target("check", ("indico",), "/motor", 1.0),
    Target("check", ("indico/cache", "indico/mongojet/cache"), "", 0.25),
    Target("update", ("indico",), "/motor", 1.0),
    Target("update", ("indico", "indico/pymongo", "indico/mongojet"), "", 0.7),
    Target("update", ("indico/cache", "indico/mongojet/cache"), "", 0.5),
    Target("update", ("indico/default",), "fastapi/motor", 0.8),
)


def find_targets(results: dict[str, Turns]) -> list[Finding]:
    """Compare the processor time of ours with that of the peers that take the least."""
    findings = []
    for action, names, peers, limit in TARGETS:
        turns = results.get(action, {})
        ours = [name for name in names if name in turns]
        others = [name for name in turns if is_peer(name) and name.endswith(peers)]
        if ours and others:
            best = min(ours, key=lambda name: median(turns[name], "cpu"))
            peer = min(others, key=lambda name: median(turns[name], "cpu"))
            findings.append(at_most(f"{action}: {best} against {peer}", cpu_ratio(turns, best, peer), limit))
    return findings


# Whether they do the same


def verify(server: Running, action: str) -> None:
    """Raise Failure unless this server does for a request what all do."""
    key = {"indico_key": make_key("7")}
    if action == "echo":
        message = {"message": 'Grüße, "Ada"'}
        expect(server, "/echo/echo", message, {}, 200, message)
        expect(server, "/echo/echo", {"message": 7}, {}, (400, 422))
    elif action == "check":
        expect(server, "/auth/check", None, key, 200, True)
        expect_refusals(server, "/auth/check")
    elif action == "update":
        user = expect(server, "/user/update", {"update_user": {"name": "Ada", "location": "Bath"}}, key, 200)
        if (user["user_id"], user["name"], user["location"], len(user)) != ("facebook7", "Ada", "Bath", 10):
            raise Failure(f"{server.name} answers an update with {user}")
        expect(server, "/user/update", {"update_user": 7}, key, (400, 422))
        expect_refusals(server, "/user/update")
    elif action == "login":
        data = {"access_token": TOKEN, "oauth_id": "7", "user": {"name": "Ada", "email": "ada@example.com"}}
        answer = expect(server, "/auth/login", data, {}, 200)
        if answer["indico_key"] != make_key("7") or answer["user"]["user_id"] != "facebook7":
            raise Failure(f"{server.name} answers a login with {answer}")
        expect(server, "/auth/login", {**data, "access_token": "x"}, {}, 401)


def expect_refusals(server: Running, path: str) -> None:
    data = {"update_user": {"name": "Eve"}}
    for key in ({}, {"indico_key": "f" * 55}, {"indico_key": "f" * 56}):
        expect(server, path, data, key, 401)


def expect(
    server: Running,
    path: str,
    data: Any,
    headers: Mapping[str, str],
    status: int | tuple[int, ...],
    answer: Any = None,
) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    body = b"" if data is None else json.dumps(data).encode()
    connection.request("POST", path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    try:
        content = response.read()
    except http.client.HTTPException as error:
        raise Failure(f"{server.name} breaks off its answer to {path} {data}: {error}") from error
    connection.close()
    if response.status not in (status if isinstance(status, tuple) else (status,)):
        raise Failure(
            f"{server.name} answers {path} {data} with {response.status} {content!r}\n{server.log[-2000:]}"
        )
    if response.status != 200:
        return None
    required = {
        "Content-Type": "application/json; charset=UTF-8",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "no-store",
    }
    for name, value in required.items():
        if (response.headers[name] or "").lower() != value.lower():
            raise Failure(f"{server.name} answers {path} with {name}: {response.headers[name]}")
    parsed = json.loads(content)
    if parsed["status"] != 200 or (answer is not None and parsed["data"] != answer):
        raise Failure(f"{server.name} answers {path} with {content!r}")
    return parsed["data"]


# What came of it


def median(turns: list[Load], field: str) -> float:
    return statistics.median(getattr(turn, field) for turn in turns)


def find_best_peer(turns: Turns) -> str | None:
    """The peer that takes the least processor time for a request."""
    return min(filter(is_peer, turns), key=lambda name: median(turns[name], "cpu"), default=None)


def cpu_ratio(turns: Turns, name: str, other: str) -> float:
    """How many times the processor time of the other it takes, the median of the rounds."""
    return statistics.median(mine.cpu / its.cpu for mine, its in zip(turns[name], turns[other]))


COLUMNS = ["CPU µs", "ratio", "requests/s", "lowest", "highest", "p50 ms", "p99 ms", "mongod µs"]


def rows(turns: Turns) -> list[list[str]]:
    """A row a server, the one that takes the least processor time first. The ratio is to the best peer's."""
    best = find_best_peer(turns) or next(iter(turns))
    return [
        [
            name,
            f"{median(of, 'cpu'):.0f}",
            round_figure(cpu_ratio(turns, name, best)),
            f"{median(of, 'rate'):.0f}",
            f"{min(turn.rate for turn in of):.0f}",
            f"{max(turn.rate for turn in of):.0f}",
            f"{median(of, 'p50'):.1f}",
            f"{median(of, 'p99'):.1f}",
            f"{median(of, 'mongod'):.0f}",
        ]
        for name, of in sorted(turns.items(), key=lambda item: median(item[1], "cpu"))
    ]


def render(action: str, turns: Turns) -> str:
    table = [[action, *COLUMNS], *rows(turns)]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in table
    ]
    return "\n".join(["", *lines])
