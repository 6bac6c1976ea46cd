"""
Errors: the one table from exceptions to responses, and responses that the server sends itself.
"""

from __future__ import annotations

import http.client

from tornado.httputil import HTTPConnection, HTTPHeaders, ResponseStartLine
from tornado.web import HTTPError

from indico.core.http.encoding import encode
from indico.core.http.headers import HEADERS
from indico.core.log import LOGGER
from indico.error import IndicoError, ServerError


def to_error(error: BaseException) -> IndicoError:
    """
    Return the response to a request that ended in `error`. Log the details that the client must not see.

    An IndicoError is the response itself. An HTTPError of Tornado's becomes an IndicoError with its status
    and reason. Every other exception becomes a ServerError. A status of 500 is logged with its traceback, a
    higher status with its cause on one line.
    """
    if isinstance(error, IndicoError):
        response = error
    elif isinstance(error, HTTPError):
        reason = error.reason or http.client.responses.get(error.status_code, "Unknown")
        response = IndicoError(reason, error.status_code)
    else:
        response = ServerError()
    if response.code == 500:
        LOGGER.error("A request failed unexpectedly", exc_info=error)
    elif response.code > 500:
        cause = f" ({error.__cause__!r})" if error.__cause__ is not None else ""
        LOGGER.warning("%s%s", response.message, cause)
    return response


def send_error_response(connection: HTTPConnection, error: IndicoError) -> None:
    """Send an error response without the application. The connection is closed afterwards."""
    body = encode({"status": error.code, "data": error.message})
    headers = HTTPHeaders({**HEADERS, "Content-Length": str(len(body)), "Connection": "close"})
    reason = http.client.responses[error.code]
    connection.write_headers(ResponseStartLine("HTTP/1.1", error.code, reason), headers, body)
    connection.finish()
