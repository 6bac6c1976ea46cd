"""
Every setting, read once from the environment.

Code reads a setting where it uses it (`config.PORT`, not `from indico.config import PORT`), so that a
test or the command line can set another.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from collections.abc import Mapping

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class SettingError(ValueError):
    """Settings that the server can't start with: a sentence a line, each naming one."""


class Environment:
    """
    Reads settings from a mapping of strings; a variable that is empty counts as not set.

    A value that makes no sense gives the default and leaves a sentence in `problems`: importing the
    settings never fails, `check` does.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = environ
        self.problems: list[str] = []
        self.names: list[str] = []  # of all settings

    def find_misspelt(self) -> list[str]:
        """A sentence for each variable that is no setting, but looks as if somebody took it for one."""
        sentences = []
        for name in sorted(set(self.environ) - set(self.names)):
            meant = difflib.get_close_matches(name, self.names, 1, 0.85)
            if re.fullmatch("MONGO(DB)?_?UR[IL]", name):
                meant = ["MONGODB"]
            sentences += [f"{name} is no setting; {nearest} is." for nearest in meant]
        return sentences

    def text(self, name: str, default: str = "") -> str:
        self.names.append(name)
        value = self.environ.get(name) or default
        if re.search("[\ud800-\udfff]", value):  # what Python makes of bytes that are no UTF-8
            self.problems.append(f"{name} should be UTF-8.")
            return default
        return value

    def choice(self, name: str, *choices: str) -> str:
        """One of `choices`, the first of which is the default."""
        value = self.text(name, choices[0])
        if value not in choices:
            self.problems.append(f"{name} should be {' or '.join(choices)}, but is {value!r}.")
            return choices[0]
        return value

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`, both included."""
        try:
            value = float(self.text(name, str(default)))
            if low <= value <= high:
                return value
        except ValueError:
            pass
        self.problems.append(
            f"{name} should be a number from {low:.10g} to {high:.10g}, but is {self.environ[name]!r}."
        )
        return default

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        value = self.text(name, str(default))
        if re.fullmatch("[0-9]{1,18}", value) and low <= int(value) <= high:
            return int(value)
        self.problems.append(f"{name} should be a whole number from {low} to {high}, but is {value!r}.")
        return default

    def flag(self, name: str, default: bool) -> bool:
        """1 or 0."""
        return self.choice(name, *(("1", "0") if default else ("0", "1"))) == "1"

    def networks(self, name: str) -> list[Network]:
        """Addresses and networks, separated by commas: `127.0.0.1, 10.0.0.0/8`."""
        try:
            return [ipaddress.ip_network(part.strip()) for part in self.text(name).split(",") if part.strip()]
        except ValueError as error:
            self.problems.append(f"{name} should be addresses or networks, with commas between: {error}.")
            return []

    def origins(self, name: str) -> list[str]:
        """Origins as browsers send them, separated by commas: `https://a.com, http://b.com:3000`; or `*`."""
        value = self.text(name)
        origins = [part.strip() for part in value.split(",") if part.strip()]
        if origins != ["*"] and not all(ORIGIN.fullmatch(origin) for origin in origins):
            self.problems.append(
                f"{name} should be * or origins like https://app.example.com, with commas between,"
                f" but is {value!r}."
            )
            return []
        return origins

    def providers(self, name: str) -> dict[str, list[str]]:
        """
        Providers of logins, separated by commas: each a name, an issuer and client ids, as in
        `google https://accounts.google.com 1234.apps.googleusercontent.com`. By name, all the rest.
        """
        parts = [part.split() for part in self.text(name).split(",") if part.strip()]
        providers = {words[0]: words[1:] for words in parts}
        if len(providers) < len(parts) or not all(PROVIDER.fullmatch(" ".join(words)) for words in parts):
            self.problems.append(
                f"{name} should be like google https://accounts.google.com <client id>, with commas between"
                " providers. A name is letters, and does not begin with facebook."
            )
            return {}
        return providers

    def rate(self, name: str, default: str) -> tuple[int, int]:
        """`10/minute` as (10, 60 seconds); `off` as (0, 0)."""
        value = self.text(name, default)
        count, _, unit = value.partition("/")
        if value == "off":
            return 0, 0
        if re.fullmatch("[1-9][0-9]{0,8}", count) and unit in SECONDS:
            return int(count), SECONDS[unit]
        self.problems.append(f"{name} should be like 10/minute, or off, but is {value!r}.")
        return 0, 0

    def address(self, name: str, default: str, *schemes: str) -> str:
        """An address that begins with one of `schemes`. It may hold a password, so no sentence shows it."""
        value = self.text(name, default)
        if value != default and not value.startswith(schemes):
            self.problems.append(f"{name} should begin with {' or '.join(schemes)}.")
            return default
        return value


DEFAULT_MONGODB = "mongodb://localhost:27017"
YEAR = 365 * 24 * 3600  # seconds
# A browser names no default port.
ORIGIN = re.compile(
    r"(?!http://.*:80$|https://.*:443$)[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?"
)
LOOPBACK = r"(localhost|127\.0\.0\.1|\[::1\])"
ISSUER = re.compile(rf"(https://|http://{LOOPBACK}[:/])\S+")
PROVIDER = re.compile(rf"(?!facebook)[a-zA-Z]+ {ISSUER.pattern}( \S+)+")
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 24 * 3600}

