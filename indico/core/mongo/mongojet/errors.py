"""
Translates the Rust driver's errors to PyMongo's.

mongojet raises errors with one string, such as

    Kind: Command failed: Error code 59 (CommandNotFound): no such command: 'x', labels: {}, source: None,
    server response: Some(RawDocumentBuf { data: "6100...00" })

The last part is the server's reply, in hexadecimal digits.
"""

from __future__ import annotations

import re
from typing import Any

import bson
import mongojet
from bson.codec_options import CodecOptions
from pymongo import errors

from indico.core.mongo.helper import NOT_PRIMARY

DUPLICATE_KEY = {11000, 11001, 12582}
MAX_TIME_EXPIRED = 50
CURSOR_NOT_FOUND = 43
AUTHENTICATION_FAILED = 18
WRITE_CONCERN_FAILED = 64

# The string begins with one of these if a connection breaks or can't be opened.
NETWORK = ("I/O error", "Connection pool for ", "Connection to ", "An error occurred during DNS resolution")
UNREAD = re.compile(
    r"(The server returned an invalid reply to a database operation: )?BSON error\. Kind: Invalid UTF-8"
)
TEXT = re.compile(
    r"Kind: (?P<kind>.*), labels: \{(?P<labels>[^{}]*)\}, source: .*?, server response: "
    r'(?:None|Some\(RawDocumentBuf \{ data: "(?P<reply>[0-9a-f]*)" \}\))',
    re.DOTALL,
)
TOO_LARGE = re.compile("must be within [0-9]+ bytes|Message length")


class UnreadReply(errors.PyMongoError):
    """
    MongoDB executed the operation, but the Rust driver could not read the reply, because a stored string is
    not UTF-8.
    """

    def __init__(self, reply: bytes) -> None:
        super().__init__("The reply contains a string that is not UTF-8")
        self.reply = reply

    def decode(self, options: CodecOptions[dict[str, Any]]) -> dict[str, Any]:
        """Return the reply as PyMongo decodes it."""
        return bson.decode(self.reply, options)


def translate(error: Exception) -> Exception:
    """Return the corresponding error of PyMongo, or the error itself if it is not a driver's."""
    found = TEXT.fullmatch(str(error))
    kind, labels, reply = found.groups() if found else (str(error), "", None)
    if isinstance(error, ValueError):  # the Rust driver could not encode the document
        return errors.DocumentTooLarge(kind) if TOO_LARGE.search(kind) else error
    if isinstance(error, mongojet.ServerSelectionError):
        return errors.ServerSelectionTimeoutError(kind)
    if isinstance(error, mongojet.ConnectionFailure) or kind.startswith(NETWORK):
        return errors.AutoReconnect(kind)
    if reply is not None and UNREAD.match(kind):
        return UnreadReply(bytes.fromhex(reply))
    if re.match(r"[\w-]+ failure: ", kind):  # the name is that of a mechanism, such as SCRAM
        return errors.OperationFailure(kind, AUTHENTICATION_FAILED, {"code": AUTHENTICATION_FAILED})
    found = re.match(r'[^"]*?\bcode:? ([0-9]+)(?: \((\w+)\))?', kind)
    if found is None:
        return errors.PyMongoError(kind)
    details = {"errmsg": kind, "errorLabels": re.findall("[A-Za-z]+", labels)}
    if found[2]:
        details["codeName"] = found[2]
    return _translate_code(int(found[1]), kind, {"code": int(found[1]), **details})


def _translate_code(code: int, kind: str, details: dict[str, Any]) -> Exception:
    if code in NOT_PRIMARY:
        return errors.NotPrimaryError(kind, details)
    if code in DUPLICATE_KEY:
        return errors.DuplicateKeyError(kind, code, details)
    if code == MAX_TIME_EXPIRED:
        return errors.ExecutionTimeout(kind, code, details)
    if code == WRITE_CONCERN_FAILED:
        return errors.WTimeoutError(kind, code, details)
    if code == CURSOR_NOT_FOUND:
        return errors.CursorNotFound(kind, code, details)
    if "write operation: WriteError(" in kind:
        return errors.WriteError(kind, code, details)
    return errors.OperationFailure(kind, code, details)
