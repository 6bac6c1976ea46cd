"""
Addresses of clients, also behind proxies.
"""

from __future__ import annotations

import ipaddress

from tornado.httputil import HTTPServerRequest

from indico import config


def is_trusted(address: str) -> bool:
    """Whether TRUSTED_PROXIES says so."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # the other end of a Unix socket, which has none
        return False
    return any(parsed in network for network in config.TRUSTED_PROXIES)


def client_address(request: HTTPServerRequest) -> str:
    """
    The address of the client: the other end of the connection or, behind trusted proxies, the last one in
    X-Forwarded-For that is not theirs. What stands before it anybody may have written.
    """
    address = str(request.remote_ip)
    hops = request.headers.get("X-Forwarded-For", "").split(",")
    while hops and is_trusted(address):
        try:
            address = str(ipaddress.ip_address(hops.pop().strip()))
        except ValueError:
            break
    return address
