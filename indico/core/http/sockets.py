"""
Listening sockets, and the limit of open files.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import suppress
from typing import Any

from tornado.netutil import bind_sockets

BACKLOG = 1024  # connections that wait to be accepted


def raise_file_limit() -> int:
    """Raise the limit of open files to what the machine allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS says that there is none, and then there is
        return soft
    return hard


class ListeningSocket(socket.socket):
    """
    A socket that rejects clients when the process has run out of files: otherwise the event loop would try to
    accept them again and again. It keeps a file in reserve for that.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._reserve = open(os.devnull)  # noqa: SIM115 - `close` closes it

    def accept(self) -> tuple[socket.socket, Any]:
        """The next client. Raises BlockingIOError without one, ConnectionAbortedError if it is rejected."""
        self._fill_reserve()
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._reserve.close()
        try:
            super().accept()[0].close()
        except OSError as error:  # no client waits, or another thread has taken the file
            raise BlockingIOError("no client to reject") from error
        finally:
            self._fill_reserve()
        raise ConnectionAbortedError("out of files")

    def _fill_reserve(self) -> None:
        if self._reserve.closed:
            with suppress(OSError):
                self._reserve = open(os.devnull)  # noqa: SIM115

    def close(self) -> None:
        self._reserve.close()
        super().close()


def listen(port: int, address: str) -> list[socket.socket]:
    """Sockets on this address, all if it is empty. Raises OSError."""
    return [ListeningSocket(listening) for listening in bind_sockets(port, address or None, backlog=BACKLOG)]


def accept_waiting(listening: socket.socket, limit: int) -> list[tuple[socket.socket, Any]]:
    """Clients that wait to be accepted, so many at most."""
    accepted = []
    for _ in range(limit):
        try:
            accepted.append(listening.accept())
        except ConnectionAbortedError:
            continue
        except OSError:
            break
    return accepted
