"""
Who is compared.
"""

from __future__ import annotations

import importlib.util

from bench.machine import Server
from indico import config
from indico.core.mongo import drivers

# Ours, each line a way to run it: add one to have it measured. One whose settings this version does not know,
# or whose driver is not installed, is left out, and that is said.
BARE = {"BATTERIES": "none"}  # the peers have none either
TORNADO = {"HTTP_SERVER": "tornado"}
MONGOJET = {"MONGODB_DRIVER": "mongojet"}
CACHE = {"KEY_CACHE": "60"}
OURS = [
    Server("indico", "bench.ours", BARE),
    Server("indico/default", "bench.ours", {"BATTERIES": "default"}),
    Server("indico/batteries", "bench.ours"),
    Server("indico/pymongo", "bench.ours", BARE | {"MONGODB_DRIVER": "pymongo"}),
    Server("indico/mongojet", "bench.ours", BARE | MONGOJET),
    Server("indico/cache", "bench.ours", BARE | CACHE),
    Server("indico/mongojet/cache", "bench.ours", BARE | MONGOJET | CACHE),
    Server("indico/tornado", "bench.ours", BARE | TORNADO),
]
OWN_ECHO = (
    "indico",
    "indico/default",
    "indico/batteries",
    "indico/tornado",
)  # the others differ by their driver

PEERS = [
    Server(f"{name}/{driver}", f"bench.peers.{name}", {"MONGODB_DRIVER": driver})
    for name in ("tornado", "aiohttp", "sanic", "starlette", "fastapi", "litestar", "blacksheep")
    for driver in ("motor", "pymongo")
] + [Server("beanie/pymongo", "bench.peers.beanie", {"MONGODB_DRIVER": "pymongo"})]


def is_peer(name: str) -> bool:
    return not name.startswith("indico")


def find_obstacle(server: Server, replica_set: bool = True) -> str | None:
    """What keeps a server from being measured here, or None."""
    if "KEY_CACHE" in server.settings and not replica_set:
        return "KEY_CACHE, which is used with a replica set alone"
    framework = server.module.rpartition(".")[2]
    if framework != "ours" and importlib.util.find_spec(framework) is None:
        return f"{framework} is not installed (pip install -r bench/req.txt)"
    if framework != "ours":
        return None
    for name, value in server.settings.items():
        if name != "BATTERIES" and not hasattr(config, name):  # that one is of bench.ours
            return f"this version has no setting {name}"
        if name == "MONGODB_DRIVER" and value not in drivers.DRIVERS:
            return f"this version has no driver {value}"
        if name == "MONGODB_DRIVER" and importlib.util.find_spec(value) is None:
            return f"{value} is not installed"
    return None


def choose(names: list[str], action: str) -> list[Server]:
    """
    Those whose name, or its beginning up to a slash, is among `names`, or all; and which have the action.
    """
    chosen = [
        server
        for server in OURS + PEERS
        if not names or any(server.name == name or server.name.startswith(name + "/") for name in names)
    ]
    if action == "echo":  # the driver has no part in it
        chosen = [server for server in chosen if server.name in OWN_ECHO or server.name.endswith("/motor")]
    if action == "login":
        chosen = [server for server in chosen if not server.name.startswith("beanie")]
    return chosen
