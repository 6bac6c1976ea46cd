"""
Clients that harm: `python -m bench.soak.noise <target> <seconds of each kind> <seconds in all>`.

Each kind of flood comes for some seconds and goes. A line for each says what the server did.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import defaultdict
from itertools import cycle

from bench.soak import battery_floods, floods
from bench.soak.flood import Flood, Kind, Target

KINDS = {kind.name: kind for kind in (*floods.KINDS, *battery_floods.KINDS)}
TURNS = 3  # of a kind at most, if the machine or MongoDB was too slow for its responses
RESULT = "result "  # begins a line for the program


async def flood_with(kind: Kind, flood: Flood) -> None:
    """One client after the other, until the end."""
    while flood.goes_on():
        client = None
        try:
            client = await flood.connect()
            await asyncio.wait_for(kind.function(flood, client), max(0.1, flood.end - time.monotonic()))
        except (OSError, TimeoutError):
            await asyncio.sleep(0.05)
        finally:
            if client is not None:
                client.close()
        await asyncio.sleep(0.01)


async def main(target: Target, seconds: float, total: float) -> None:
    """Send a flood of each kind, again if it did not show what it should, and others until the end."""
    end = time.monotonic() + total
    seen: defaultdict[str, set[int]] = defaultdict(set)  # statuses by kind
    for turn in range(TURNS):
        for kind in KINDS.values():
            if turn == 0 or kind.shown - seen[kind.name]:
                flood = Flood(target, time.monotonic() + seconds)
                await run_flood(kind, flood)
                seen[kind.name].update(flood.statuses)
    for kind in cycle(KINDS.values()):
        flood = Flood(target, min(end, time.monotonic() + seconds))
        if not flood.goes_on():
            break
        await run_flood(kind, flood)


async def run_flood(kind: Kind, flood: Flood) -> None:
    print(f"flood begins: {kind.name}, {kind.clients} clients", flush=True)
    await asyncio.gather(*(flood_with(kind, flood) for _ in range(kind.clients)))
    responses = ", ".join(f"{status}: {count}" for status, count in sorted(flood.statuses.items()))
    print(f"flood ends: {kind.name}, {flood.connections} connections, {responses or 'no responses'}")
    most = max(map(len, flood.replays.values()), default=0)
    if most:
        print(f"responses of one Idempotency-Key that differ: {most} at most, of {len(flood.replays)} keys")
    print(RESULT + json.dumps([kind.name, flood.statuses, most]), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Target(*json.loads(sys.argv[1])), float(sys.argv[2]), float(sys.argv[3])))
