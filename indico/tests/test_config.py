"""
Settings: their defaults, and what is said of values that make no sense.
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from indico import config
from indico.tests.testutils.strict import StrictTest


def read(**environ: str) -> Any:
    """The settings module, read anew from this environment; the one that all else uses stays as it is."""
    spec = importlib.util.spec_from_file_location("settings_of_a_test", config.__file__)
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    with mock.patch.dict(os.environ, environ, clear=True):
        spec.loader.exec_module(module)
    return module


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


def find_secret(name: str) -> str:
    """Return a value that this setting may have."""
    for secret in ("mongodb://secret", "smtp://secret"):
        with suppress(ValueError):
            return str(config.environment.settings[name].parse(secret))
    raise AssertionError(name)


class SecretTest(StrictTest):
    """A secret that is in a file."""

    def setUp(self) -> None:
        super().setUp()
        folder = tempfile.TemporaryDirectory(prefix="indico-test-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "secret"
        self.path.write_text("s" * 16 + "\n")

    def test_each_secret_may_be_in_a_file(self) -> None:
        secrets = [name for name, setting in config.environment.settings.items() if setting.is_secret]
        self.assertLessEqual({"USER_SALT", "DEV_TOKEN", "MONGODB", "FACEBOOK_APP_SECRET"}, set(secrets))
        for name in secrets:
            with self.subTest(name):
                secret = find_secret(name)
                self.path.write_text(f"{secret}\n")
                settings = read(**{f"{name}_FILE": str(self.path)})
                self.assertNotIn(name, vars(settings))
                self.assertEqual(getattr(settings, name), secret)
                self.assertEqual(vars(settings)[name], secret)

    def test_production_takes_the_salt_of_a_file(self) -> None:
        settings = read(INDICO_ENV="production", USER_SALT_FILE=str(self.path))
        settings.check()
        self.assertEqual(settings.USER_SALT, "s" * 16)

    def test_a_name_that_is_no_setting_is_no_attribute(self) -> None:
        with self.assertRaisesRegex(AttributeError, "no attribute 'PROT'"):
            read().PROT  # noqa: B018


class OverrideTest(StrictTest):
    def test_it_overrides_the_environment_and_its_problems(self) -> None:
        settings = read(PORT="none", WORKERS="2")
        settings.override(PORT="5001")
        settings.check()
        self.assertEqual((settings.PORT, settings.WORKERS), (5001, 2))

    def test_a_value_that_makes_no_sense_is_a_problem(self) -> None:
        settings = read()
        settings.override(WORKERS="many")
        with self.assertRaisesRegex(settings.SettingError, "^WORKERS should be a whole number"):
            settings.check()


class CheckTest(StrictTest):
    def assert_refused(self, *sentences: str, **environ: str) -> None:
        """Reading the settings raises nothing; checking them raises these sentences."""
        settings = read(**environ)
        with self.assertRaises(settings.SettingError) as raised:
            settings.check()
        self.assertEqual(str(raised.exception), "\n".join(sentences))

    def test_a_file_that_can_not_be_read_stops_the_check_and_whoever_needs_it(self) -> None:
        settings = read(USER_SALT_FILE="/nowhere")
        for use in (settings.check, lambda: settings.USER_SALT):
            with self.assertRaisesRegex(
                settings.SettingError, "^USER_SALT_FILE is '/nowhere', which can't be"
            ):
                use()

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
            "MONGODB_DATABASE is not a valid name for a MongoDB database: 'a/b'.",
            "DEV_TOKEN should be UTF-8.",
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
                    f"MONGODB_DATABASE is not a valid name for a MongoDB database: {name!r}.",
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
            "DEV_TOKEN can log in as any user: unset it in production.",
            INDICO_ENV="production",
            USER_SALT="s" * 16,
            DEV_TOKEN="token",
        )

    def test_development_with_a_short_salt_and_a_dev_token_is_fine(self) -> None:
        settings = read(USER_SALT="s", DEV_TOKEN="token")
        settings.check()
        self.assertEqual((settings.USER_SALT, settings.DEV_TOKEN), ("s", "token"))
