"""
Limits on connections: how many there may be, and how long each may take its time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from typing import Any

from tornado.ioloop import PeriodicCallback

from indico import config
from indico.core.http.proxies import is_trusted
from indico.core.http.sockets import raise_file_limit

RESERVED_FILES = 100  # for MongoDB, the log, and whatever else is no client
SWEEP = 1000  # milliseconds between looks at what takes too long
LAST_CALL = 1  # seconds that connections have for a request that was on its way when the server stopped


def count_connections(files: int) -> int:
    """How many connections that many files allow."""
    return max(files - RESERVED_FILES, files // 2)


class Crowd:
    """
    All lines of a process, and the limits on what clients keep open.

    A connection beyond MAX_CONNECTIONS or, unless it comes from a trusted proxy, MAX_CONNECTIONS_PER_ADDRESS
    is not let in. One that has not sent its first headers within HEADER_TIMEOUT, sends nothing for
    IDLE_TIMEOUT, has not sent a body within BODY_TIMEOUT, or has not read an answer within WRITE_TIMEOUT is
    closed; and, while more than MAX_UNSENT bytes wait to be read, who has let them wait longest.
    """

    def __init__(self) -> None:
        self._most = config.MAX_CONNECTIONS or count_connections(raise_file_limit())
        self._most_of_a_peer = config.MAX_CONNECTIONS_PER_ADDRESS or -(-self._most // 2)
        self._peers: Counter[str] = Counter()  # connections of each address
        self._lines: dict[Any, str] = {}  # every one, with its address
        self._writing: dict[Any, float] = {}  # those with an answer not read yet, and since when
        self._sweeper = PeriodicCallback(self._sweep, SWEEP)
        self._sweeper.start()

    def let_in(self, line: Any, peer: str) -> bool:
        """Whether there is room for another line, from this address; then it counts until it leaves."""
        if len(self._lines) >= self._most:
            return False
        if self._peers[peer] >= self._most_of_a_peer and not is_trusted(peer):
            return False
        self._lines[line] = peer
        self._peers[peer] += 1
        return True

    def leave(self, line: Any) -> None:
        """The line has ended."""
        peer = self._lines.pop(line, None)
        if peer is not None:
            self._peers[peer] -= 1
            if not self._peers[peer]:
                del self._peers[peer]

    def stop(self) -> None:
        self._sweeper.stop()

    async def take_leave(self) -> None:
        """Wait for the lines to end, as each does with its next answer: LAST_CALL at most."""
        deadline = time.monotonic() + LAST_CALL
        while self._lines and time.monotonic() < deadline:
            await asyncio.sleep(0.02)

    def _sweep(self) -> None:
        now = time.monotonic()
        unsent = {line: line.unsent() for line in self._lines}
        self._writing = {line: self._writing.get(line, now) for line, size in unsent.items() if size}
        late = [line for line in self._lines if 0 < line.deadline < now]
        late += [line for line, since in self._writing.items() if now - since > config.WRITE_TIMEOUT]
        # Of what is written and not read the server keeps all; beyond MAX_UNSENT, who is longest at it goes.
        excess = sum(unsent.values()) - config.MAX_UNSENT
        for line in sorted(self._writing, key=self._writing.__getitem__):
            if excess > 0:
                late.append(line)
                excess -= unsent[line]
        for line in late:
            line.close()
