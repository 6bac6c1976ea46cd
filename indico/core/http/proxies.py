"""
Addresses of clients, with or without proxies.
"""

from __future__ import annotations

import ipaddress

from tornado.httputil import HTTPServerRequest

from indico import config


def is_trusted(address: str) -> bool:
    """Whether TRUSTED_PROXIES contains this address."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a Unix socket has no address
        return False
    return any(parsed in network for network in config.TRUSTED_PROXIES)


def client_address(request: HTTPServerRequest) -> str:
    """
    Return the address of the client. Without trusted proxies it is the peer of the connection. Behind trusted
    proxies it is the last address in X-Forwarded-For that is not a proxy's. A client can forge the addresses
    before that one.
    """
    address = str(request.remote_ip)
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and is_trusted(address):
        try:
            address = str(ipaddress.ip_address(hops.pop().strip()))
        except ValueError:
            break
    return address
