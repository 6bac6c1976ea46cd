"""
Network namespaces: parts of this machine that have addresses of their own, and can be disconnected from each
other without any of their programs being told. They need root, Linux and the command `ip`.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import combinations

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
SUBNET = "10.77.0"
NOBODY = "02:00:00:00:00:99"  # a hardware address that no interface has


def find_obstacle() -> str | None:
    """Return why there can't be namespaces here, or None."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "ip is not installed"
    try:
        Network(1).close()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"this machine allows no network namespaces: {error}"
    return None


def call(name: str, *arguments: int) -> None:
    """Call a function of the C library. Raises OSError if it fails."""
    if getattr(LIBC, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


class Namespace:
    """
    A namespace with one address. It ends with its last process, thread and socket, after `close`.

    What a thread opens or starts while it is in a namespace stays there: sockets, processes, threads.
    """

    def __init__(self, number: int) -> None:
        self.address = f"{SUBNET}.{number}"
        before = open_current()
        try:
            call("unshare", CLONE_NEWNET)
            self.file = open_current()
        finally:
            call("setns", before, CLONE_NEWNET)
            os.close(before)
        self.run("link set lo up")

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Put the current thread into the namespace until the end of the block."""
        before = open_current()
        call("setns", self.file, CLONE_NEWNET)
        try:
            yield
        finally:
            call("setns", before, CLONE_NEWNET)
            os.close(before)

    def run(self, command: str) -> None:
        """Run `ip` with this command in the namespace."""
        with self.enter():
            subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)

    def close(self) -> None:
        os.close(self.file)


def open_current() -> int:
    """Open the namespace of the current thread."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY)


class Network:
    """
    A number of namespaces, `nodes`, and `hub`, which is connected to each of them at all times.

        with Network(2) as network:
            first, second = network.nodes
            network.disconnect([first], [second])
            network.reconnect()
    """

    def __init__(self, count: int) -> None:
        self.hub = Namespace(254)
        self.nodes: list[Namespace] = []
        self._cut: set[tuple[Namespace, Namespace]] = set()
        try:
            self.hub.run("link add bridge type bridge")
            self.hub.run(f"addr add {self.hub.address}/24 dev bridge")
            self.hub.run("link set bridge up")
            for number in range(1, count + 1):
                node = Namespace(number)
                self.nodes.append(node)
                path = f"/proc/{os.getpid()}/fd/{node.file}"
                self.hub.run(f"link add port{number} type veth peer name eth0 netns {path}")
                self.hub.run(f"link set port{number} master bridge up")
                node.run(f"addr add {node.address}/24 dev eth0")
                node.run("link set eth0 up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Network:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def disconnect(self, some: list[Namespace], others: list[Namespace]) -> None:
        """From now on, packets between these are lost, in both directions. Connections stay open."""
        for pair in combinations([*some, *others], 2):
            if (pair[0] in some) != (pair[1] in some):
                for sender, receiver in (pair, pair[::-1]):
                    self._cut.add((sender, receiver))
                    sender.run(f"neigh replace {receiver.address} lladdr {NOBODY} dev eth0 nud permanent")

    def reconnect(self) -> None:
        """End all disconnections."""
        for sender, receiver in self._cut:
            with suppress(subprocess.CalledProcessError):  # the kernel has removed it
                sender.run(f"neigh del {receiver.address} dev eth0")
        self._cut.clear()

    def close(self) -> None:
        for namespace in (self.hub, *self.nodes):
            namespace.close()
