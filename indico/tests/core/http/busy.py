"""
Clients beyond MAX_ACTIONS, all at once, and how long each of them waits for its 503.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import statistics
import time
from contextlib import ExitStack
from unittest import TestCase

MAX_ACTIONS = 6  # of the server
PATIENCE = 30  # seconds
CLIENTS, ROUNDS = 10, 50
HEAD = "POST /probe/{} HTTP/1.1\r\nHost: localhost\r\n"
SCRIPT = """
import asyncio
from indico import server
from indico.routes.handler import IndicoHandler
from indico.utils import Upload, type_check, unpack

class ProbeHandler(IndicoHandler):
    request_timeout = None

    async def waits(self, data):
        await asyncio.sleep(3600)

    async def follow(self, data):
        yield "first"
        await asyncio.sleep(3600)

    @unpack("file")
    @type_check(Upload)
    async def upload(self, file):
        return True

server.ROUTES.append((r"/probe/(?P<action>[a-zA-Z]+)?", ProbeHandler))
"""


def assert_busy_at_once(test: TestCase, port: int) -> None:
    """Fill MAX_ACTIONS with actions, streams and uploads. Others are 503 in 50 ms, and /health answers."""
    multipart = "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000\r\n\r\n--x\r\n"
    with ExitStack() as stack:

        def connect() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

        for action, rest in (
            ("waits", "Content-Length: 0\r\n\r\n"),
            ("follow", "Content-Length: 0\r\n\r\n"),
            ("upload", multipart),
        ):
            for _ in range(MAX_ACTIONS // 3):
                connect().sendall((HEAD.format(action) + rest).encode())
        time.sleep(1)  # until they have begun
        clients = [connect() for _ in range(CLIENTS)]
        rounds = [measure(test, port, clients) for _ in range(ROUNDS)]
    # All of a round, which a machine that does other things too may disturb.
    in_time = [times for times in rounds if max(times) < 0.05]
    test.assertGreaterEqual(len(in_time), ROUNDS // 10)
    test.assertLess(statistics.median(sum(rounds, [])), 0.2)


def measure(test: TestCase, port: int, clients: list[socket.socket]) -> list[float]:
    """Send a request of each client, and return how long each has waited. /health answers meanwhile."""
    request = (HEAD.format("waits") + "Content-Length: 0\r\n\r\n").encode()
    began: dict[socket.socket, float] = {}
    times: list[float] = []
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
            began[client] = time.monotonic()
            client.sendall(request)
        health = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        health.request("GET", "/health")
        test.addCleanup(health.close)
        while len(times) < len(clients):
            for key, _ in selector.select(PATIENCE):
                client = next(each for each in clients if each is key.fileobj)
                answer = b""
                while not answer.endswith(b"}") and (part := client.recv(10_000)):
                    answer += part
                times.append(time.monotonic() - began[client])
                selector.unregister(client)
                test.assertTrue(answer.startswith(b"HTTP/1.1 503 "), answer)
                test.assertIn(b"\r\nretry-after: 1\r\n", answer.lower())
        test.assertEqual(health.getresponse().status, 200)
        health.close()
    return times
