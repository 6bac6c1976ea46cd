"""
Settings: their defaults, and what is said of values that make no sense.
"""

from __future__ import annotations

import importlib.util
import os
from types import ModuleType
from typing import Any
from unittest import mock

from indico import config
from indico.config import Environment
from indico.tests.testutils.strict import StrictTest


def read(**environ: str) -> Any:
    """The settings module, read anew from this environment; the one that all else uses stays as it is."""
    spec = importlib.util.spec_from_file_location("settings_of_a_test", config.__file__)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, environ, clear=True):
        spec.loader.exec_module(module)
    return module


class EnvironmentTest(StrictTest):
    def test_text_that_is_not_set_is_the_default(self) -> None:
        self.assertEqual(Environment({}).text("NAME", "Ada"), "Ada")

    def test_text_that_is_empty_counts_as_not_set(self) -> None:
        self.assertEqual(Environment({"NAME": ""}).text("NAME", "Ada"), "Ada")

    def test_text_that_is_set_is_taken_as_it_is(self) -> None:
        self.assertEqual(Environment({"NAME": " Bob "}).text("NAME", "Ada"), " Bob ")

    def test_text_of_bytes_that_are_no_utf_8_is_a_problem(self) -> None:
        environment = Environment({"NAME": os.fsdecode(b"Ad\xff")})
        self.assertEqual(environment.text("NAME", "Ada"), "Ada")
        self.assertEqual(environment.problems, ["NAME should be UTF-8."])

    def test_a_choice_that_is_not_set_is_the_first(self) -> None:
        self.assertEqual(Environment({}).choice("MODE", "slow", "fast"), "slow")

    def test_a_choice_that_is_set_is_taken(self) -> None:
        environment = Environment({"MODE": "fast"})
        self.assertEqual((environment.choice("MODE", "slow", "fast"), environment.problems), ("fast", []))

    def test_a_choice_of_something_else_is_a_problem(self) -> None:
        environment = Environment({"MODE": "Fast"})
        self.assertEqual(environment.choice("MODE", "slow", "fast"), "slow")
        self.assertEqual(environment.problems, ["MODE should be slow or fast, but is 'Fast'."])

    def test_a_number_may_have_a_fraction(self) -> None:
        environment = Environment({"SECONDS": "0.25"})
        self.assertEqual((environment.number("SECONDS", 5, 0, 60), environment.problems), (0.25, []))

    def test_a_number_that_is_not_set_is_the_default(self) -> None:
        environment = Environment({})
        self.assertEqual((environment.number("SECONDS", 5, 0, 60), environment.problems), (5, []))

    def test_a_number_that_is_none_or_out_of_range_is_a_problem(self) -> None:
        for value in ("five", "-1", "60.1", "nan", "inf", "-inf", "1e999", "0x10", "5s"):
            with self.subTest(value=value):
                environment = Environment({"SECONDS": value})
                self.assertEqual(environment.number("SECONDS", 5, 0, 60), 5)
                self.assertEqual(
                    environment.problems, [f"SECONDS should be a number from 0 to 60, but is '{value}'."]
                )

    def test_a_whole_number_may_be_either_bound(self) -> None:
        environment = Environment({"LOW": "1", "HIGH": "512"})
        self.assertEqual(environment.whole("LOW", 7, 1, 512), 1)
        self.assertEqual(environment.whole("HIGH", 7, 1, 512), 512)
        self.assertEqual(environment.problems, [])

    def test_a_whole_number_that_is_none_or_out_of_range_is_a_problem(self) -> None:
        for value in ("two", "0", "513", "-1", "+1", "1.0", "1e2", " 2", "1_0", "²", "٣", "9" * 5000):
            with self.subTest(value=value):
                environment = Environment({"COUNT": value})
                self.assertEqual(environment.whole("COUNT", 7, 1, 512), 7)
                self.assertEqual(
                    environment.problems, [f"COUNT should be a whole number from 1 to 512, but is '{value}'."]
                )

    def test_an_address_of_a_scheme_is_taken(self) -> None:
        environment = Environment({"URL": "http://localhost"})
        self.assertEqual(environment.address("URL", "https://a", "https://", "http://"), "http://localhost")
        self.assertEqual(environment.problems, [])

    def test_an_address_of_another_scheme_is_a_problem_that_does_not_repeat_it(self) -> None:
        environment = Environment({"URL": "ftp://ada:secret@localhost"})
        self.assertEqual(environment.address("URL", "https://a", "https://", "http://"), "https://a")
        self.assertEqual(environment.problems, ["URL should begin with https:// or http://."])

    def test_networks_are_separated_by_commas(self) -> None:
        environment = Environment({"PROXIES": "127.0.0.1, 10.0.0.0/8,::1,"})
        networks = [str(network) for network in environment.networks("PROXIES")]
        self.assertEqual(networks, ["127.0.0.1/32", "10.0.0.0/8", "::1/128"])
        self.assertEqual(environment.problems, [])

    def test_networks_that_are_not_set_are_none(self) -> None:
        self.assertEqual(Environment({}).networks("PROXIES"), [])

    def test_networks_that_are_none_are_a_problem(self) -> None:
        for value in ("localhost", "10.0.0.1/8", "127.0.0.1 10.0.0.1", "300.0.0.1"):
            with self.subTest(value=value):
                environment = Environment({"PROXIES": value})
                self.assertEqual(environment.networks("PROXIES"), [])
                self.assertRegex(
                    "\n".join(environment.problems), "^PROXIES should be addresses or networks, .+[.]$"
                )

    def test_origins_are_separated_by_commas(self) -> None:
        value = "https://app.example.com, http://localhost:3000,http://[::1]:8000,capacitor://localhost,"
        environment = Environment({"ORIGINS": value})
        self.assertEqual(environment.origins("ORIGINS"), value.rstrip(",").replace(" ", "").split(","))
        self.assertEqual(Environment({"ORIGINS": "*"}).origins("ORIGINS"), ["*"])
        self.assertEqual(Environment({}).origins("ORIGINS"), [])
        self.assertEqual(environment.problems, [])

    def test_what_no_browser_sends_as_an_origin_is_a_problem(self) -> None:
        for value in (
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
            "http://localhost:80",
            "https://*.example.com",
            "https://a.com https://b.com",
            "https://a.com,*",
            "https://ä.com",
            "null",
        ):
            with self.subTest(value=value):
                environment = Environment({"ORIGINS": value})
                self.assertEqual(environment.origins("ORIGINS"), [])
                self.assertEqual(
                    environment.problems,
                    [
                        "ORIGINS should be * or origins like https://app.example.com, with commas between,"
                        f" but is {value!r}."
                    ],
                )

    def test_providers_are_a_name_an_issuer_and_client_ids_each(self) -> None:
        environment = Environment(
            {"PROVIDERS": "google https://accounts.google.com web phone, own  http://localhost:8080/a/ id ,"}
        )
        expected = {
            "google": ["https://accounts.google.com", "web", "phone"],
            "own": ["http://localhost:8080/a/", "id"],
        }
        self.assertEqual(environment.providers("PROVIDERS"), expected)
        self.assertEqual(Environment({}).providers("PROVIDERS"), {})
        self.assertEqual(environment.problems, [])

    def test_providers_that_are_none_are_a_problem(self) -> None:
        for value in (
            "google",
            "google https://accounts.google.com",
            "google accounts.google.com id",
            "google http://accounts.google.com id",
            "google http://localhost.example.com id",
            "google2 https://accounts.google.com id",
            "facebook https://www.facebook.com id",
            "facebooks https://www.facebook.com id",
            "a https://a.com id, a https://b.com id",
        ):
            with self.subTest(value=value):
                environment = Environment({"PROVIDERS": value})
                self.assertEqual(environment.providers("PROVIDERS"), {})
                self.assertEqual(
                    environment.problems,
                    [
                        "PROVIDERS should be like google https://accounts.google.com <client id>, with commas"
                        " between providers. A name is letters, and does not begin with facebook."
                    ],
                )

    def test_a_variable_that_looks_like_a_setting_is_found(self) -> None:
        environment = Environment(
            {"PORT": "1", "PORTS": "1", "WORKER": "1", "MONGO_URI": "1", "MONGODB_URL": "1", "HOME": "1"}
        )
        for name in ("PORT", "WORKERS", "MONGODB", "MONGODB_DRIVER"):
            environment.text(name)
        self.assertEqual(
            environment.find_misspelt(),
            [
                "MONGODB_URL is no setting; MONGODB is.",
                "MONGO_URI is no setting; MONGODB is.",
                "PORTS is no setting; PORT is.",
                "WORKER is no setting; WORKERS is.",
            ],
        )

    def test_a_rate_is_a_count_and_seconds(self) -> None:
        for value, expected in (("10/minute", (10, 60)), ("1/second", (1, 1)), ("off", (0, 0))):
            with self.subTest(value=value):
                environment = Environment({"RATE": value})
                self.assertEqual((environment.rate("RATE", "5/hour"), environment.problems), (expected, []))

    def test_a_rate_that_is_not_set_is_the_default(self) -> None:
        self.assertEqual(Environment({}).rate("RATE", "5/hour"), (5, 3600))

    def test_a_rate_that_is_none_is_a_problem(self) -> None:
        for value in ("10", "0/minute", "-1/minute", "10/fortnight", "10/", "1.5/second", "OFF"):
            with self.subTest(value=value):
                environment = Environment({"RATE": value})
                environment.rate("RATE", "5/hour")
                self.assertEqual(
                    environment.problems, [f"RATE should be like 10/minute, or off, but is '{value}'."]
                )


