"""
A process that computes: the server's side, and what it runs itself.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from indico.core.supervisor import COMPUTE_PROCESS, die_with_parent
from indico.error import IndicoError

NICENESS = 10  # added to the server's, so that requests are served first

# Fork would copy the server's event loop, sockets and database client.
CONTEXT = multiprocessing.get_context("spawn")
Outcome = tuple[Any, Exception | None]  # of a call: its result, or what it raised


class ProcessDied(Exception):
    """A process died in the middle of a computation. The kernel ends processes if memory is short: -9."""

    def __init__(self, exit_code: int | None, function: Callable[..., Any]) -> None:
        name = getattr(function, "__qualname__", repr(function))
        super().__init__(f"A compute process died (exit code {exit_code}) while it ran {name}")


class Process:
    """A process that has been started. It runs one call at a time."""

    def __init__(self) -> None:
        self._connection, theirs = CONTEXT.Pipe()
        # The server may be a daemon, to which multiprocessing allows no children. These end with it.
        multiprocessing.current_process().daemon = False
        # A daemon: multiprocessing ends it if the server ends without `close`.
        self._process = CONTEXT.Process(
            target=run_process, args=(theirs, os.getpid()), name=COMPUTE_PROCESS, daemon=True
        )
        self._process.start()
        theirs.close()

    def call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Outcome:
        """Run the function in the process, and wait for it. Raises EOFError or OSError if it dies."""
        try:
            request = pickle.dumps((function, args))
        except Exception as error:
            return None, error
        self._connection.send_bytes(request)
        outcome: Outcome = decode(self._connection.recv_bytes())
        return outcome

    # The event loop's thread alone calls these: two threads can't wait for one process.

    def is_alive(self) -> bool:
        return self._process.is_alive()

    def get_exit_code(self) -> int | None:
        """Return the exit code of a process that is about to end: -9 after SIGKILL."""
        self._process.join(0.1)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the process. No call may be running."""
        self._connection.close()


def decode(response: bytes) -> Outcome:
    """Return the outcome that `run` has encoded."""
    result, error = pickle.loads(response)
    if isinstance(error, tuple):  # see `encode_error`
        message, code, retry_after = error
        error = IndicoError(message, code)
        error.retry_after = retry_after
    return result, error


# In the process


def run_process(connection: Connection, parent: int) -> None:
    """Run calls until the server closes the connection."""
    for number in (signal.SIGINT, signal.SIGTERM):  # to the whole process group; the server decides
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent, signal.SIGKILL)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.nice(NICENESS)
    while True:
        try:
            request = connection.recv_bytes()
        except (EOFError, OSError):
            return
        connection.send_bytes(run(request))


def exit_with_parent() -> None:
    """Wait until the server ends, or executes itself anew, and end this process in the middle of a call."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def run(request: bytes) -> bytes:
    """Run a call, and return its outcome, both pickled."""
    try:
        function, args = pickle.loads(request)
        return pickle.dumps((function(*args), None))
    except BaseException as error:  # SystemExit, too: it would be the server's
        return encode_error(error)


def encode_error(error: BaseException) -> bytes:
    """Return the outcome of a call that has raised this exception. The log shows its traceback as a note."""
    if isinstance(error, IndicoError):  # its class may have arguments of its own
        return pickle.dumps((None, (error.message, error.code, error.retry_after)))
    text = "".join(traceback.format_exception(error))
    try:
        if not isinstance(error, Exception):
            raise TypeError("it is not an Exception")
        error.add_note(f"In the compute process:\n{text}")
        encoded = pickle.dumps((None, error))
        pickle.loads(encoded)
    except Exception:  # it can't be pickled
        return pickle.dumps((None, RuntimeError(text)))
    return encoded


def call_all(*hooks: Callable[[], object]) -> None:
    for hook in hooks:
        hook()
