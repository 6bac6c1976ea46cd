"""
Listening sockets and the limit of open files.
"""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import suppress
from typing import Any

from tornado.netutil import bind_sockets

BACKLOG = 1024  # connections that may wait to be accepted
MAX_NOT_SENT = 16 * 1024  # bytes


def raise_file_limit() -> int:
    """Raise the limit of open files to the hard limit, and return the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ValueError, OSError):  # macOS reports no hard limit, but has one
        return soft
    return hard


def limit_unsent(connected: socket.socket) -> None:
    """
    Keep the kernel's buffer small, MAX_NOT_SENT bytes more than the client has room for. Otherwise it holds
    megabytes, so that a write does not wait for a slow client, and then waits until a third of them is sent.
    """
    with suppress(OSError):  # not a TCP socket
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, MAX_NOT_SENT)


class ListeningSocket(socket.socket):
    """
    A socket that rejects clients when the process has run out of files. Otherwise the event loop would try to
    accept them again and again. The socket reserves a file, and closes it to accept and reject a client.
    """

    def __init__(self, listening: socket.socket) -> None:
        super().__init__(fileno=listening.detach())
        self._reserve = open(os.devnull)  # noqa: SIM115 - `close` closes it

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a client. Raises BlockingIOError if none waits, ConnectionAbortedError if it is rejected."""
        self._fill_reserve()
        try:
            return super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
        self._reserve.close()
        try:
            super().accept()[0].close()
        except OSError as error:  # no client waits, or another thread has used the file
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
    """Listen on this address, or on all addresses if it is empty. Raises OSError."""
    return [ListeningSocket(listening) for listening in bind_sockets(port, address or None, backlog=BACKLOG)]


def accept_waiting(listening: socket.socket, limit: int) -> list[tuple[socket.socket, Any]]:
    """Accept the waiting clients, `limit` at most."""
    accepted = []
    for _ in range(limit):
        try:
            accepted.append(listening.accept())
        except ConnectionAbortedError:
            continue
        except OSError:
            break
    return accepted
