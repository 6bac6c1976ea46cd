"""
The formats of log lines: JSON objects, or text.
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from typing import Any

from indico import config
from indico.batteries.logs import requests

DIM = 2
COLOURS = {"DEBUG": 36, "INFO": 32, "WARNING": 33, "ERROR": 31, "CRITICAL": 35}  # of ANSI terminals
JSON = json.JSONEncoder(default=str)
# Attributes of every log record. All others come from `extra`.
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


def make_formatter(stream: Any) -> logging.Formatter:
    """Return the formatter for LOG_FORMAT. With `auto`, it is text for a terminal, and JSON otherwise."""
    is_terminal = stream.isatty()
    if config.LOG_FORMAT == "json" or (config.LOG_FORMAT == "auto" and not is_terminal):
        return JSONFormatter()
    return TextFormatter(coloured=is_terminal and "NO_COLOR" not in os.environ)


def escape(text: str) -> str:
    """Return the text with characters that are not printable, such as newlines, as Python's escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def read_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the line's fields besides its message: those of the request, and those of `extra`."""
    extra = {name: value for name, value in vars(record).items() if name not in STANDARD}
    return {**requests.read_fields(), **extra}


class JSONFormatter(logging.Formatter):
    """One JSON object per line."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **read_fields(record),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return JSON.encode(line)


class TextFormatter(logging.Formatter):
    """
    One line of text: the time, the level, the message, the request's id and its user. Tracebacks are
    indented, so that they can't look like other log lines.
    """

    def __init__(self, coloured: bool) -> None:
        super().__init__()
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        fields = read_fields(record)
        time = datetime.fromtimestamp(record.created).isoformat(" ", "milliseconds")
        level = self._paint(f"{record.levelname:7}", COLOURS.get(record.levelname, 0))
        message = escape(f"{record.name}: {record.getMessage()}")
        request = escape(" ".join(str(fields[name]) for name in ("request_id", "user_id") if name in fields))
        line = f"{self._paint(time, DIM)} {level} {message} {self._paint(request, DIM)}".rstrip()
        details: list[str] = []
        if record.exc_info:
            details += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            details += self.formatStack(record.stack_info).split("\n")
        return "\n".join([line, *(f"    {escape(detail)}" for detail in details)])

    def _paint(self, text: str, colour: int) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._coloured and text else text
