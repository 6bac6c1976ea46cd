"""
The one table from exceptions to responses.
"""

from __future__ import annotations

import http.client

from tornado.web import HTTPError

from indico.core.log import LOGGER
from indico.error import IndicoError, ServerError


def to_answer(error: BaseException) -> IndicoError:
    """
    Return the response to a request that ended in `error`. Log the details that the client must not see.

    An IndicoError is the response itself. An HTTPError of Tornado's becomes an IndicoError with its status
    and reason. Every other exception becomes a ServerError. A status of 500 is logged with its traceback, a
    higher status with its cause on one line.
    """
    if isinstance(error, IndicoError):
        answer = error
    elif isinstance(error, HTTPError):
        reason = error.reason or http.client.responses.get(error.status_code, "Unknown")
        answer = IndicoError(reason, error.status_code)
    else:
        answer = ServerError()
    if answer.code == 500:
        LOGGER.error("A request failed unexpectedly", exc_info=error)
    elif answer.code > 500:
        cause = f" ({error.__cause__!r})" if error.__cause__ is not None else ""
        LOGGER.warning("%s%s", answer.message, cause)
    return answer
