"""
What reaches Sentry, and what must not; with Sentry's own SDK, and a stub that it posts to.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any
from unittest import mock

import sentry_sdk

from indico import config
from indico.core.hooks import Application
from indico.core.http.envelope import EnvelopeHandler
from indico.core.tasks import spawn
from indico.routes.handler import IndicoHandler
from indico.server import main, make_app
from indico.tests.mocks import HEADERS, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.collector import Collector
from indico.tests.testutils.process import ProcessTest
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import LOGGER

TOKEN = 'abcdef\'s "uvwxyz" & \n'
TRACE = "0af7651916cd43dd8448eb211c80319c"


class OddHandler(IndicoHandler):
    def fine(self, data: bytes) -> bool:
        return True

    async def explode(self, data: bytes) -> None:
        token = json.loads(data)["access_token"]
        try:
            raise KeyError(token)
        except KeyError as error:
            raise ValueError(f"{data!r} {self.request.headers['indico_key']}") from error

    def crash(self, data: bytes) -> None:
        raise ValueError(f"{data.decode()} by {config.USER_SALT} on mongodb://ada:secret@db1")

    def complain(self, data: bytes) -> bool:
        LOGGER.error("odd %r", data, extra={"seen": data})
        return True


def read_items(collector: Collector) -> list[dict[str, Any]]:
    """What the envelopes that came hold: each is lines of JSON, of which every third is an item."""
    return [json.loads(body.splitlines()[2]) for _, body in collector.posts]


class SentryTest(ServerTest):
    stores = False
    routes = [(r"/odd/(?P<action>[a-zA-Z]+)?", OddHandler)]
    rate = 0.0

    def get_app(self) -> Application:
        self.collector = Collector()
        self.collector.__enter__()
        self.addCleanup(self.collector.__exit__, None, None, None)
        settings: dict[str, Any] = {
            "SENTRY_DSN": f"http://public@127.0.0.1:{self.collector.port}/7",
            "SENTRY_TRACES_SAMPLE_RATE": self.rate,
        }
        patch = mock.patch.multiple(config, **settings)
        patch.start()
        self.addCleanup(patch.stop)
        return make_app(routes=self.routes)

    def fail_at(self, route: str, data: Any, **headers: str) -> None:
        self.post(route, data, {**HEADERS, **headers})
        self.forgive()

    def forgive(self) -> None:
        """What was logged was expected. To expect it by `assertLogs` would keep it from Sentry."""
        self.assertTrue(self._complaints)
        self._complaints.clear()

    def end(self) -> list[dict[str, Any]]:
        """End the server, which sends what is left; what came in all."""
        self.io_loop.run_sync(lambda: self._lifespan.__aexit__(None, None, None))
        self._lifespan = mock.AsyncMock()
        return read_items(self.collector)


class ErrorTest(SentryTest):
    def test_a_failure_arrives_with_its_traceback_under_its_actions_name(self) -> None:
        ids = iter(("mine", None))

        def set_id(handler: EnvelopeHandler) -> Callable[[], None]:
            handler.request_id = next(ids)
            return lambda: None

        self._app.hooks.around_request.append(set_id)
        self.fail_at("odd/explode", {"access_token": TOKEN})
        self.fail_at("odd/explode", {"access_token": TOKEN})
        event, other = self.end()
        self.assertNotIn("tags", other)
        self.assertEqual(self.collector.posts[0][0], "/api/7/envelope/")
        self.assertEqual((event["transaction"], event["level"]), ("odd.explode", "error"))
        self.assertEqual(event["tags"]["request_id"], "mine")
        self.assertEqual(event["logentry"]["message"], "A request failed unexpectedly")
        cause, failure = event["exception"]["values"]
        self.assertEqual((cause["type"], failure["type"]), ("KeyError", "ValueError"))
        self.assertEqual(failure["stacktrace"]["frames"][-1]["function"], "explode")

    def test_nothing_that_the_client_sent_goes_along(self) -> None:
        data = {"access_token": TOKEN, "user": [{"name": "Lovelace"}]}
        self.fail_at("odd/explode", data, Authorization="Bearer of-good-news", secret="of the header")
        self.end()
        text = self.collector.posts[0][1].decode()
        for secret in (USER_KEY, "Lovelace", "good-news", "of the header", "abcdef", "uvwxyz", "vars"):
            self.assertNotIn(secret, text)
        values = [value["value"] for value in json.loads(text.splitlines()[2])["exception"]["values"]]
        self.assertEqual(values[0], "[Filtered]".join("''"))

    def test_nor_does_a_body_that_is_no_json_or_the_servers_secrets(self) -> None:
        self.fail_at("odd/crash", "not an object")
        (event,) = self.end()
        self.assertEqual(
            event["exception"]["values"][0]["value"], "[Filtered] by [Filtered] on mongodb://[Filtered]@db1"
        )

    def test_an_error_that_is_only_logged_arrives_too(self) -> None:
        self.fail_at("odd/complain", {"name": "Lovelace", "of": "Ada"})
        (event,) = self.end()
        self.assertEqual(event["transaction"], "odd.complain")
        self.assertEqual(event["logentry"], {"message": 'odd b\'{"name": "[Filtered]", "of": "Ada"}\''})
        self.assertEqual(event["extra"]["seen"], '{"name": "[Filtered]", "of": "Ada"}')

    def test_an_error_outside_of_a_request_arrives_without_a_name(self) -> None:
        async def complain() -> None:
            LOGGER.error("outside")

        async def run() -> None:
            await spawn(complain())

        self.io_loop.run_sync(run)
        self.forgive()
        (event,) = self.end()
        self.assertEqual(event["logentry"]["message"], "outside")
        self.assertNotIn("transaction", event)

    def test_what_is_no_error_does_not_arrive(self) -> None:
        self.post("odd/fine", {})
        self.post("odd/none", "")
        self.assertEqual(self.end(), [])


class TransactionTest(SentryTest):
    rate = 1.0

    def test_a_request_is_a_transaction_named_after_its_action(self) -> None:
        self.post("odd/fine", {})
        (transaction,) = self.end()
        self.assertEqual((transaction["type"], transaction["transaction"]), ("transaction", "odd.fine"))
        trace = transaction["contexts"]["trace"]
        self.assertEqual((trace["op"], trace["status"]), ("http.server", "ok"))

    def test_a_trace_of_a_trusted_proxy_is_continued_without_its_baggage(self) -> None:
        headers = {
            "sentry-trace": f"{TRACE}-b7ad6b7169203331-1",
            "baggage": f"sentry-trace_id={TRACE},sentry-release=of-a-stranger",
        }
        with mock.patch.object(config, "TRUSTED_PROXIES", [ip_network("127.0.0.1")]):
            self.post("odd/fine", {}, headers)
        (transaction,) = self.end()
        self.assertEqual(transaction["contexts"]["trace"]["trace_id"], TRACE)
        self.assertNotIn(b"of-a-stranger", self.collector.posts[0][1])

    def test_the_trace_of_a_stranger_is_not_continued(self) -> None:
        for headers in (
            {"sentry-trace": f"{TRACE}-b7ad6b7169203331-1"},
            {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
            {"baggage": f"sentry-trace_id={TRACE},sentry-sampled=true,sentry-release=of-a-stranger"},
        ):
            self.post("odd/fine", {}, {**headers, "X-Forwarded-For": "127.0.0.1"})
        self.assertEqual(len(self.end()), 3)
        for _, body in self.collector.posts:
            self.assertNotIn(TRACE.encode(), body)
            self.assertNotIn(b"of-a-stranger", body)

    def test_a_stranger_does_not_decide_what_is_sampled(self) -> None:
        with mock.patch.dict(sentry_sdk.get_client().options, traces_sample_rate=0.0):
            for flag in ("-1", ""):
                self.post("odd/fine", {}, {"sentry-trace": f"{TRACE}-b7ad6b7169203331{flag}"})
        self.assertEqual(self.end(), [])

    def test_an_error_belongs_to_its_transaction(self) -> None:
        self.fail_at("odd/explode", {"access_token": TOKEN})
        event, transaction = self.end()
        self.assertEqual(transaction["transaction"], "odd.explode")
        self.assertEqual(event["contexts"]["trace"]["trace_id"], transaction["contexts"]["trace"]["trace_id"])
        self.assertNotIn("abcdef", json.dumps(transaction))


class OffTest(StrictTest):
    def test_without_sentry_sdk_the_server_says_so(self) -> None:
        with (
            mock.patch.dict(sys.modules, {"sentry_sdk": None}),
            mock.patch.object(config, "SENTRY_DSN", "http://public@127.0.0.1/1"),
            self.assertLogs("indico", logging.WARNING) as logged,
        ):
            make_app()
        self.assertEqual(
            logged.output, ["WARNING:indico:SENTRY_DSN needs sentry-sdk: pip install -e '.[sentry]'"]
        )


class RefusalTest(StrictTest):
    def test_a_dsn_that_is_none_ends_main_with_a_sentence_without_it(self) -> None:
        for dsn in ("secret", "https://secret/1", "https://key@secret/name", "https://key@secret:port/1"):
            with mock.patch.object(config, "SENTRY_DSN", dsn), self.assertRaises(SystemExit) as raised:
                main(debug=False, port=0)
            self.assertEqual(raised.exception.code, "SENTRY_DSN should be like https://key@example.com/1.")

    def test_dsns_that_sentry_gives_are_taken(self) -> None:
        for dsn in ("https://a1b2@o7.ingest.sentry.io/12", "http://public:secret@127.0.0.1:9000/below/7"):
            with mock.patch.object(config, "SENTRY_DSN", dsn):
                make_app()


class ProcessSentryTest(ProcessTest):
    @slow
    def test_a_dsn_that_is_none_is_one_sentence_without_it(self) -> None:
        self.assert_refuses("SENTRY_DSN should be like https://key@example.com/1.", SENTRY_DSN="secret")

    @slow
    def test_without_a_dsn_nothing_of_it_is_imported(self) -> None:
        server = self.start(
            script="import sys\nfrom indico import server\nserver.make_app()\n"
            "print('sentry_sdk' in sys.modules, flush=True)\nserver.main(debug=False, port=0)\n"
        )
        self.assertTrue(server.output.startswith("False\n"))

    @slow
    def test_workers_send_what_they_have_before_they_end_and_a_silent_sentry_holds_nobody_up(self) -> None:
        script = (
            "from indico import server\n"
            "from indico.tests.batteries.test_sentry import OddHandler\n"
            'server.ROUTES.append((r"/odd/(?P<action>[a-zA-Z]+)?", OddHandler))\n'
            "server.main(debug=False, port=0)\n"
        )
        for silent in (False, True):
            with self.subTest(silent=silent), Collector(silent) as collector:
                dsn = f"http://public@127.0.0.1:{collector.port}/7"
                server = self.start(script=script, WORKERS="2", SENTRY_DSN=dsn)
                self.assertEqual(server.post("odd/complain", {})["status"], 200)
                began = time.monotonic()
                self.assertEqual(server.stop(), 0)
                self.assertLess(time.monotonic() - began, 10)
                self.assertEqual(read_items(collector)[0]["transaction"], "odd.complain")
