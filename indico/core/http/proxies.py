"""
Addresses of clients, with or without proxies.
"""

from __future__ import annotations

import ipaddress
import re

from tornado.httputil import HTTPServerRequest

from indico import config

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# An address with a port. IPv6 needs brackets then, and an address in brackets needs no port.
WITH_PORT = re.compile(r'"?(?:\[(?P<v6>[^\]]*)\]|(?P<v4>[0-9.]+))(?::[0-9]{1,5})?"?')
LOCALHOST = re.compile(r"(?i)([^:]+\.)?localhost\.?(:[0-9]*)?")
NETWORK_BITS = 64  # of an IPv6 address; a client usually has all addresses of its network


def read_address(text: str) -> Address | None:
    """
    Return the address that a text contains, or None. It may have a port, brackets, quotes and an IPv6 zone.
    An IPv4 address that is written as IPv6, `::ffff:192.0.2.1`, becomes the IPv4 address.
    """
    text = text.strip()
    match = WITH_PORT.fullmatch(text)
    if match is not None:
        text = match["v6"] or match["v4"] or ""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def is_loopback(text: str) -> bool:
    """Whether this is an address of loopback, or localhost or a name below it. It may have a port."""
    address = read_address(text)
    return LOCALHOST.fullmatch(text) is not None if address is None else address.is_loopback


def is_trusted(text: str) -> bool:
    """Whether TRUSTED_PROXIES contains this address."""
    address = read_address(text)  # None for a Unix socket
    return address is not None and any(address in network for network in config.TRUSTED_PROXIES)


def is_from_proxy(request: HTTPServerRequest) -> bool:
    """Whether a trusted proxy has sent this request. Only then can its headers about others be believed."""
    return is_trusted(str(request.remote_ip))


def client_address(request: HTTPServerRequest) -> str:
    """
    Return the address of the client. Without trusted proxies it is the peer of the connection. Behind trusted
    proxies it is the last address in X-Forwarded-For that is not a proxy's. A client can forge the addresses
    before that one.
    """
    address = str(read_address(str(request.remote_ip)) or request.remote_ip)
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and is_trusted(address):
        hop = read_address(hops.pop())
        if hop is None:
            break
        address = str(hop)
    return address


def group_address(text: str) -> str:
    """Return what limits per address count: an IPv4 address, or the /64 network of an IPv6 address."""
    address = read_address(text)
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, NETWORK_BITS), strict=False))
    return str(address or text)
