"""
The headers of all envelopes.
"""

from __future__ import annotations

import functools
import http.client

from tornado.httputil import format_timestamp

HEADERS = {  # sent with every envelope
    "Content-Type": "application/json; charset=UTF-8",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
WITHOUT_BODY = (*range(100, 200), 204, 304)  # statuses


@functools.lru_cache(100)
def write_head(code: int, now: int) -> bytes:
    """Return the status line and the default headers of a response. `now` is in seconds since 1970."""
    headers = {**HEADERS, "Date": format_timestamp(now)}
    lines = [f"HTTP/1.1 {code} {http.client.responses.get(code, 'Unknown')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "".join(f"{line}\r\n" for line in lines).encode()


def write_header(name: str, value: str) -> bytes:
    """Return a header line. Raises ValueError if the value has a line break or is not printable."""
    if not value.isprintable():
        raise ValueError(f"The header {name} can't be {value!r}")
    return f"{name}: {value}\r\n".encode("latin-1")
