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

from indico import config

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
    A socket that turns clients away when the process has run out of files, where Tornado would try to accept
    them again and again. It keeps a file in reserve for that.

    Workers that share one take turns: each accepts one client at a time, where Tornado would accept all who
    wait, and leave the other workers without.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._reserve = open(os.devnull)  # noqa: SIM115 - `close` closes it
        self._had_its_turn = False

    def accept(self) -> tuple[socket.socket, Any]:
        if self._had_its_turn:
            self._had_its_turn = False
            raise BlockingIOError("another worker's turn")
        self._fill_reserve()
        try:
            accepted = super().accept()
            self._had_its_turn = config.WORKERS > 1
            return accepted
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._reserve.close()
        try:
            super().accept()[0].close()
        except OSError as error:  # nobody waits, or another thread has taken the file
            raise BlockingIOError("nobody to turn away") from error
        finally:
            self._fill_reserve()
        raise ConnectionAbortedError("out of files")  # which Tornado takes for a client that went away

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


def accept_rest(listening: socket.socket) -> list[tuple[socket.socket, Any]]:
    """All who wait to be accepted, whoever's turn it is; which is for the end."""
    accepted = []
    with suppress(OSError):
        while True:
            accepted.append(socket.socket.accept(listening))
    return accepted
