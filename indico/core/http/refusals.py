"""
Error responses that the server sends itself, without the application.
"""

from __future__ import annotations

import http.client
import json

from tornado.httputil import HTTPConnection, HTTPHeaders, ResponseStartLine

from indico.core.http.lazy import HEADERS
from indico.error import IndicoError


def refuse(connection: HTTPConnection, error: IndicoError) -> None:
    """Send an error response without the application. The connection is closed afterwards."""
    body = json.dumps({"status": error.code, "data": error.message}, separators=(",", ":")).encode()
    headers = HTTPHeaders({**HEADERS, "Content-Length": str(len(body)), "Connection": "close"})
    reason = http.client.responses[error.code]
    connection.write_headers(ResponseStartLine("HTTP/1.1", error.code, reason), headers, body)
    connection.finish()
