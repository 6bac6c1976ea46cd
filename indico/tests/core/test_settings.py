"""
How settings are read: what each kind takes, and what is said of values that make no sense.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from indico.core.settings import Environment, SettingError
from indico.tests.testutils.strict import StrictTest


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
        self.assertEqual(environment.find_problems(), ["NAME should be UTF-8."])

    def test_a_choice_that_is_not_set_is_the_first(self) -> None:
        self.assertEqual(Environment({}).choice("MODE", "slow", "fast"), "slow")

    def test_a_choice_that_is_set_is_taken(self) -> None:
        environment = Environment({"MODE": "fast"})
        self.assertEqual(
            (environment.choice("MODE", "slow", "fast"), environment.find_problems()), ("fast", [])
        )

    def test_a_choice_of_something_else_is_a_problem(self) -> None:
        environment = Environment({"MODE": "Fast"})
        self.assertEqual(environment.choice("MODE", "slow", "fast"), "slow")
        self.assertEqual(environment.find_problems(), ["MODE should be slow or fast, but is 'Fast'."])

    def test_a_number_may_have_a_fraction(self) -> None:
        environment = Environment({"SECONDS": "0.25"})
        self.assertEqual((environment.number("SECONDS", 5, 0, 60), environment.find_problems()), (0.25, []))

    def test_a_number_that_is_not_set_is_the_default(self) -> None:
        environment = Environment({})
        self.assertEqual((environment.number("SECONDS", 5, 0, 60), environment.find_problems()), (5, []))

    def test_a_number_that_is_none_or_out_of_range_is_a_problem(self) -> None:
        for value in ("five", "-1", "60.1", "nan", "inf", "-inf", "1e999", "0x10", "5s"):
            with self.subTest(value=value):
                environment = Environment({"SECONDS": value})
                self.assertEqual(environment.number("SECONDS", 5, 0, 60), 5)
                self.assertEqual(
                    environment.find_problems(),
                    [f"SECONDS should be a number from 0 to 60, but is '{value}'."],
                )

    def test_a_whole_number_may_be_either_bound(self) -> None:
        environment = Environment({"LOW": "1", "HIGH": "512"})
        self.assertEqual(environment.whole("LOW", 7, 1, 512), 1)
        self.assertEqual(environment.whole("HIGH", 7, 1, 512), 512)
        self.assertEqual(environment.find_problems(), [])

    def test_a_whole_number_that_is_none_or_out_of_range_is_a_problem(self) -> None:
        for value in ("two", "0", "513", "-1", "+1", "1.0", "1e2", " 2", "1_0", "²", "٣", "9" * 5000):
            with self.subTest(value=value):
                environment = Environment({"COUNT": value})
                self.assertEqual(environment.whole("COUNT", 7, 1, 512), 7)
                self.assertEqual(
                    environment.find_problems(),
                    [f"COUNT should be a whole number from 1 to 512, but is '{value}'."],
                )

    def test_an_address_of_a_scheme_is_taken(self) -> None:
        environment = Environment({"URL": "http://localhost"})
        self.assertEqual(environment.address("URL", "https://a", "https://", "http://"), "http://localhost")
        self.assertEqual(environment.find_problems(), [])

    def test_an_address_of_another_scheme_is_a_problem_that_does_not_repeat_it(self) -> None:
        environment = Environment({"URL": "ftp://ada:secret@localhost"})
        self.assertEqual(environment.address("URL", "https://a", "https://", "http://"), "https://a")
        self.assertEqual(environment.find_problems(), ["URL should begin with https:// or http://."])

    def test_networks_are_separated_by_commas(self) -> None:
        environment = Environment({"PROXIES": "127.0.0.1, 10.0.0.0/8,::1,"})
        networks = [str(network) for network in environment.networks("PROXIES")]
        self.assertEqual(networks, ["127.0.0.1/32", "10.0.0.0/8", "::1/128"])
        self.assertEqual(environment.find_problems(), [])

    def test_networks_that_are_not_set_are_none(self) -> None:
        self.assertEqual(Environment({}).networks("PROXIES"), [])

    def test_networks_that_are_none_are_a_problem(self) -> None:
        for value in ("localhost", "10.0.0.1/8", "127.0.0.1 10.0.0.1", "300.0.0.1"):
            with self.subTest(value=value):
                environment = Environment({"PROXIES": value})
                self.assertEqual(environment.networks("PROXIES"), [])
                self.assertRegex(
                    "\n".join(environment.find_problems()), "^PROXIES should be addresses or networks, .+[.]$"
                )

    def test_origins_are_separated_by_commas(self) -> None:
        value = "https://app.example.com, http://localhost:3000,http://[::1]:8000,capacitor://localhost,"
        environment = Environment({"ORIGINS": value})
        self.assertEqual(environment.origins("ORIGINS"), value.rstrip(",").replace(" ", "").split(","))
        self.assertEqual(Environment({"ORIGINS": "*"}).origins("ORIGINS"), ["*"])
        self.assertEqual(Environment({}).origins("ORIGINS"), [])
        self.assertEqual(environment.find_problems(), [])

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
                    environment.find_problems(),
                    [
                        "ORIGINS should be * or origins like https://app.example.com, with commas between,"
                        f" but is {value!r}."
                    ],
                )

    def test_headers_are_names_separated_by_commas(self) -> None:
        environment = Environment(
            {"NAMES": "X-App-Version,x_device, ", "WRONG": "X-A: 1", "LINES": "a\r\nb: c"}
        )
        self.assertEqual(environment.headers("NAMES"), ["X-App-Version", "x_device"])
        self.assertEqual(environment.find_problems(), [])
        self.assertEqual((environment.headers("WRONG"), environment.headers("LINES")), ([], []))
        self.assertEqual(
            environment.find_problems()[0],
            "WRONG should be names of headers, with commas between, but is 'X-A: 1'.",
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
        self.assertEqual(environment.find_problems(), [])

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
                    environment.find_problems(),
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

    def test_a_variable_with_our_prefix_that_is_no_setting_is_found(self) -> None:
        variables = ("INDICO_ENV", "INDICO_PORT", "INDICO_MONGOD_27017")  # the last one is the server's own
        environment = Environment(dict.fromkeys(variables, "1"))
        environment.text("INDICO_ENV")
        self.assertEqual(environment.find_misspelt(), ["INDICO_PORT is no setting."])

    def test_a_variable_that_another_package_reads_is_not_misspelt(self) -> None:
        environment = Environment(
            dict.fromkeys(
                ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_HEADERS", "SENTRY_DSNS"), "1"
            )
        )
        environment.text("OTEL_EXPORTER_OTLP_ENDPOINT")
        environment.text("SENTRY_DSN")
        self.assertEqual(environment.find_misspelt(), [])

    def test_a_flag_is_1_or_0(self) -> None:
        for value, expected in (("1", True), ("0", False), ("", True)):
            self.assertIs(Environment({"DOCS": value}).flag("DOCS", True), expected)
        environment = Environment({"DOCS": "yes"})
        self.assertIs(environment.flag("DOCS", False), False)
        self.assertEqual(environment.find_problems(), ["DOCS should be 0 or 1, but is 'yes'."])

    def test_a_rate_is_a_count_and_seconds(self) -> None:
        for value, expected in (("10/minute", (10, 60)), ("1/second", (1, 1)), ("off", (0, 0))):
            with self.subTest(value=value):
                environment = Environment({"RATE": value})
                self.assertEqual(
                    (environment.rate("RATE", "5/hour"), environment.find_problems()), (expected, [])
                )

    def test_a_rate_that_is_not_set_is_the_default(self) -> None:
        self.assertEqual(Environment({}).rate("RATE", "5/hour"), (5, 3600))

    def test_a_rate_that_is_none_is_a_problem(self) -> None:
        for value in ("10", "0/minute", "-1/minute", "10/fortnight", "10/", "1.5/second", "OFF"):
            with self.subTest(value=value):
                environment = Environment({"RATE": value})
                environment.rate("RATE", "5/hour")
                self.assertEqual(
                    environment.find_problems(), [f"RATE should be like 10/minute, or off, but is '{value}'."]
                )


class DatabaseNameTest(StrictTest):
    def read(self, **environ: str) -> tuple[str, list[str]]:
        environment = Environment(environ)
        environment.secret("MONGODB", "mongodb://localhost", "mongodb://", "mongodb+srv://")
        return environment.database("MONGODB_DATABASE", "MONGODB"), environment.find_problems()

    def test_it_is_the_one_in_the_uri(self) -> None:
        for uri, name in (
            ("mongodb://a,b:1/shop?replicaSet=rs0", "shop"),
            ("mongodb+srv://ada:secret@example.com/shop", "shop"),
            ("mongodb://localhost/caf%C3%A9.collection", "café"),
            ("mongodb://localhost/?replicaSet=rs0", "indico"),
            ("mongodb://localhost?tls=true/shop", "indico"),
            ("mongodb://localhost", "indico"),
            ("", "indico"),
        ):
            with self.subTest(uri):
                self.assertEqual(self.read(MONGODB=uri), (name, []))

    def test_its_own_setting_overrides_the_uri(self) -> None:
        self.assertEqual(self.read(MONGODB="mongodb://a/shop", MONGODB_DATABASE="tea"), ("tea", []))

    def test_a_uri_that_makes_no_sense_is_one_problem(self) -> None:
        sentence = "MONGODB should begin with mongodb:// or mongodb+srv://."
        self.assertEqual(self.read(MONGODB="localhost/shop"), ("indico", [sentence]))


class FileTest(StrictTest):
    """A secret that is in a file."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "secret"

    def load(self, **environ: str) -> tuple[Environment, dict[str, Any]]:
        """The environment, and what it puts into a module with the settings PORT, URI, DATABASE and SALT."""
        environment = Environment(environ)
        environment.whole("PORT", 1, 0, 9)
        environment.secret("URI", "mongodb://localhost")
        environment.database("DATABASE", "URI")
        environment.secret("SALT")
        values: dict[str, Any] = {"SALT": "before", "URI": "before"}
        environment.load(values)
        return environment, values

    def test_one_newline_at_its_end_does_not_count(self) -> None:
        for text, secret in (("a b", "a b"), ("a\n", "a"), ("a\r\n", "a"), (" a\n\n", " a\n")):
            with self.subTest(text):
                self.path.write_bytes(text.encode())
                environment, _ = self.load(SALT_FILE=str(self.path))
                self.assertEqual(environment.read("SALT"), secret)

    def test_the_file_is_read_once_and_only_when_the_setting_is_needed(self) -> None:
        environment, values = self.load(SALT_FILE=str(self.path))  # it is not there yet
        self.assertNotIn("SALT", values)
        self.path.write_text("salt")
        self.assertEqual(environment.read("SALT"), "salt")
        self.path.unlink()
        environment.load_files(values)
        self.assertEqual(values["SALT"], "salt")

    def test_a_database_whose_uri_is_in_a_file_waits_for_it(self) -> None:
        self.path.write_text("mongodb://localhost/shop\n")
        environment, values = self.load(URI_FILE=str(self.path))
        self.assertEqual(values, {"PORT": 1, "SALT": ""})
        environment.load_files(values)
        self.assertEqual((values["URI"], values["DATABASE"]), ("mongodb://localhost/shop", "shop"))

    def test_what_can_not_be_read_is_a_sentence_that_names_the_variable(self) -> None:
        empty = self.path.with_name("empty")
        empty.write_text("\n")
        environment, values = self.load(SALT_FILE=str(self.path), URI_FILE=str(empty))
        with self.assertRaises(SettingError) as raised:
            environment.load_files(values)
        sentences = [
            f"URI_FILE is '{empty}', and that file is empty.",
            f"SALT_FILE is '{self.path}', which can't be read: No such file or directory.",
        ]
        self.assertEqual(str(raised.exception).splitlines(), sentences)
        self.assertNotIn("SALT", values)

    def test_a_file_that_is_not_utf_8_is_a_sentence_without_its_text(self) -> None:
        self.path.write_bytes(b"secret \xff")
        environment, _ = self.load(SALT_FILE=str(self.path))
        self.assertEqual(environment.find_problems(), ["SALT should be UTF-8."])

    def test_the_variable_and_the_file_at_once_are_refused(self) -> None:
        self.path.write_text("salt")
        environment, values = self.load(SALT="salt", SALT_FILE=str(self.path))
        self.assertEqual(environment.find_problems(), ["SALT and SALT_FILE are both set: unset one of them."])
        self.assertNotIn("SALT", values)

    def test_what_is_no_secret_is_in_no_file(self) -> None:
        self.path.write_text("2")
        environment, values = self.load(PORT_FILE=str(self.path))
        self.assertEqual((values["PORT"], environment.find_problems()), (1, []))

    def test_what_overrides_the_environment_is_loaded_and_nothing_else(self) -> None:
        environment, values = self.load(PORT="x", SALT="salt")
        values["SALT"] = "set by a test"
        environment.override(values, {"PORT": "5", "URI": "mongodb://a/shop"})
        expected = {"PORT": 5, "URI": "mongodb://a/shop", "DATABASE": "shop", "SALT": "set by a test"}
        self.assertEqual((values, environment.find_problems()), (expected, []))
        environment.override(values, {"SALT": "", "SALT_FILE": str(self.path)})
        self.assertNotIn("SALT", values)
