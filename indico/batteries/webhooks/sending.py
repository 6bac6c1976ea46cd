"""
Requests to addresses that clients name: only to public ones, without redirects and without a proxy.
"""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import json
import re
import socket
from typing import Any
from urllib.parse import urlsplit

from tornado.netutil import Resolver

from indico import config
from indico.core.fetch import fetch, make_client
from indico.error import InvalidValue

MAX_LENGTH = 2048  # characters of a URL
GLOBAL_IPV6 = ipaddress.ip_network("2000::/3")
TIMEOUT = 10  # seconds, for a whole request


class PrivateAddress(OSError):
    """The host has an address that is not public."""


def check_url(url: str) -> str:
    """Return the URL. Raises InvalidValue if it is none of HTTPS, or has the address of a private network."""
    schemes = ("https",) if config.PRODUCTION else ("https", "http")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
        if parts.scheme not in schemes or "@" in parts.netloc or not re.fullmatch("[!-~]+", url):
            raise ValueError
        if len(url) > MAX_LENGTH or not re.fullmatch(r"[\w.:-]+", host, re.ASCII):
            raise ValueError
    except ValueError:
        expected = " or ".join(schemes)
        raise InvalidValue(f"Webhook-URL should be a URL of {expected}, without a password") from None
    if is_private(host):
        raise InvalidValue("Webhook-URL should have a public address")
    return url


def is_private(host: str) -> bool:
    """Whether this is an address, and not one that is public. Names are looked up when they are used."""
    try:
        return not is_public(host)
    except ValueError:
        return False


def is_public(text: str) -> bool:
    """Whether this is an address of the public internet. Raises ValueError if it is no address."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        elif address not in GLOBAL_IPV6 or address.sixtofour is not None:  # it may contain an IPv4 address
            return False
    return address.is_global and not address.is_multicast


class PublicResolver(Resolver):
    """Looks a host up. Raises PrivateAddress unless all of its addresses are public."""

    async def resolve(self, host: str, port: int, family: int = socket.AF_UNSPEC) -> list[tuple[int, Any]]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        if not all(is_public(str(entry[4][0])) for entry in found):
            raise PrivateAddress(f"{host} is not a public address")
        return [(entry[0], entry[4]) for entry in found]


async def send(url: str, secret: str, message_id: str, message: dict[str, Any]) -> None:
    """
    POST a signed message, as Standard Webhooks has it. Raises PrivateAddress, or one of
    `indico.core.fetch.FAILURES` unless the response is 2xx.
    """
    from standardwebhooks import Webhook

    now = datetime.datetime.now(datetime.UTC)
    body = json.dumps({**message, "timestamp": now.isoformat(timespec="seconds")})
    headers = {
        "Content-Type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(secret).sign(message_id, now, body),
    }
    client = make_client(PublicResolver())  # it connects to what the resolver returns
    await fetch(client, url, TIMEOUT, method="POST", headers=headers, body=body, user_agent="indico")
