"""
The spans that reach a collector; with OpenTelemetry's own SDK, and a stub that it posts to.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from ipaddress import ip_network
from typing import Any
from unittest import mock

from opentelemetry import trace
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

import indico.db.user_db as UserDB
from indico import config, db
from indico.batteries.opentelemetry import find_endpoint, install, make_provider
from indico.core.hooks import Application
from indico.db import mongo
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.server import make_app
from indico.tests.mocks import LOGIN_DATA, USER_ID, USER_KEY
from indico.tests.testutils import slow
from indico.tests.testutils.collector import Collector
from indico.tests.testutils.process import ProcessTest, make_environment
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import mongo_callback

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class OddHandler(IndicoHandler):
    def find(self, data: bytes) -> None:
        @mongo_callback(self)
        def found(user: Any) -> None:
            self.respond(True)

        UserDB.find_user(USER_ID, found)

    async def refuse(self, data: bytes) -> None:
        await refuse()


@mongo
async def refuse() -> None:
    await db.mongodb.command("noSuchCommand")


class OwnHandler(IndicoHandler):
    async def span(self, data: bytes) -> bool:
        with trace.get_tracer("own").start_as_current_span("own"):
            return True


def read_services(collector: Collector) -> dict[str, list[Span]]:
    """The spans that came, by the service that sent them."""
    services: dict[str, list[Span]] = {}
    for path, body in collector.posts:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                services.setdefault(names["service.name"], []).extend(scope.spans)
    return services


def attributes(span: Span) -> dict[str, Any]:
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


class TraceTest(ServerTest):
    routes = [AuthRoute, (r"/odd/(?P<action>[a-zA-Z]+)?", OddHandler)]
    stores = ("auth", "user")

    def get_app(self) -> Application:
        self.collector = Collector()
        self.collector.__enter__()
        self.addCleanup(self.collector.__exit__, None, None, None)
        for patch in (
            mock.patch.object(
                config, "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{self.collector.port}/"
            ),
            mock.patch.object(trace, "set_tracer_provider"),  # which a process does once
        ):
            patch.start()
            self.addCleanup(patch.stop)
        return make_app(routes=self.routes)

    def end(self) -> list[Span]:
        """End the server, which sends what is left; what came in all."""
        self.io_loop.run_sync(lambda: self._lifespan.__aexit__(None, None, None))
        self._lifespan = mock.AsyncMock()
        return read_services(self.collector).get("indico", [])

    def test_a_request_is_a_span_named_after_its_action(self) -> None:
        self.post("auth/check", {}, {})
        self.post("auth/nothing", {}, {})
        check, nothing = self.end()
        self.assertEqual((check.name, nothing.name), ("auth.check", "auth"))
        self.assertEqual(check.kind, Span.SPAN_KIND_SERVER)
        self.assertEqual(attributes(check), {"http.request.method": "POST", "http.response.status_code": 401})

    def test_requests_of_one_connection_have_nothing_to_do_with_each_other(self) -> None:
        async def talk() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.get_http_port())
            writer.write(b"POST /auth/check HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            writer.write(b"POST /auth/check HTTP/1.0\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
            await reader.read()
            writer.close()
            await writer.wait_closed()

        self.io_loop.run_sync(talk)
        first, second = self.end()
        self.assertNotEqual(first.trace_id, second.trace_id)
        self.assertEqual((first.parent_span_id, second.parent_span_id), (b"", b""))

    def test_the_traceparent_of_a_trusted_proxy_is_taken_over_without_its_tracestate(self) -> None:
        headers = {
            "traceparent": f"00-{TRACE}-{PARENT}-01",
            "tracestate": "a=stranger",
            "baggage": "b=stranger",
        }
        with mock.patch.object(config, "TRUSTED_PROXIES", [ip_network("127.0.0.1")]):
            self.post("auth/check", {}, headers)
        (span,) = self.end()
        self.assertEqual((span.trace_id.hex(), span.parent_span_id.hex()), (TRACE, PARENT))
        self.assertNotIn(b"stranger", self.collector.posts[0][1])

    def test_the_traceparent_of_a_stranger_is_not_taken_over(self) -> None:
        for headers in ({}, {"X-Forwarded-For": "127.0.0.1"}, {"tracestate": "a=stranger"}):
            self.post("auth/check", {}, {"traceparent": f"00-{TRACE}-{PARENT}-01", **headers})
        spans = self.end()
        self.assertEqual([span.parent_span_id for span in spans], 3 * [b""])
        for _, body in self.collector.posts:
            self.assertNotIn(b"stranger", body)
            self.assertNotIn(bytes.fromhex(TRACE), body)

    def test_mongodbs_commands_are_spans_below_their_request_also_for_callbacks(self) -> None:
        self.post("odd/find", {})
        command, request = self.end()
        self.assertEqual((request.name, command.name), ("odd.find", "mongodb.find"))
        self.assertEqual((command.trace_id, command.parent_span_id), (request.trace_id, request.span_id))
        self.assertEqual(command.kind, Span.SPAN_KIND_CLIENT)
        self.assertEqual(attributes(command), {"db.system.name": "mongodb", "db.operation.name": "find"})
        self.assertLess(command.start_time_unix_nano, command.end_time_unix_nano)

    def test_a_failure_is_an_error_of_both(self) -> None:
        with self.assertLogs("indico", logging.ERROR):
            self.post("odd/refuse", {})
        command, request = self.end()
        self.assertEqual(attributes(command)["error.type"], "CommandNotFound")
        self.assertEqual(command.status.code, Status.STATUS_CODE_ERROR)
        self.assertEqual(request.status.code, Status.STATUS_CODE_ERROR)

    def test_nothing_of_keys_and_bodies_goes_along(self) -> None:
        self.post("auth/login", LOGIN_DATA)
        self.post("auth/check", {})
        self.assertGreater(len(self.end()), 3)
        for _, body in self.collector.posts:
            for secret in (USER_KEY, USER_ID, "Lovelace"):
                self.assertNotIn(secret.encode(), body)


class OffTest(StrictTest):
    def test_without_the_exporter_the_server_says_so(self) -> None:
        missing = {"opentelemetry.exporter.otlp.proto.http.trace_exporter": None}
        with (
            mock.patch.dict(sys.modules, missing),
            mock.patch.object(config, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            self.assertLogs("indico", logging.WARNING) as logged,
        ):
            make_app()
        sentence = "OTEL_EXPORTER_OTLP_ENDPOINT needs an exporter: pip install -e '.[opentelemetry]'"
        self.assertEqual(logged.output, [f"WARNING:indico:{sentence}"])

    @slow
    def test_an_endpoint_that_is_no_address_stops_the_start(self) -> None:
        process = subprocess.run(
            [sys.executable, "-m", "indico.server"],
            env=make_environment({"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"}),
            capture_output=True,
            text=True,
        )
        self.assertEqual(process.returncode, 1)
        self.assertEqual(
            process.stderr, "OTEL_EXPORTER_OTLP_ENDPOINT should begin with https:// or http://.\n"
        )


class TracesEndpointTest(ServerTest):
    routes = [AuthRoute]

    @slow
    def test_spans_arrive_at_the_endpoint_of_traces_as_it_is_written(self) -> None:
        self.post("auth/check", {}, {})
        self.io_loop.run_sync(lambda: self._lifespan.__aexit__(None, None, None))
        self._lifespan = mock.AsyncMock()
        self.assertEqual({path for path, _ in self.collector.posts}, {"/own/path"})

    def get_app(self) -> Application:
        self.collector = self.enterContext(Collector())
        endpoint = f"http://127.0.0.1:{self.collector.port}/own/path"
        for patch in (
            mock.patch.object(config, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint),
            mock.patch.object(trace, "set_tracer_provider"),
        ):
            self.enterContext(patch)
        return make_app(routes=self.routes)


class EndpointTest(StrictTest):
    def test_the_variables_mean_what_opentelemetry_documents(self) -> None:
        common, traces = "http://127.0.0.1:4318", "http://127.0.0.1:4319/own/path/"
        for variables, endpoint in (
            ({"OTEL_SDK_DISABLED": "false"}, ""),
            ({"ENDPOINT": common}, f"{common}/v1/traces"),
            ({"ENDPOINT": f"{common}/below/"}, f"{common}/below/v1/traces"),
            ({"TRACES_ENDPOINT": traces}, traces),
            ({"ENDPOINT": common, "TRACES_ENDPOINT": traces}, traces),
            ({"ENDPOINT": common, "OTEL_SDK_DISABLED": "True"}, ""),
            ({"ENDPOINT": common, "OTEL_SDK_DISABLED": "1"}, f"{common}/v1/traces"),
            ({"TRACES_ENDPOINT": traces, "OTEL_TRACES_EXPORTER": "none"}, ""),
            ({"TRACES_ENDPOINT": traces, "OTEL_TRACES_EXPORTER": "otlp"}, traces),
        ):
            values: dict[str, Any] = {
                name if name.startswith("OTEL") else f"OTEL_EXPORTER_OTLP_{name}": value
                for name, value in variables.items()
            }
            with self.subTest(variables), mock.patch.multiple(config, **values):
                self.assertEqual(find_endpoint(), endpoint)
                application = Application(database=db)
                install(application)
                self.assertEqual(len(application.hooks.lifespans), bool(endpoint))


class NameTest(StrictTest):
    def test_the_service_is_indico_unless_the_sdks_own_variable_names_it(self) -> None:
        for environment, name in (({}, "indico"), ({"OTEL_SERVICE_NAME": "shop"}, "shop")):
            with (
                self.subTest(environment),
                mock.patch.dict(os.environ),
                mock.patch.object(config, "OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318"),
            ):
                for variable in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
                    os.environ.pop(variable, None)
                os.environ.update(environment)
                provider = make_provider()
                self.addCleanup(provider.shutdown)
                self.assertEqual(provider.resource.attributes["service.name"], name)


@slow
class ProcessTraceTest(ProcessTest):
    script = (
        "import sys\n"
        "from indico import server\n"
        "server.make_app()\n"
        "print('opentelemetry' in sys.modules, flush=True)\n"
        "from indico.tests.batteries.test_opentelemetry import OwnHandler\n"
        'server.ROUTES.append((r"/own/(?P<action>[a-zA-Z]+)?", OwnHandler))\n'
        "server.main(debug=False, port=0)\n"
    )

    def test_without_an_endpoint_nothing_of_it_is_imported(self) -> None:
        self.assertTrue(self.start(script=self.script).output.startswith("False\n"))

    def test_workers_send_what_they_have_before_they_end_and_a_silent_collector_holds_nobody_up(self) -> None:
        for silent in (False, True):
            with self.subTest(silent=silent), Collector(silent) as collector:
                server = self.start(
                    script=self.script,
                    WORKERS="2",
                    OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
                    OTEL_SERVICE_NAME="shop",
                )
                self.assertEqual(server.post("own/span")["status"], 200)
                began = time.monotonic()
                self.assertEqual(server.stop(), 0)
                self.assertLess(time.monotonic() - began, 10)
                own, request = read_services(collector)["shop"]
                self.assertEqual((own.name, request.name), ("own", "own.span"))
                self.assertEqual((own.trace_id, own.parent_span_id), (request.trace_id, request.span_id))
