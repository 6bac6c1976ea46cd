"""
The description of the API: complete, valid, and true.
"""

from __future__ import annotations

import datetime
import enum
import importlib.util
import json
import re
import subprocess
import sys
import unittest
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any
from unittest import mock

from pydantic import BaseModel
from tornado.web import RequestHandler

import indico.openapi
from indico import config
from indico.batteries import openapi
from indico.batteries.openapi import describe_application
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.routes.auth import AuthRoute
from indico.routes.handler import IndicoHandler
from indico.routes.user import UserRoute
from indico.server import make_app
from indico.tests.testutils import slow
from indico.tests.testutils.process import ProcessTest, make_environment, run_main
from indico.tests.testutils.server import ServerTest
from indico.tests.testutils.strict import StrictTest
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

if TYPE_CHECKING:
    from collections import OrderedDict

VALUE = {"$ref": "#/components/schemas/Value"}
INTEGER = {"type": "integer", "format": "int64"}

needs_validator = unittest.skipUnless(
    importlib.util.find_spec("openapi_spec_validator"), "openapi-spec-validator is not installed"
)
needs_schemathesis = unittest.skipUnless(
    importlib.util.find_spec("schemathesis"), "schemathesis is not installed"
)


class EndlessHandler(IndicoHandler):
    request_timeout = None

    def wait(self, data: bytes) -> None: ...


class CupHandler(PageHandler):
    content_type = "text/plain; charset=UTF-8"

    def get(self, cup: str) -> None:
        """One cup."""


ROUTES: Any = [
    (r"/endless/(?P<action>[a-zA-Z]+)?", EndlessHandler),
    (r"/cups/.*\.txt", [(r"/cups/(?P<cup>[0-9]+)\.txt", CupHandler)]),  # a route within a route
    (r"/cups/([a-z]+)", CupHandler),  # nobody can tell what this is
    (r"/cups/?", CupHandler),
    (r"/nothing", EndlessHandler),  # this leads to no action
    (r"/numbers/(?P<action>[0-9]+)?", EndlessHandler),  # nor does this
    (r"/tornado", RequestHandler),  # this answers in its own way
]


class RoutesTest(StrictTest):
    def test_all_actions_and_pages_are_there_and_nothing_else(self) -> None:
        paths = describe_application(make_app(routes=ROUTES))["paths"]
        ours = [path for path in paths if re.match("/(endless|cups|nothing|numbers|tornado)", path)]
        self.assertEqual(ours, ["/endless/wait", "/cups/{cup}.txt"])
        self.assertIn("/openapi.json", paths)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    grams: int


class TeaHandler(IndicoHandler):
    """What there is to drink."""

    @auth
    @unpack("leaf", "grams")
    @type_check(str, int | None)
    async def brew(self, leaf: str, grams: int | None) -> list[str]:
        """
        Brew a pot: what it
        tastes of.

        It takes a while.

        409: The pot is in use
        599: The kettle is broken
        """
        return []

    @unpack("size")
    def pour(self, size: Any) -> None:
        self.respond(size)

    @type_check(bytes)
    def taste(self, data: bytes) -> OrderedDict[str, int]:
        raise NotImplementedError

    @auth
    async def steep(self) -> AsyncIterator[list[int]]:
        yield []

    async def smell(self, data: bytes):  # type: ignore[no-untyped-def]
        yield None

    def stir(self, data: bytes) -> AsyncGenerator[Leaf, None]:
        raise NotImplementedError

    def _clean(self, data: bytes) -> None: ...

    def wash_up(self, data: bytes) -> None: ...


