"""
A stub of Facebook's Graph API on a free loopback port: what it answers depends on the token it is asked about.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from indico import config
from indico.tests.mocks import OAUTH_ID

APP_ID = "2015"
APP_SECRET = "the app's secret & more|+%"
APP_TOKEN = f"{APP_ID}|{APP_SECRET}"

VALID = "valid"
NEEDS_ESCAPES = "a&b=c%26d+e|f?g#h/i;j\"k'"  # valid too
SLOW = "slow"  # valid too, and answered when released

_TOKEN: dict[str, Any] = {"is_valid": True, "app_id": APP_ID, "user_id": OAUTH_ID}


def _say(**changes: Any) -> bytes:
    return json.dumps({"data": {**_TOKEN, **changes}}).encode()


ANSWERS = {VALID: _say(), NEEDS_ESCAPES: _say(), SLOW: _say(), "valid, ids as numbers": _say()}
ANSWERS["valid-with-ids-as-numbers"] = _say(app_id=int(APP_ID), user_id=int(OAUTH_ID))

REFUSED = {
    "expired": _say(is_valid=False),
    "of-another-app": _say(app_id="2016"),
    "of-another-user": _say(user_id=OAUTH_ID + "1"),
    "of-no-app": _say(app_id=None),
    "of-no-user": _say(user_id=None),
    "without-user": json.dumps({"data": {"is_valid": True, "app_id": APP_ID}}).encode(),
    "valid-as-a-string": _say(is_valid="true"),
    "valid-as-a-number": _say(is_valid=1),
    "with-nothing-said": b'{"data": {}}',
}

BROKEN = {
    "nothing": b"",
    "html": b"<html>Sorry, something went wrong.</html>",
    "no-object": b"[true]",
    "a-number": b"7",
    "without-data": b'{"is_valid": true}',
    "data-is-a-list": b'{"data": [true]}',
    "data-is-null": b'{"data": null}',
    "nested-too-deep": b"[" * 50_000,
    "huge": json.dumps({"data": {**_TOKEN, "more": "x" * 1_000_000}}).encode(),
    "echoed-in-bad-utf-8": b'echoed-in-bad-utf-8 \xff"',
}
