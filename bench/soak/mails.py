"""
A mail server on loopback, which keeps the tokens of the links that it gets.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import defaultdict
from email import message_from_bytes
from types import TracebackType
from typing import Any

from aiosmtpd.smtp import SMTP

TOKEN = re.compile(r"token=([\w-]+)")


class Mails:
    """The mail server. It runs in a thread of its own until the end of a `with` block."""

    def __init__(self) -> None:
        self._tokens: defaultdict[str, list[str]] = defaultdict(list)  # by address
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()))
        self.port = 0

    def __enter__(self) -> Mails:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join()

    async def _serve(self) -> None:
        server = await self._loop.create_server(lambda: SMTP(self, loop=self._loop), "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._ended.wait()
        server.close()

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        """Keep the token of a mail. The name is aiosmtpd's."""
        text = str(message_from_bytes(envelope.content).get_payload(decode=True))
        for address in envelope.rcpt_tos:
            self._tokens[address] += TOKEN.findall(text)
        return "250 OK"

    def take_token(self, address: str, patience: float = 5) -> str | None:
        """Return a token that was sent to this address, or None if none arrives. A worker may be killed."""
        deadline = time.monotonic() + patience
        while not self._tokens[address]:
            if time.monotonic() > deadline:
                return None
            time.sleep(0.05)
        return self._tokens[address].pop()
