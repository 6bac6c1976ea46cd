"""
Parsers for the values of settings. Each raises ValueError with the end of a sentence: "should be ...". The
sentence begins with the name of the setting.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Browsers omit the default port.
ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
HEADER = re.compile("[!#$%&'*+.^_`|~0-9A-Za-z-]+")
LOOPBACK = r"(localhost|127\.0\.0\.1|\[::1\])"
ISSUER = re.compile(rf"(https://|http://{LOOPBACK}[:/])\S+")
PROVIDER = re.compile(rf"(?!facebook)[a-zA-Z]+ {ISSUER.pattern}( \S+)+")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 24 * 3600}


def check_choice(text: str, choices: Sequence[str]) -> str:
    if text not in choices:
        raise ValueError(f"should be {' or '.join(choices)}, but is {text!r}")
    return text


def check_scheme(text: str, schemes: tuple[str, ...]) -> str:
    if schemes and not text.startswith(schemes):
        raise ValueError(f"should begin with {' or '.join(schemes)}")
    return text


def check_database(text: str) -> str:
    if set(text) & set('/\\. "$*<>:|?\0') or len(text.encode()) > 63:
        raise ValueError(f"is not a valid name for a MongoDB database: {text!r}")
    return text


def parse_number(text: str, low: float, high: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise ValueError(f"should be a number from {low:.10g} to {high:.10g}, but is {text!r}")
    return value


def parse_whole(text: str, low: int, high: int) -> int:
    if not re.fullmatch("[0-9]{1,18}", text) or not low <= int(text) <= high:
        raise ValueError(f"should be a whole number from {low} to {high}, but is {text!r}")
    return int(text)


def parse_networks(text: str) -> list[Network]:
    try:
        return [_read_network(part) for part in split(text)]
    except ValueError as error:
        raise ValueError(f"should be addresses or networks, with commas between: {error}") from None


def _read_network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is None or network.prefixlen < 96:
        return network
    return ipaddress.ip_network((mapped, network.prefixlen - 96))


def parse_origins(text: str) -> list[str]:
    origins = split(text)
    if origins != ["*"] and not all(map(ORIGIN.fullmatch, origins)):
        like = "* or origins like https://app.example.com, with commas between"
        raise ValueError(f"should be {like}, but is {text!r}")
    return origins


def parse_headers(text: str) -> list[str]:
    names = split(text)
    if not all(map(HEADER.fullmatch, names)):
        raise ValueError(f"should be names of headers, with commas between, but is {text!r}")
    return names


def parse_providers(text: str) -> dict[str, list[str]]:
    parts = [part.split() for part in split(text)]
    providers = {words[0]: words[1:] for words in parts}
    if len(providers) < len(parts) or not all(PROVIDER.fullmatch(" ".join(words)) for words in parts):
        raise ValueError(
            "should be like google https://accounts.google.com <client id>, with commas between"
            " providers. A name is letters, and does not begin with facebook"
        )
    return providers


def parse_rate(text: str) -> tuple[int, int]:
    count, _, unit = text.partition("/")
    if text == "off":
        return 0, 0
    if not re.fullmatch("[1-9][0-9]{0,8}", count) or unit not in SECONDS:
        raise ValueError(f"should be like 10/minute, or off, but is {text!r}")
    return int(count), SECONDS[unit]


def split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
