"""
The keys that a provider signs ID tokens with.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from indico.core.fetch import FAILURES
from indico.core.http.proxies import is_loopback, read_address

# Only signatures with a private key. `none` means no signature, and both sides know the key of an HMAC.
ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")


def read_keys(key_set: dict[str, Any]) -> list[Any]:
    """Return the keys of a JWK set (RFC 7517) that can sign tokens. Skips all others."""
    import jwt

    keys = []
    for data in key_set["keys"]:
        if data.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(data)
        except (jwt.PyJWTError, *FAILURES, NotImplementedError):
            continue
        if key.algorithm_name in ALGORITHMS and isinstance(key.key_id, str | None):
            keys.append(key)
    return keys


def is_internal(url: str) -> bool:
    """Whether the host of this URL is localhost or an address that is not a public one."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    with suppress(OSError):  # a name, or an IPv6 address
        host = socket.inet_ntoa(socket.inet_aton(host))  # 127.1 and 2130706433 are 127.0.0.1, too
    address = read_address(host)
    return is_loopback(host) if address is None else not address.is_global