environment = Environment(os.environ)

INDICO_ENV = environment.choice("INDICO_ENV", "development", "production")
PRODUCTION = INDICO_ENV == "production"

PORT = environment.whole("PORT", 5000, 0, 65535)  # 0: any free one
ADDRESS = environment.text("ADDRESS", "" if PRODUCTION else "127.0.0.1")  # empty: all interfaces
HTTP_SERVER = environment.choice("HTTP_SERVER", "own", "tornado")
WORKERS = environment.whole("WORKERS", 1, 1, 512)  # processes sharing the port

MONGODB = environment.address("MONGODB", DEFAULT_MONGODB, "mongodb://", "mongodb+srv://")
MONGODB_DATABASE = environment.text("MONGODB_DATABASE", "indico")
MONGODB_DRIVER = environment.choice("MONGODB_DRIVER", "motor", "pymongo", "mongojet")
MONGODB_TIMEOUT = environment.number("MONGODB_TIMEOUT", 5, 0.01, 3600)  # seconds

USER_SALT = environment.text("USER_SALT")
KEY_LIFETIME = environment.number("KEY_LIFETIME", 30 * 24 * 3600, 1, 100 * YEAR)  # seconds
KEY_CACHE = environment.number("KEY_CACHE", 0, 0, 3600)  # seconds that a key is remembered; 0: not at all
DEV_TOKEN = environment.text("DEV_TOKEN")

LOGIN_RATE = environment.rate("LOGIN_RATE", "10/minute")  # logins, for each address and each oauth_id
CORS_ORIGINS = environment.origins("CORS_ORIGINS")  # whose pages may call the server

DOCS = environment.flag("DOCS", not PRODUCTION)  # whether the API's description and its page are served
OPENID_PROVIDERS = environment.providers("OPENID_PROVIDERS")  # name: issuer and client ids
FACEBOOK_APP_ID = environment.text("FACEBOOK_APP_ID")
FACEBOOK_APP_SECRET = environment.text("FACEBOOK_APP_SECRET")
FACEBOOK_GRAPH_URL = environment.address(
    "FACEBOOK_GRAPH_URL", "https://graph.facebook.com", "https://", "http://"
)

REQUEST_TIMEOUT = environment.number("REQUEST_TIMEOUT", 60, 0.01, YEAR)  # seconds
HEADER_TIMEOUT = environment.number("HEADER_TIMEOUT", 10, 0.01, YEAR)  # seconds, for a connection's first
BODY_TIMEOUT = environment.number("BODY_TIMEOUT", 60, 0.01, YEAR)  # seconds, for all of a body
WRITE_TIMEOUT = environment.number("WRITE_TIMEOUT", 60, 0.01, YEAR)  # seconds, for an answer to be read
MAX_UNREAD = environment.whole("MAX_UNREAD", 256 * 1024 * 1024, 1, 2**63)  # bytes of requests not served yet
MAX_UNSENT = environment.whole("MAX_UNSENT", 256 * 1024 * 1024, 1, 2**63)  # bytes of answers not read yet
IDLE_TIMEOUT = environment.number("IDLE_TIMEOUT", 75, 0.01, YEAR)  # seconds, between two requests
MAX_CONNECTIONS = environment.whole("MAX_CONNECTIONS", 0, 0, 2**31)  # a process; 0: what its files allow
MAX_CONNECTIONS_PER_ADDRESS = environment.whole("MAX_CONNECTIONS_PER_ADDRESS", 0, 0, 2**31)  # 0: half
TRUSTED_PROXIES = environment.networks("TRUSTED_PROXIES")  # whose X-Forwarded-For to believe
MAX_BODY_SIZE = environment.whole("MAX_BODY_SIZE", 1024 * 1024, 1, 2**31)  # bytes
SHUTDOWN_TIMEOUT = environment.number("SHUTDOWN_TIMEOUT", 10, 0, 3600)  # seconds

LOG_LEVEL = environment.choice("LOG_LEVEL", "INFO", "DEBUG", "WARNING", "ERROR", "CRITICAL")
LOG_FORMAT = environment.choice("LOG_FORMAT", "auto", "json", "text")  # auto: text on a terminal
SENTRY_DSN = environment.text("SENTRY_DSN")
SENTRY_TRACES_SAMPLE_RATE = environment.number("SENTRY_TRACES_SAMPLE_RATE", 0, 0, 1)  # share of requests
OTEL_EXPORTER_OTLP_ENDPOINT = environment.address("OTEL_EXPORTER_OTLP_ENDPOINT", "", "https://", "http://")


def check() -> None:
    """Raise SettingError unless the server can start with these settings."""
    problems = list(environment.problems)
    if set(MONGODB_DATABASE) & set('/\\. "$*<>:|?\0') or len(MONGODB_DATABASE.encode()) > 63:
        problems.append(f"MONGODB_DATABASE is no name MongoDB takes for a database: {MONGODB_DATABASE!r}.")
    if PRODUCTION and len(USER_SALT) < 16:
        problems.append("USER_SALT should be a secret of at least 16 characters in production.")
    if PRODUCTION and DEV_TOKEN:
        problems.append("DEV_TOKEN opens every account: unset it in production.")
    if problems:
        raise SettingError("\n".join(problems))