class DefaultTest(StrictTest):
    def test_without_any_variable_all_is_as_documented(self) -> None:
        settings = read()
        settings.check()
        expected = {
            "INDICO_ENV": "development",
            "PORT": 5000,
            "ADDRESS": "127.0.0.1",
            "WORKERS": 1,
            "MONGODB": "mongodb://localhost:27017",
            "MONGODB_DATABASE": "indico",
            "MONGODB_DRIVER": "motor",
            "MONGODB_TIMEOUT": 5,
            "USER_SALT": "",
            "KEY_LIFETIME": 30 * 24 * 3600,
            "DEV_TOKEN": "",
            "CORS_ORIGINS": [],
            "FACEBOOK_APP_ID": "",
            "FACEBOOK_APP_SECRET": "",
            "FACEBOOK_GRAPH_URL": "https://graph.facebook.com",
            "REQUEST_TIMEOUT": 60,
            "MAX_BODY_SIZE": 1024 * 1024,
            "SHUTDOWN_TIMEOUT": 10,
        }
        self.assertEqual({name: getattr(settings, name) for name in expected}, expected)

    def test_production_listens_on_all_interfaces(self) -> None:
        self.assertEqual(read(INDICO_ENV="production").ADDRESS, "")

    def test_production_listens_where_it_is_told(self) -> None:
        self.assertEqual(read(INDICO_ENV="production", ADDRESS="10.0.0.1").ADDRESS, "10.0.0.1")


