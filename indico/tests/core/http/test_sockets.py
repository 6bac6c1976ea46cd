"""
Listening sockets, also when files run out.
"""

from __future__ import annotations

import gc
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from indico.core.http.sockets import accept_waiting, listen, raise_file_limit
from indico.tests.testutils import slow
from indico.tests.testutils.strict import StrictTest

PATIENCE = 30  # seconds; what takes longer will not happen
FIRST = "127.0.0.1"


class FileLimitTest(StrictTest):
    @slow
    def test_the_limit_of_files_is_raised_to_what_the_machine_allows(self) -> None:
        program = (
            "import resource\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 200))\n"
            "from indico.core.http.sockets import raise_file_limit\n"
            "print(raise_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        )
        output = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
        self.assertEqual(output.split(), ["200", "200", "200"])

    def test_a_machine_that_allows_less_than_it_says_leaves_the_limit(self) -> None:
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        for error in (ValueError, OSError):
            with mock.patch.object(resource, "setrlimit", side_effect=error):
                self.assertEqual(raise_file_limit(), before[0])
        self.assertEqual(resource.getrlimit(resource.RLIMIT_NOFILE), before)


TAKEN = """
import errno, os, resource, socket
from unittest import mock
from indico.core.http.sockets import listen

[listening] = listen(0, "127.0.0.1")
clients = [socket.create_connection(listening.getsockname()) for _ in range(2)]
lowest = open(os.devnull)
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, hard))

def accept():
    try:
        listening.accept()
    except ConnectionAbortedError:
        print("turned-away")
    except BlockingIOError:
        print("nobody")

with mock.patch("builtins.open", side_effect=OSError(errno.EMFILE, "too many")):
    accept()
    taken = os.dup(0)
    accept()
os.close(taken)
accept()
print(*[client.recv(1) for client in clients])
"""


class ListeningSocketTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        [self.listening] = listen(0, FIRST)
        self.addCleanup(self.listening.close)

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.listening.getsockname(), PATIENCE)
        self.addCleanup(client.close)
        return client

    @contextmanager
    def no_files(self) -> Iterator[None]:
        """No file can be opened, because all numbers up to the limit are taken."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        gc.collect()  # or what it closes later leaves a number free
        with open(os.devnull) as lowest:
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest.fileno() + 1, before[1]))
            try:
                yield
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def test_clients_are_accepted_while_there_are_files(self) -> None:
        client = self.connect()
        accepted, address = self.listening.accept()
        accepted.close()
        self.assertEqual(address, client.getsockname())
        with self.assertRaises(BlockingIOError):
            self.listening.accept()

    def test_without_files_each_client_is_turned_away(self) -> None:
        clients = [self.connect() for _ in range(20)]
        with self.no_files():
            accepted = accept_waiting(self.listening, 100)
        for connection, _ in accepted:  # with files that other threads of this process gave back
            connection.close()
        self.assertLess(len(accepted), len(clients) // 2)
        for client in clients:
            self.assertEqual(client.recv(1), b"")

    def test_clients_are_accepted_again_when_there_are_files_again(self) -> None:
        with self.no_files(), self.assertRaises(BlockingIOError):
            self.listening.accept()
        self.test_clients_are_accepted_while_there_are_files()

    @slow
    def test_a_file_in_reserve_that_another_took_is_had_again_later(self) -> None:
        # In a process of its own: here other threads give files back at any moment.
        script = subprocess.run([sys.executable, "-c", TAKEN], capture_output=True, text=True)
        self.assertEqual(script.stdout.split(), ["turned-away", "nobody", "turned-away", "b''", "b''"])
