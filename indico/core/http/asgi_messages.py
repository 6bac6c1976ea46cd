"""
Conversions between ASGI messages and the request lines and headers of Tornado.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import quote

from tornado.httputil import HTTPHeaders, RequestStartLine

from indico.core.http.head import take_absolute_target

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def read_scope(scope: Scope) -> tuple[RequestStartLine, HTTPHeaders]:
    """Return the request line and the headers of a request."""
    path = (scope.get("raw_path") or quote(scope["path"]).encode()).decode("latin-1")
    path = path.removeprefix(quote(scope.get("root_path", ""))) or "/"
    if scope["query_string"]:
        path = f"{path}?{scope['query_string'].decode('latin-1')}"
    headers = HTTPHeaders()
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name == ":authority":  # HTTP/2 sends it in place of Host
            headers["Host"] = value
        elif name in headers:
            headers.add(name, value)
        else:
            headers[name] = value  # faster than `add`; the server has validated the characters
    line = RequestStartLine(scope["method"], path, f"HTTP/{scope['http_version']}")
    return take_absolute_target(line, headers), headers


def write_start(scope: Scope, status: int, headers: HTTPHeaders) -> Message:
    """Return the ASGI message with the status and the headers of a response."""
    lines = [_encode_header(name, value) for name, value in headers.get_all()]
    if scope["http_version"] not in ("1.0", "1.1"):
        lines = [line for line in lines if line[0] != b"connection"]  # HTTP/2 forbids it
    return {"type": "http.response.start", "status": status, "headers": lines}


@functools.lru_cache(1000)
def _encode_header(name: str, value: str) -> tuple[bytes, bytes]:
    return name.lower().encode("latin-1"), value.encode("latin-1")