class CheckTest(StrictTest):
    def assert_refused(self, *sentences: str, **environ: str) -> None:
        """Reading the settings raises nothing; checking them raises these sentences."""
        settings = read(**environ)
        with self.assertRaises(settings.SettingError) as raised:
            settings.check()
        self.assertEqual(str(raised.exception), "\n".join(sentences))

    def test_every_setting_names_itself_when_it_makes_no_sense(self) -> None:
        for name, value, sentence in (
            ("INDICO_ENV", "prod", "should be development or production, but is 'prod'."),
            ("PORT", "65536", "should be a whole number from 0 to 65535, but is '65536'."),
            ("WORKERS", "0", "should be a whole number from 1 to 512, but is '0'."),
            ("MONGODB", "localhost:27017", "should begin with mongodb:// or mongodb+srv://."),
            ("MONGODB_DRIVER", "redis", "should be motor or pymongo or mongojet, but is 'redis'."),
            ("MONGODB_TIMEOUT", "0", "should be a number from 0.01 to 3600, but is '0'."),
            ("KEY_LIFETIME", "-1", "should be a number from 1 to 3153600000, but is '-1'."),
            (
                "CORS_ORIGINS",
                "example.com",
                "should be * or origins like https://app.example.com, with commas between,"
                " but is 'example.com'.",
            ),
            ("FACEBOOK_GRAPH_URL", "graph.facebook.com", "should begin with https:// or http://."),
            ("REQUEST_TIMEOUT", "never", "should be a number from 0.01 to 31536000, but is 'never'."),
            ("MAX_BODY_SIZE", "1MB", "should be a whole number from 1 to 2147483648, but is '1MB'."),
            ("SHUTDOWN_TIMEOUT", "inf", "should be a number from 0 to 3600, but is 'inf'."),
        ):
            with self.subTest(name=name):
                self.assert_refused(f"{name} {sentence}", **{name: value})

    def test_each_problem_has_a_sentence(self) -> None:
        self.assert_refused(
            "PORT should be a whole number from 0 to 65535, but is 'http'.",
            "DEV_TOKEN should be UTF-8.",
            "MONGODB_DATABASE is no name MongoDB takes for a database: 'a/b'.",
            PORT="http",
            MONGODB_DATABASE="a/b",
            DEV_TOKEN=os.fsdecode(b"\xff"),
        )

    def test_a_password_in_mongodb_is_in_no_sentence(self) -> None:
        self.assert_refused(
            "MONGODB should begin with mongodb:// or mongodb+srv://.", MONGODB="mongo://ada:secret@localhost"
        )

    def test_a_database_name_that_mongodb_refuses_is_refused(self) -> None:
        for name in [f"a{character}b" for character in '/\\. "$*<>:|?'] + ["é" * 32]:
            with self.subTest(name=name):
                self.assert_refused(
                    f"MONGODB_DATABASE is no name MongoDB takes for a database: {name!r}.",
                    MONGODB_DATABASE=name,
                )

    def test_a_database_name_of_63_bytes_is_taken(self) -> None:
        settings = read(MONGODB_DATABASE="é" * 31 + "e")
        settings.check()
        self.assertEqual(len(settings.MONGODB_DATABASE.encode()), 63)

    def test_production_without_a_salt_is_refused(self) -> None:
        self.assert_refused(
            "USER_SALT should be a secret of at least 16 characters in production.", INDICO_ENV="production"
        )

    def test_production_with_a_salt_of_15_characters_is_refused(self) -> None:
        self.assert_refused(
            "USER_SALT should be a secret of at least 16 characters in production.",
            INDICO_ENV="production",
            USER_SALT="s" * 15,
        )

    def test_production_with_a_salt_of_16_characters_is_fine(self) -> None:
        settings = read(INDICO_ENV="production", USER_SALT="s" * 16)
        settings.check()
        self.assertTrue(settings.PRODUCTION)

    def test_production_with_a_dev_token_is_refused(self) -> None:
        self.assert_refused(
            "DEV_TOKEN opens every account: unset it in production.",
            INDICO_ENV="production",
            USER_SALT="s" * 16,
            DEV_TOKEN="token",
        )

    def test_development_with_a_short_salt_and_a_dev_token_is_fine(self) -> None:
        settings = read(USER_SALT="s", DEV_TOKEN="token")
        settings.check()
        self.assertEqual((settings.USER_SALT, settings.DEV_TOKEN), ("s", "token"))
