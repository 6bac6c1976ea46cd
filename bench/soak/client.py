"""
A client of the soak that does no harm, and what all of them note.
"""

from __future__ import annotations

import http.client
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

PAUSE = 0.02  # seconds between the requests of each
PATIENCE = 30  # seconds
POSSIBLE = {200, 401, 503}
ALSO_POSSIBLE = {  # statuses of some routes
    "soak/work": {202},  # a job was stored
    "soak/limited": {429},
    "soak/once": {409, 422},  # the first request was lost while it ran; it had another body
    "file": {404},  # after its removal
    "password/verify": {400},  # the token was used by a request without a response
    "password/reset": {400},
}
SLOW = {"soak/follow", "soak/upload", "soak/think", "soak/once", "soak/keep", "file"}


class Interrupted(Exception):
    """The client should not send any more requests on this connection."""


class Response(NamedTuple):
    status: int
    content: bytes

    @property
    def data(self) -> Any:
        """The data of the envelope."""
        return json.loads(self.content)["data"]


class Notes:
    """What honest clients note of their requests."""

    def __init__(self) -> None:
        self.phase = "warm-up"
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []  # responses
        self.routes: Counter[str] = Counter()  # of requests that succeeded
        self.unanswered = 0
        self.times: defaultdict[str, list[float]] = defaultdict(list)  # by phase, in ms


class Client:
    """
    A connection of an honest client, which has an address of its own. Raises Interrupted instead of sending a
    request when `goes_on` returns False.
    """

    def __init__(
        self, port: int, number: int, notes: Notes, goes_on: Callable[[], bool] = lambda: True
    ) -> None:
        source = f"127.0.2.{number + 1}", 0
        self._notes = notes
        self._goes_on = goes_on
        self._connection = http.client.HTTPConnection("127.0.0.1", port, PATIENCE, source)

    def post(
        self, route: str, data: Any = None, key: str = "", headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send bytes as they are, and other data as JSON."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        headers = {"Content-Type": "application/json", "indico_key": key, **(headers or {})}
        return self._send(route, "POST", route, body, headers)

    def upload(self, route: str, field: str, content: bytes, key: str) -> Response:
        """Send a file, and a field `title` in front of it."""
        form = b'--x\r\nContent-Disposition: form-data; name="title"\r\n\r\nTea\r\n'
        form += f'--x\r\nContent-Disposition: form-data; name="{field}"; filename="a"\r\n\r\n'.encode()
        form += content + b"\r\n--x--\r\n"
        return self.post(route, form, key, {"Content-Type": "multipart/form-data; boundary=x"})

    def get_file(self, name: str, key: str) -> Response:
        return self._send("file", "GET", f"file/{name}", None, {"indico_key": key})

    def _send(
        self, route: str, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> Response:
        time.sleep(PAUSE)
        if not self._goes_on():
            raise Interrupted
        notes, began = self._notes, time.monotonic()
        self._connection.request(method, f"/{path}", body, dict(headers))
        response = self._connection.getresponse()
        content = response.read()
        if route not in SLOW and not route.startswith("password/"):
            notes.times[notes.phase].append(1000 * (time.monotonic() - began))
        notes.statuses[response.status] += 1
        notes.routes[route] += response.status in (200, 202)
        if response.status not in POSSIBLE | ALSO_POSSIBLE.get(route, set()):
            notes.wrong.append(f"{route}: {response.status} {content[:200]!r}")
        return Response(response.status, content)

    def close(self) -> None:
        self._connection.close()
