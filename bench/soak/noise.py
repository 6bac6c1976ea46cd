"""
Clients that harm: `python -m bench.soak.noise <target> <seconds of each kind> <seconds in all>`.

Each kind of flood comes for some seconds and goes. A line for each says what the server did.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from itertools import cycle

from bench.soak import battery_floods, floods
from bench.soak.flood import Flood, Kind, Target

KINDS = {kind.name: kind for kind in (*floods.KINDS, *battery_floods.KINDS)}
RESULT = "result "  # begins a line for the program


async def flood_with(kind: Kind, flood: Flood) -> None:
    """One client after the other, until the end."""
    while flood.goes_on():
        client = None
        try:
            client = await flood.connect()
            await kind.function(flood, client)
        except (OSError, TimeoutError):
            await asyncio.sleep(0.05)
        finally:
            if client is not None:
                client.close()
        await asyncio.sleep(0.01)


async def main(target: Target, seconds: float, total: float) -> None:
    """Send a flood of each kind, and then others until the end."""
    end = time.monotonic() + total
    for kind in KINDS.values():
        await run_flood(kind, Flood(target, time.monotonic() + seconds, kind.shown))
    for kind in cycle(KINDS.values()):
        if time.monotonic() > end:
            break
        await run_flood(kind, Flood(target, min(end, time.monotonic() + seconds)))


async def run_flood(kind: Kind, flood: Flood) -> None:
    print(f"flood begins: {kind.name}, {kind.clients} clients", flush=True)
    clients = [asyncio.create_task(flood_with(kind, flood)) for _ in range(kind.clients)]
    while flood.goes_on():
        await asyncio.sleep(0.05)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    responses = ", ".join(f"{status}: {count}" for status, count in sorted(flood.statuses.items()))
    print(f"flood ends: {kind.name}, {flood.connections} connections, {responses or 'no responses'}")
    most = max(map(len, flood.replays.values()), default=0)
    if most:
        print(f"responses of one Idempotency-Key that differ: {most} at most, of {len(flood.replays)} keys")
    print(RESULT + json.dumps([kind.name, flood.statuses, most]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Target(*json.loads(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])))
