"""
One class a failure, grouped by status, and the one table from exceptions to answers.

An IndicoError's message is for the client. What the log needs besides travels as its cause (`raise ...
from ...`) and never reaches the client.
"""

from __future__ import annotations

import http.client
import logging

from tornado.web import HTTPError

LOGGER = logging.getLogger("indico")
LONGEST_VALUE = 100  # characters of a client's value that an answer repeats


def shorten(value: object) -> str:
    """The value as text, cut where it gets long."""
    text = str(value)
    return text if len(text) <= LONGEST_VALUE else text[:LONGEST_VALUE] + "..."


class IndicoError(Exception):
    """An answer other than 200: `message` is its data, `code` its status."""

    retry_after: int | None = None  # seconds, what the client is told to wait

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


# 400: the client should send something else


class MissingField(IndicoError):
    def __init__(self, field: str) -> None:
        super().__init__(f"{field} field was not provided", 400)


class WrongFieldType(IndicoError):
    """`required` is a class, or what a message calls the type."""

    def __init__(self, field: str, given: object, required: type | str) -> None:
        name = required if isinstance(required, str) else required.__name__
        super().__init__(
            f"Field {shorten(field)} - {shorten(given)} is type {type(given).__name__} but should be {name}",
            400,
        )


class InvalidJSON(IndicoError):
    def __init__(self) -> None:
        super().__init__("No JSON object could be decoded.", 400)


class InvalidValue(IndicoError):
    """A value of the right type that can't be taken; the message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 400)


# 401: the client should log in


class FacebookTokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("Facebook Auth Token invalid", 401)


class OpenIDTokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("OpenID token invalid", 401)


class AuthError(IndicoError):
    def __init__(self) -> None:
        super().__init__("User not authenticated", 401)


# 404, 405, 413, 429: nothing here takes such a request


class RouteNotFound(IndicoError):
    def __init__(self, action: object) -> None:
        super().__init__(f"{shorten(action)} route could not be found", 404)


class NotFound(IndicoError):
    """There is no such thing, or it is somebody else's, which nobody is told."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} could not be found", 404)


class MethodNotAllowed(IndicoError):
    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(
            f"{shorten(method)} is not allowed here, but {allowed.replace(', ', ' or ')} is", 405
        )


class BodyTooLarge(IndicoError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes", 413)


class TooManyRequests(IndicoError):
    """429: `retry_after` is the time in seconds until it may work again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"Too many requests, try again in {retry_after} seconds", 429)
        self.retry_after = retry_after


# 500, 503, 504: the server's side


class MongoError(IndicoError):
    """MongoDB refused what no client is to blame for."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 500)


class ServerError(IndicoError):
    def __init__(self) -> None:
        super().__init__("we screwed up and have some debugging to do", 500)


class Unavailable(IndicoError):
    """Something that the server needs can't be had at the moment: the client should try again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 503)


class RequestTimeout(IndicoError):
    def __init__(self) -> None:
        super().__init__("The request took too long", 504)


def to_answer(error: BaseException) -> IndicoError:
    """
    The answer to a request that ended in `error`; what the client is not told is logged.

    An IndicoError is its own answer, Tornado's HTTPError answers with its status and reason, and anything
    else is a ServerError. What is nobody's fault, 503 and the like, is one line in the log; what is ours
    comes with its traceback.
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
