"""
One class for each failure, grouped by status.

The message of an IndicoError is sent to the client. Details for the log go into its cause (`raise ... from
...`), and are never sent.
"""

from __future__ import annotations

MAX_VALUE_LENGTH = 100  # characters of a client's value that a response quotes


def shorten(value: object) -> str:
    """Return the value as a string, cut after MAX_VALUE_LENGTH characters."""
    text = str(value)
    return text if len(text) <= MAX_VALUE_LENGTH else text[:MAX_VALUE_LENGTH] + "..."


class IndicoError(Exception):
    """A response other than 200: `message` is its data, `code` its status."""

    retry_after: int | None = None  # seconds, sent as the header Retry-After

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


# Raised by core/: don't rename or remove these.
# 400: the client should send something else


class MissingField(IndicoError):
    def __init__(self, field: str) -> None:
        super().__init__(f"{field} field was not provided", 400)


class WrongFieldType(IndicoError):
    """`required` is a class, or the name of a type."""

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
    """A value of the right type that can't be used. The message says why."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 400)


# 404, 405, 413: no route accepts the request


class RouteNotFound(IndicoError):
    def __init__(self, action: object) -> None:
        super().__init__(f"{shorten(action)} route could not be found", 404)


class MethodNotAllowed(IndicoError):
    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(
            f"{shorten(method)} is not allowed here, but {allowed.replace(', ', ' or ')} is", 405
        )


class BodyTooLarge(IndicoError):
    def __init__(self, limit: int) -> None:
        super().__init__(f"The body is larger than {limit} bytes", 413)


# 500, 503, 504: the server failed


class MongoError(IndicoError):
    """MongoDB rejected an operation for a reason that is not the client's fault."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 500)


class ServerError(IndicoError):
    def __init__(self) -> None:
        super().__init__("we screwed up and have some debugging to do", 500)


class Unavailable(IndicoError):
    """The server needs something that is not available at the moment. The client should try again."""

    def __init__(self, message: str) -> None:
        super().__init__(message, 503)


class RequestTimeout(IndicoError):
    def __init__(self) -> None:
        super().__init__("The request took too long", 504)


# Raised by the other files that you edit.
# 401: the client should log in


class FacebookTokenError(IndicoError):
    def __init__(self) -> None:
        super().__init__("Facebook Auth Token invalid", 401)


class AuthError(IndicoError):
    def __init__(self) -> None:
        super().__init__("User not authenticated", 401)


# 403: the client is logged in, and may not do this


class Forbidden(IndicoError):
    def __init__(self) -> None:
        super().__init__("Not allowed", 403)


# 404: the client asked for something that does not exist


class NotFound(IndicoError):
    """It does not exist, or belongs to another user. The message does not say which of the two."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} could not be found", 404)
