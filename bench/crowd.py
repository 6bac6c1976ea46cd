"""
Many clients that wait: `python -m bench.crowd <port> <count> <seconds> <first address>`.

Opens so many connections, sends on each a request that takes so many seconds, says "waiting", and at the end
what became of them. Sockets and epoll alone, because a client library takes more memory and time than the
server.
"""

from __future__ import annotations

import errno
import json
import select
import socket
import sys
import time
from collections import Counter

ADDRESSES = 10  # to come from: one address has some 28,000 ports
AT_ONCE = 100  # connections that are being made
PATIENCE = 60  # seconds beyond those that the answers take


def main(port: int, count: int, seconds: int, first: int) -> None:
    body = json.dumps({"seconds": seconds}).encode()
    request = (
        b"POST /echo/wait HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    poll = select.epoll()
    connecting: set[int] = set()
    sockets: dict[int, socket.socket] = {}
    outcomes: Counter[str] = Counter()
    made = 0
    begin = time.monotonic()
    said = False
    while sum(outcomes.values()) < count and time.monotonic() < begin + seconds + PATIENCE:
        while made < count and len(connecting) < AT_ONCE:
            client = socket.socket()
            client.setblocking(False)
            client.bind((f"127.0.0.{first + made % ADDRESSES}", 0))
            if client.connect_ex(("127.0.0.1", port)) not in (0, errno.EINPROGRESS):
                outcomes["not connected"] += 1
            else:
                sockets[client.fileno()] = client
                connecting.add(client.fileno())
                poll.register(client, select.EPOLLOUT)
            made += 1
        if made == count and not connecting and not said:
            print(f"waiting {time.monotonic() - begin:.2f}", flush=True)
            said = True
        for number, _ in poll.poll(0.2):
            client = sockets[number]
            try:
                if number in connecting:
                    connecting.discard(number)
                    client.send(request)
                    poll.modify(number, select.EPOLLIN)
                    continue
                answer = client.recv(4096)
                outcomes["200" if answer.startswith(b"HTTP/1.1 200 ") else f"{answer[:30]!r}"] += 1
            except OSError as error:
                outcomes[type(error).__name__] += 1
            poll.unregister(number)
            sockets.pop(number).close()
    outcomes["no answer"] += len(sockets)
    print(json.dumps({kind: number for kind, number in outcomes.items() if number}), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:5]))