class PathsTest(StrictTest):
    def setUp(self) -> None:
        super().setUp()
        routes = [(r"/tea/(?P<action>[a-zA-Z]+)?", TeaHandler), *ROUTES]
        self.application = make_app(routes=routes)
        self.document = describe_application(self.application)

    def describe(self, path: str, method: str = "post") -> Any:
        return self.document["paths"][path][method]

    def data(self, path: str, status: int = 200) -> Any:
        response = self.describe(path)["responses"][str(status)]
        return response["content"]["application/json"]["schema"]["properties"]["data"]

    def test_each_public_function_is_an_action(self) -> None:
        actions = [path.removeprefix("/tea/") for path in self.document["paths"] if path.startswith("/tea/")]
        self.assertEqual(actions, ["brew", "pour", "taste", "steep", "smell", "stir"])

    def test_an_action_is_described_by_its_docstring(self) -> None:
        brew = self.describe("/tea/brew")
        self.assertEqual(brew["summary"], "Brew a pot: what it tastes of")
        self.assertEqual(brew["description"], "It takes a while.")
        self.assertEqual(brew["responses"]["409"]["description"], "The pot is in use")
        self.assertEqual(self.describe("/tea/pour")["summary"], "")

    def test_an_action_stands_below_the_tag_of_its_route(self) -> None:
        self.assertEqual(self.describe("/tea/brew")["tags"], ["tea"])
        self.assertEqual(self.describe("/cups/{cup}.txt", "get")["tags"], ["pages"])

    def test_a_route_is_described_by_the_docstring_of_its_handler_or_of_its_file(self) -> None:
        tags = {tag["name"]: tag["description"] for tag in self.document["tags"]}
        self.assertEqual(tags["tea"], "What there is to drink.")
        self.assertEqual(tags["endless"], "The description of the API: complete, valid, and true.")

    def test_a_body_has_the_fields_and_their_types(self) -> None:
        body = self.describe("/tea/brew")["requestBody"]
        self.assertTrue(body["required"])
        schema = body["content"]["application/json"]["schema"]
        self.assertEqual(schema["required"], ["leaf", "grams"])
        self.assertEqual(schema["properties"]["leaf"], {"type": "string"})
        whole_number = {"type": "integer", "format": "int64"}
        self.assertEqual(schema["properties"]["grams"], {"anyOf": [whole_number, {"type": "null"}]})
        size = self.describe("/tea/pour")["requestBody"]["content"]["application/json"]["schema"]
        self.assertEqual(size["properties"], {"size": VALUE})
        self.assertNotIn("requestBody", self.describe("/tea/taste"))

    def test_a_key_is_asked_for_where_auth_asks_for_one(self) -> None:
        self.assertEqual(self.describe("/tea/brew")["security"], [{"indico_key": []}, {"bearer": []}])
        self.assertNotIn("security", self.describe("/tea/pour"))

    def test_answers_are_envelopes_of_what_the_action_returns(self) -> None:
        self.assertEqual(self.data("/tea/brew"), {"type": "array", "items": {"type": "string"}})
        self.assertEqual(self.data("/tea/brew", 409), {"type": "string"})
        self.assertEqual(self.data("/tea/pour"), VALUE)
        self.assertEqual(self.data("/tea/taste"), VALUE)

    def test_a_stream_is_described_by_the_envelopes_of_its_events(self) -> None:
        for action, data in (
            ("steep", {"type": "array", "items": INTEGER}),
            ("smell", VALUE),
            ("stir", {"$ref": "#/components/schemas/Leaf"}),
        ):
            with self.subTest(action):
                responses = self.describe(f"/tea/{action}")["responses"]
                self.assertEqual(list(responses["200"]["content"]), ["text/event-stream"])
                events = responses["200"]["content"]["text/event-stream"]["schema"]["anyOf"]
                self.assertEqual(
                    [event["properties"]["event"]["const"] for event in events],
                    ["message", "error", "end"],
                )
                envelope = events[0]["properties"]["data"]["contentSchema"]["properties"]
                self.assertEqual(envelope, {"status": {"const": 200}, "data": data})
                self.assertEqual(list(responses["504"]["content"]), ["application/json"])
        self.assertIn("Leaf", self.document["components"]["schemas"])

    def test_the_statuses_are_those_that_occur(self) -> None:
        def statuses(path: str, method: str = "post") -> list[int]:
            return [int(status) for status in self.describe(path, method)["responses"]]

        self.assertEqual(statuses("/tea/brew"), [200, 400, 401, 409, 413, 415, 500, 503, 504, 599])
        self.assertEqual(statuses("/tea/pour"), [200, 400, 413, 415, 500, 503, 504])
        self.assertEqual(statuses("/tea/taste"), [200, 413, 500, 503, 504])
        self.assertEqual(statuses("/endless/wait"), [200, 413, 500, 503])
        self.assertEqual(statuses("/cups/{cup}.txt", "get"), [200, 413, 500, 503])

    def test_a_battery_may_add_statuses(self) -> None:
        self.application.hooks.extra_statuses = {"pour": [429, 418, 499]}
        document = describe_application(self.application)
        responses = document["paths"]["/tea/pour"]["post"]["responses"]
        self.assertIn("Retry-After", responses["429"]["headers"])
        self.assertEqual(responses["418"]["description"], "I'm a Teapot")
        self.assertEqual(responses["499"]["description"], "Another answer")

    def test_a_page_has_its_own_content_type_and_the_parts_of_its_path(self) -> None:
        page = self.describe("/cups/{cup}.txt", "get")
        self.assertEqual(page["responses"]["200"]["content"], {"text/plain": {}})
        self.assertEqual([parameter["name"] for parameter in page["parameters"]], ["cup"])

    @slow
    @needs_validator
    def test_the_document_is_valid(self) -> None:
        from openapi_spec_validator import validate

        validate(self.document)


