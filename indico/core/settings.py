"""
Reads the settings of `config.py` from the environment, or from a file that a variable names.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote_plus

from indico.core import setting_values

T = TypeVar("T")
FOREIGN = ("OTEL_", "SENTRY_")  # prefixes of variables that other packages read
find_close = functools.cache(difflib.get_close_matches)  # the tests start hundreds of servers
DATABASE_IN_URI = re.compile(r"mongodb(?:\+srv)?://[^/?]*/([^?.]+)")


class SettingError(ValueError):
    """The server can't start with these settings. Each line of the message is about one setting."""


class Setting(NamedTuple):
    default: Any
    parse: Callable[[str], Any]  # raises ValueError with the end of a sentence: "should be ..."
    is_secret: bool = False  # a file may contain it
    uri: str = ""  # a setting with a MongoDB URI; a database in that URI is the default


class Environment:
    """
    Reads settings from a mapping of strings. An empty variable counts as not set.

    Each kind of setting has a method. The method returns the default for an invalid value, so that importing
    the settings never fails. `find_problems` returns a sentence for each invalid value.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.environ = dict(environ)
        self.settings: dict[str, Setting] = {}
        self._files: dict[str, str] = {}  # the text of each file that was read, by path

    # The kinds of settings

    def text(self, name: str, default: str = "") -> str:
        return self._add(name, default, str)

    def secret(self, name: str, default: str = "", *schemes: str) -> str:
        """A string that no message shows. `<NAME>_FILE` may name a file that contains it."""
        return self._add(
            name, default, lambda text: setting_values.check_scheme(text, schemes), is_secret=True
        )

    def choice(self, name: str, *choices: str) -> str:
        """One of `choices`. The first one is the default."""
        return self._add(name, choices[0], lambda text: setting_values.check_choice(text, choices))

    def flag(self, name: str, default: bool) -> bool:
        """1 or 0."""
        choices = ("1", "0") if default else ("0", "1")
        return self._add(name, default, lambda text: setting_values.check_choice(text, choices) == "1")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`, both included."""
        return self._add(name, float(default), lambda text: setting_values.parse_number(text, low, high))

    def whole(self, name: str, default: int, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both included."""
        return self._add(name, default, lambda text: setting_values.parse_whole(text, low, high))

    def address(self, name: str, default: str = "", *schemes: str) -> str:
        """A URL with one of `schemes`, by default HTTP's. No message shows it: it may hold a password."""
        schemes = schemes or ("https://", "http://")
        return self._add(name, default, lambda text: setting_values.check_scheme(text, schemes))

    def database(self, name: str, uri: str) -> str:
        """The name of a database. By default the one in the URI of the setting `uri`, or else indico."""
        return self._add(name, "indico", setting_values.check_database, uri=uri)

    def networks(self, name: str) -> list[setting_values.Network]:
        """Addresses and networks, separated by commas: `127.0.0.1, 10.0.0.0/8`."""
        return self._add(name, [], setting_values.parse_networks)

    def origins(self, name: str) -> list[str]:
        """Origins as browsers send them, separated by commas: `https://a.com, http://b.com:3000`; or `*`."""
        return self._add(name, [], setting_values.parse_origins)

    def headers(self, name: str) -> list[str]:
        """Names of headers, separated by commas: `X-App-Version, X-Device`."""
        return self._add(name, [], setting_values.parse_headers)

    def providers(self, name: str) -> dict[str, list[str]]:
        """
        Login providers, separated by commas. Each has a name, an issuer and client ids:
        `google https://accounts.google.com 1234.apps.googleusercontent.com`. Names are the keys.
        """
        return self._add(name, {}, setting_values.parse_providers)

    def rate(self, name: str, default: str) -> tuple[int, int]:
        """`10/minute` as (10, 60 seconds); `off` as (0, 0)."""
        return self._add(name, setting_values.parse_rate(default), setting_values.parse_rate)

    # Operations on all settings

    def read(self, name: str) -> Any:
        """Return the value of a setting. Raises SettingError if it is invalid or its file can't be read."""
        setting = self.settings[name]
        text = self._find_text(name)
        if not text and setting.uri:
            found = DATABASE_IN_URI.match(self.read(setting.uri))
            text = unquote_plus(found[1]) if found else ""
        try:
            return setting.parse(text) if text else setting.default
        except ValueError as error:
            raise SettingError(f"{name} {error}.") from None

    def load(self, values: dict[str, Any], names: Iterable[str] | None = None) -> None:
        """
        Put the values of these settings, by default of all, into `values`, the namespace of a module. Remove
        the settings in files from it, so that the module reads them when they are first used.
        """
        for name in self.settings if names is None else names:
            if self._is_in_file(name):
                values.pop(name, None)
            else:
                values[name] = self._read_or_default(name)

    def make_reader(self, values: dict[str, Any]) -> Callable[[str], Any]:
        """Return a `__getattr__` for the module with this namespace, that reads settings in files."""

        def read_missing(name: str) -> Any:
            if name not in self.settings:
                raise AttributeError(f"module {values['__name__']!r} has no attribute {name!r}")
            value = values[name] = self.read(name)
            return value

        return read_missing

    def load_files(self, values: dict[str, Any]) -> None:
        """Put the settings in files into `values`, too. Raises SettingError, with all problems."""
        names = [name for name in self.settings if self._is_in_file(name)]
        if problems := self.find_problems(names):
            raise SettingError("\n".join(problems))
        values.update({name: self.read(name) for name in names})

    def override(self, values: dict[str, Any], environ: Mapping[str, str]) -> None:
        """Load the settings that these variables set. They override earlier variables."""
        self.environ.update(environ)
        given = {name.removesuffix("_FILE") for name in environ}
        self.load(values, [name for name, setting in self.settings.items() if given & {name, setting.uri}])

    def find_problems(self, names: Iterable[str] | None = None) -> list[str]:
        """Return a sentence for each invalid value of these settings, by default of all."""
        problems = []
        for name in self.settings if names is None else names:
            try:
                self.read(name)
            except SettingError as error:
                problems.append(str(error))
        return list(dict.fromkeys(problems))  # MONGODB and MONGODB_DATABASE report the same URI

    def find_misspelt(self) -> list[str]:
        """Return a sentence for each variable whose name looks like a misspelt setting."""
        known = (*self.settings, *(f"{name}_FILE" for name in self.settings if self.settings[name].is_secret))
        sentences = []
        for name in sorted(set(self.environ) - set(known)):
            if name.startswith(FOREIGN):
                continue
            meant = find_close(name, known, 1, 0.85)
            if re.fullmatch("MONGO(DB)?_?UR[IL]", name):
                meant = ["MONGODB"]
            if meant:
                sentences.append(f"{name} is no setting; {meant[0]} is.")
            elif re.match("INDICO_(?!MONGOD_[0-9])", name):  # core/mongo/mongod.py sets INDICO_MONGOD_<n>
                sentences.append(f"{name} is no setting.")
        return sentences

    def _add(
        self, name: str, default: T, parse: Callable[[str], T], is_secret: bool = False, uri: str = ""
    ) -> T:
        self.settings[name] = Setting(default, parse, is_secret, uri)
        return default if self._is_in_file(name) else self._read_or_default(name)

    def _read_or_default(self, name: str) -> Any:
        try:
            return self.read(name)
        except SettingError:
            return self.settings[name].default

    def _is_in_file(self, name: str) -> bool:
        setting = self.settings[name]
        if setting.uri:
            return not self.environ.get(name) and self._is_in_file(setting.uri)
        return setting.is_secret and bool(self.environ.get(f"{name}_FILE"))

    def _find_text(self, name: str) -> str:
        text = self.environ.get(name, "")
        if self.settings[name].is_secret and (path := self.environ.get(f"{name}_FILE")):
            if text:
                raise SettingError(f"{name} and {name}_FILE are both set: unset one of them.")
            if path not in self._files:
                self._files[path] = _read_file(f"{name}_FILE", path)
            text = self._files[path]
        if re.search("[\ud800-\udfff]", text):  # Python decodes bytes that are not UTF-8 as surrogates
            raise SettingError(f"{name} should be UTF-8.")
        return text


def _read_file(variable: str, path: str) -> str:
    try:
        text = Path(path).read_bytes().decode(errors="surrogateescape")
    except OSError as error:
        raise SettingError(f"{variable} is {path!r}, which can't be read: {error.strerror}.") from None
    if not text.strip():
        raise SettingError(f"{variable} is {path!r}, and that file is empty.")
    return re.sub(r"\r?\n\Z", "", text)