class DefaultTest(StrictTest):
    def test_a_field_with_a_default_is_not_required(self) -> None:
        class PotHandler(IndicoHandler):
            @unpack("size", color=Color.BLUE, tags=[], leaf=None, since=datetime.date(2020, 1, 2))
            @type_check(int, Color, list[str], Leaf | None, datetime.date)
            async def order(self, size: int, color: Any, tags: Any, leaf: Any, since: Any) -> None: ...

            @unpack(anything=1.5)
            async def take(self, anything: Any) -> None: ...

        application = make_app(routes=[*ROUTES, (r"/pot/(?P<action>[a-zA-Z]+)?", PotHandler)])
        paths = describe_application(application)["paths"]
        schema = paths["/pot/order"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        self.assertEqual(schema["required"], ["size"])
        self.assertEqual(list(schema["properties"]), ["size", "color", "tags", "leaf", "since"])
        defaults = {name: field.get("default", "") for name, field in schema["properties"].items()}
        self.assertEqual(
            defaults, {"size": "", "color": "blue", "tags": [], "leaf": None, "since": "2020-01-02"}
        )
        schema = paths["/pot/take"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        self.assertEqual(
            (schema["required"], schema["properties"]), ([], {"anything": {**VALUE, "default": 1.5}})
        )


class CommandTest(StrictTest):
    def test_it_prints_the_document_that_the_server_serves(self) -> None:
        self.assertEqual(json.loads(run_main(indico.openapi)), describe_application(make_app()))

    @slow
    def test_it_needs_no_mongodb_and_no_settings(self) -> None:
        environment = make_environment({"MONGODB": "mongodb://127.0.0.1:1", "INDICO_ENV": "production"})
        del environment["USER_SALT"]
        printed = subprocess.check_output([sys.executable, "-m", "indico.openapi"], env=environment)
        self.assertIn("/auth/login", json.loads(printed)["paths"])


class ServedTest(ServerTest):
    stores = False
    routes = [AuthRoute, UserRoute]

    def test_it_is_plain_json_for_which_no_key_is_needed(self) -> None:
        response = self.fetch("/openapi.json")
        self.assertEqual((response.code, response.headers["Content-Type"]), (200, "application/json"))
        document = json.loads(response.body)
        self.assertEqual(document["openapi"], "3.1.0")
        self.assertIn("server prints", document["info"]["description"])

    def test_it_is_made_once(self) -> None:
        with mock.patch.object(openapi, "describe_application", wraps=describe_application) as describe:
            texts = {self.fetch("/openapi.json").body for _ in range(3)}
        self.assertEqual((len(texts), describe.call_count), (1, 1))

    def test_users_are_described_by_their_schema(self) -> None:
        document = json.loads(self.fetch("/openapi.json").body)
        update = document["paths"]["/user/update"]["post"]
        schema = update["requestBody"]["content"]["application/json"]["schema"]["properties"]["update_user"]
        self.assertEqual(schema["properties"]["birthday"], {"type": "integer", "format": "int64"})
        self.assertNotIn("user_id", schema["properties"])
        login = document["components"]["schemas"]["Login"]["properties"]["user"]
        self.assertIn("user_id", login["required"])

    def test_only_get_is_allowed(self) -> None:
        response = self.fetch("/openapi.json", method="POST", body="")
        self.assertEqual((response.code, response.headers["Allow"]), (405, "GET, HEAD"))


class OffTest(ServerTest):
    stores = False

    def get_app(self) -> Application:
        self.addCleanup(setattr, config, "DOCS", config.DOCS)
        config.DOCS = False
        return make_app(routes=self.routes)

    def test_without_docs_it_is_not_found(self) -> None:
        response = self.fetch("/openapi.json")
        self.assertEqual(response.code, 404)
        self.assertEqual(json.loads(response.body)["data"], "/openapi.json route could not be found")


class ProductionTest(StrictTest):
    @slow
    def test_production_serves_it_only_when_told_to(self) -> None:
        for settings, expected in (
            ({}, "True"),
            ({"DOCS": "0"}, "False"),
            ({"INDICO_ENV": "production"}, "False"),
            ({"INDICO_ENV": "production", "DOCS": "1"}, "True"),
        ):
            shown = subprocess.check_output(
                [sys.executable, "-c", "from indico import config; print(config.DOCS)"],
                env=make_environment(settings),
                text=True,
            )
            self.assertEqual(shown.strip(), expected, settings)


# The server as it is, and a route with all the kinds of types that there are.
RICH_SERVER = """
from __future__ import annotations
import datetime, enum, uuid
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from pydantic import BaseModel, Field
from typing_extensions import NotRequired, TypedDict
from indico import server
from indico.error import InvalidValue
from indico.routes.handler import IndicoHandler
from indico.utils import type_check, unpack
from indico.utils.auth.auth_utils import auth

class Item(TypedDict):
    name: str
    count: int | None
    size: NotRequired[Literal["small", "large"]]
    parts: NotRequired[list[Item]]

class Tea(BaseModel):
    leaf: str = Field(max_length=10)
    grams: Annotated[int, Field(gt=0, lt=1000)]
    blends: list[Tea] = []

class Colour(str, enum.Enum):
    RED = "red"
    BLUE = "blue"

Name = Annotated[str, Field(pattern="^[a-z]*$")]

class RichHandler(IndicoHandler):
    @unpack("item", "counts", "price", "flags", "tea")
    @type_check(Item, dict[str, int], float, list[bool] | None, Tea)
    async def order(self, item: Item, counts: Any, price: float, flags: Any, tea: Tea) -> list[Item | str]:
        return [item, tea.leaf]

    @unpack("colour", "day", "at", id=None, note="")
    @type_check(Colour, datetime.date, datetime.datetime, uuid.UUID | None, Name)
    async def paint(self, colour: Colour, day: Any, at: Any, id: Any, note: str) -> list[str | None]:
        return [colour, day.isoformat(), at.isoformat(), id and str(id), note]

    @unpack("count", "last")
    @type_check(Annotated[int, Field(ge=0)], Tea)
    async def pour(self, count: int, last: Tea) -> AsyncIterator[Tea]:
        if count < 0:
            raise InvalidValue("There is no such tea")
        for _ in range(min(count, 3)):
            yield last.model_dump()

    @auth
    @unpack("anything")
    async def echo(self, anything: Any) -> Any:
        return anything

server.ROUTES.append((r"/rich/(?P<action>[a-zA-Z]+)?", RichHandler))
server.main(debug=False, port=0)
"""

# Schemathesis gets a key by logging in, for each request anew, because it also calls logout and remove.
HOOKS = """
import json, os, urllib.request
import schemathesis

TOKEN, SERVER = os.environ["DEV_TOKEN"], os.environ["SERVER"]


@schemathesis.auth(refresh_interval=None)
class Key:
    def get(self, case, context):
        body = json.dumps({"access_token": TOKEN, "oauth_id": "1", "user": {}}).encode()
        with urllib.request.urlopen(f"{SERVER}/auth/login", body) as response:
            return json.load(response)["data"]["indico_key"]

    def set(self, case, key, context):
        case.headers["indico_key"] = key


@schemathesis.hook
def map_body(context, body):  # so that logins get further than the token
    if isinstance(body, dict) and isinstance(body.get("access_token"), str):
        body["access_token"] = TOKEN
    return body


@schemathesis.hook
def filter_body(context, body):  # to JSON Schema 1.0 is an integer, and to us it is none
    if isinstance(body, (dict, list)):
        members = body.values() if isinstance(body, dict) else body
        return all(filter_body(context, member) for member in members)
    return not (isinstance(body, float) and body.is_integer())
"""


@slow
@needs_schemathesis
class SchemathesisTest(ProcessTest):
    def test_it_finds_nothing(self) -> None:
        (self.folder / "hooks.py").write_text(HOOKS)
        server = self.start(script=RICH_SERVER)
        run = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json"),
                *("--checks", "all", "--max-examples", "60", "--seed", "1"),
                *("--suppress-health-check", "all"),  # what is filtered above is not too much
                *("--warnings", "off"),  # it knows the id of no file
                *("--exclude-path", "/key/create"),  # a second key of the same name is a 400
            ],
            cwd=self.folder,
            env={
                **make_environment({"SCHEMATHESIS_HOOKS": "hooks", "SERVER": server.url}),
                "PYTHONPATH": str(self.folder),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
        )
        self.assertEqual(run.returncode, 0, run.stdout)
        self.assertIn("No issues found", run.stdout)
        for action in (
            "auth.login",
            "user.update",
            "user.find",
            "user.remove",
            "auth.logout",
            "rich.order",
            "rich.paint",
            "rich.pour",
        ):
            self.assertIn(f"200 {action} ", server.output)
