"""
API description: `GET /openapi.json`, an OpenAPI 3.1 document made from what is in the code.

Routes and their actions, `@auth`, the names of `@unpack`, the types of `@type_check`, return annotations,
schemas and docstrings: a new route appears in it by itself.
"""

from __future__ import annotations

import datetime
import http.client
import inspect
import json
import re
from collections.abc import Callable, Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin, get_type_hints

from bson.objectid import ObjectId
from tornado.routing import PathMatches, RuleRouter

from indico import __version__, config
from indico.core.hooks import Application
from indico.core.http.envelope import name_route
from indico.core.http.pages import PageHandler
from indico.core.mongo.updates import FIELD_NAME, MAX_FIELDS, DocumentOf
from indico.core.types import Described, is_model, is_typed_dict, read_typed_dict
from indico.routes.handler import IndicoHandler

PACKAGE = __name__.partition(".")[0]
PAGES = "pages"  # the tag of all that is read by GET
INTRODUCTION = """\
Every answer is an envelope, `{"status": 200, "data": ...}`; the `data` of an error is a sentence.

`/auth/login` answers with a key. It goes along with other calls in the header `indico_key`, or as
`Authorization: Bearer <key>`. A body is JSON or a form, whatever its content type says.
"""
DEVELOPMENT = "\nThe token that the server printed when it started is taken in place of any other.\n"
MEANINGS = {
    200: "What was asked for",
    400: "The body can't be taken; `data` says why",
    401: "No key, or one that opens nothing",
    413: "The body is too large",
    429: "Too many requests for now",
    500: "Nobody expected this; the log says more",
    503: "Something that the server needs can't be had at the moment",
    504: "It took too long",
}
SECURITY = {
    "indico_key": {"type": "apiKey", "in": "header", "name": "indico_key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
ACTION = re.compile(r"\(\?P<action>([^()]*)\)\??")  # within a route's pattern
GROUP = re.compile(r"\(\?P<(\w+)>[^()]*\)")  # what else of a path the handler gets
STATUS = re.compile(r"^(\d{3}): (.+)\n?", re.MULTILINE)  # within a docstring
INT64 = {"minimum": -(2**63), "maximum": 2**63 - 1}  # the numbers that MongoDB holds, and that bodies may
SIMPLE: dict[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number", "format": "double", **INT64, "examples": [1.5]},
    bool: {"type": "boolean"},
    NoneType: {"type": "null"},
    datetime.datetime: {"type": "integer", "description": "UTC milliseconds"},
    ObjectId: {"type": "string", "description": "an ObjectId, in hex"},
}

Schema = dict[str, Any]  # a JSON Schema


def install(application: Application) -> None:
    """Serve the description, unless DOCS is off."""
    if config.DOCS:
        application.add_handlers(".*", [(r"/openapi\.json", OpenAPIHandler)])


class OpenAPIHandler(PageHandler):
    content_type = "application/json"

    def get(self) -> None:
        """This description."""
        self.send(json.dumps(describe_application(cast(Application, self.application)), ensure_ascii=False))


def describe_application(application: Application) -> dict[str, Any]:
    """The OpenAPI document of all that the application serves."""
    components = Components()
    more_statuses = application.hooks.extra_statuses
    routes = find_routes(application.default_router)
    operations = [operation for route in routes for operation in find_operations(*route)]
    introduction = INTRODUCTION + ("" if config.PRODUCTION else DEVELOPMENT)
    paths: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for operation in sorted(operations, key=lambda operation: operation.tag == PAGES):
        tags.setdefault(operation.tag, describe_tag(operation))
        methods = paths.setdefault(operation.path, {})
        methods.setdefault(operation.method, describe_operation(operation, components, more_statuses))
    return {
        "openapi": "3.1.0",
        "info": {"title": PACKAGE, "version": __version__, "description": introduction},
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": paths,
        "components": {
            "schemas": components.schemas,
            "responses": components.responses,
            "securitySchemes": SECURITY,
        },
    }


# Routes and what they lead to


class Operation(NamedTuple):
    path: str
    method: str
    handler: type[IndicoHandler]
    function: Callable[..., Any]

    @property
    def tag(self) -> str:
        return PAGES if self.method == "get" else name_route(self.handler)


def find_routes(router: Any) -> Iterator[tuple[str, type[IndicoHandler]]]:
    """The patterns of paths that are served, and the handlers they lead to."""
    for rule in router.rules:
        if isinstance(rule.target, RuleRouter):
            yield from find_routes(rule.target)
        elif isinstance(rule.matcher, PathMatches) and is_ours(rule.target):
            yield rule.matcher.regex.pattern.removesuffix("$"), rule.target


def is_ours(target: Any) -> bool:
    """Whether it is a handler that answers with envelopes; another's answers nobody can tell."""
    return isinstance(target, type) and issubclass(target, (IndicoHandler, PageHandler))


def find_operations(pattern: str, handler: type[IndicoHandler]) -> Iterator[Operation]:
    """The page, or each action. What parts of a path mean that have no name, nobody can tell."""
    action = ACTION.search(pattern)
    path = GROUP.sub(r"{\1}", pattern.replace(action[0], "") if action else pattern)
    if re.search(r"(?<!\\)[()\[\]?*+|]", path):
        return
    path = re.sub(r"\\(.)", r"\1", path)
    if issubclass(handler, PageHandler):
        yield Operation(path, "get", handler, handler.get)
    elif action is not None:
        names = dict.fromkeys(name for kind in reversed(handler.__mro__) for name in vars(kind))  # as written
        for name in names:
            function = handler.get_action(name)
            if function is not None and re.fullmatch(action[1], name):
                yield Operation(path + name, "post", handler, function)


def describe_tag(operation: Operation) -> str:
    """What the handler's docstring says, or else its file's."""
    if operation.method == "get":
        return "What is read by GET"
    module = inspect.getmodule(operation.handler)
    text = operation.handler.__doc__ or (module and module.__doc__) or ""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())


def describe_operation(
    operation: Operation, components: Components, more_statuses: dict[str, list[int]]
) -> dict[str, Any]:
    path, method, handler, function = operation
    summary, description, meanings = read_docstring(function)
    fields = getattr(function, "fields", None)
    auth = hasattr(function, "auth")
    statuses = {
        413,
        500,
        503,
        *(meanings.keys() - {200}),
        *more_statuses.get(path.rpartition("/")[2], ()),
    }
    statuses |= {400} if fields is not None else set()
    statuses |= {401} if auth else set()
    statuses |= {504} if method == "post" and handler.request_timeout is not None else set()
    described: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", path).strip("_"),
        "tags": [operation.tag],
        "summary": summary,
        "description": description,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"\{(\w+)\}", path)
        ],
        "responses": {
            "200": describe_answer(operation, components, meanings.get(200, MEANINGS[200])),
            **{
                str(status): components.describe_error(status, meanings.get(status))
                for status in sorted(statuses)
            },
        },
    }
    if auth:
        described["security"] = [{name: []} for name in SECURITY]
    if fields is not None:
        types = getattr(function, "types", (Any,) * len(fields))
        named = {field: (kind, True) for field, kind in zip(fields, types)}
        schema = components.describe_object(named, components.describe(Any))
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return described


def read_docstring(function: Callable[..., Any]) -> tuple[str, str, dict[int, str]]:
    """Its first paragraph, the others, and what lines such as `401: Facebook ...` say of statuses."""
    text = inspect.getdoc(function) or ""
    meanings = {int(status): meaning for status, meaning in STATUS.findall(text)}
    summary, _, description = STATUS.sub("", text).strip().partition("\n\n")
    return " ".join(summary.split()).rstrip("."), description.strip(), meanings


# Answers


def describe_answer(operation: Operation, components: Components, meaning: str) -> dict[str, Any]:
    content_type = getattr(operation.handler, "content_type", "")
    if content_type:
        return {"description": meaning, "content": {content_type.partition(";")[0]: {}}}
    try:
        answer = get_type_hints(operation.function, include_extras=True).get("return", Any)
    except (AttributeError, NameError, TypeError):  # what only a type checker can read
        answer = Any
    if answer is NoneType:  # it calls `respond`
        answer = Any
    return describe_envelope(200, components.describe(answer), meaning)


def describe_envelope(status: int, data: Schema, meaning: str) -> dict[str, Any]:
    envelope = {
        "type": "object",
        "required": ["status", "data"],
        "properties": {"status": {"const": status}, "data": data},
    }
    return {"description": meaning, "content": {"application/json": {"schema": envelope}}}


class Components:
    """Schemas of types, and answers; what occurs in many places, or has a name, is kept here once."""

    def __init__(self) -> None:
        self.schemas: dict[str, Schema] = {}
        self.responses: dict[str, dict[str, Any]] = {}
        self._names: dict[Any, str] = {}

    def describe_error(self, status: int, meaning: str | None = None) -> dict[str, Any]:
        usual = MEANINGS.get(status) or http.client.responses.get(status, "Another answer")
        described = describe_envelope(status, SIMPLE[str], meaning or usual)
        if status in (429, 503):
            retry = {"description": "Seconds to wait before the next try", "schema": {"type": "integer"}}
            described["headers"] = {"Retry-After": retry}
        if meaning is not None:
            return described
        self.responses[str(status)] = described
        return {"$ref": f"#/components/responses/{status}"}

    def describe(self, kind: Any, stored: bool = False) -> Schema:
        """The schema of a type; what may be anything in it is fit for MongoDB when it is `stored`."""
        origin, arguments = get_origin(kind), get_args(kind)
        if kind is Any:
            return self._describe_anything(stored)
        if origin is Annotated:
            return self._describe_annotated(arguments[0], kind.__metadata__, stored)
        if origin in (Union, UnionType):
            return {"anyOf": [self.describe(member, stored) for member in arguments]}
        if origin is Literal:
            return {"enum": list(arguments)}
        if list in (kind, origin):
            return {"type": "array", "items": self.describe((*arguments, Any)[0], stored)}
        if dict in (kind, origin):
            values = self.describe((*arguments, Any, Any)[1], stored)
            return {"type": "object", "additionalProperties": values}
        if is_typed_dict(kind):
            others = self.describe(Any, stored)
            return self._refer(
                kind, kind.__name__, lambda: self.describe_object(read_typed_dict(kind), others, stored)
            )
        if is_model(kind):
            return self._refer(kind, kind.__name__, lambda: self._describe_model(kind))
        return SIMPLE.get(kind, {})

    def describe_object(
        self, fields: dict[str, tuple[Any, bool]], others: Schema, stored: bool = False
    ) -> Schema:
        """The schema of an object with these fields, each as in a Schema of `indico.db`, and others."""
        return {
            "type": "object",
            "properties": {field: self.describe(kind, stored) for field, (kind, _) in fields.items()},
            "required": [field for field, (_, required) in fields.items() if required],
            # Rather than additionalProperties, of which tools make fields that are not there.
            "patternProperties": {"": others},
        }

    def _describe_anything(self, stored: bool) -> Schema:
        name = "StoredValue" if stored else "Value"

        def make() -> Schema:
            reference = self._describe_anything(stored)
            return {
                "description": "Whatever JSON holds" + (", as MongoDB takes it" if stored else ""),
                "type": ["string", "number", "boolean", "null", "array", "object"],
                **INT64,
                "items": reference,
                "additionalProperties": reference,
                "examples": ["anything"],
                **({"propertyNames": {"pattern": f"^{FIELD_NAME}$"}} if stored else {}),
            }

        return self._refer(name, name, make)

    def _describe_annotated(self, kind: Any, says: tuple[Any, ...], stored: bool) -> Schema:
        described = self.describe(kind, stored)
        for said in says:
            if isinstance(said, Described):
                described = {**described, **said.keywords}
            elif isinstance(said, DocumentOf):
                described = self._describe_document(said)
        return described

    def _describe_document(self, follows: DocumentOf) -> Schema:
        ours = (*follows.ignored, *follows.refused)
        fields = {
            field: (kind, required and not follows.part)
            for field, (kind, required) in follows.schema.items()
            if field not in ours
        }
        if not follows.part:
            fields = {"_id": (ObjectId, False), **fields}
        described = self.describe_object(fields, self.describe(Any, stored=True), stored=True)
        described["propertyNames"] = {"pattern": f"^{FIELD_NAME}$"}
        if follows.part:
            described["maxProperties"] = MAX_FIELDS
        if follows.refused:
            described["not"] = {"anyOf": [{"required": [field]} for field in follows.refused]}
        return described

    def _describe_model(self, kind: Any) -> Schema:
        described: Schema = kind.model_json_schema(ref_template="#/components/schemas/{model}")
        for name, definition in described.pop("$defs", {}).items():
            self.schemas.setdefault(name, definition)
        return described

    def _refer(self, key: Any, name: str, make: Callable[[], Schema]) -> Schema:
        if key not in self._names:
            while name in self.schemas:
                name += "_"
            self._names[key] = name
            self.schemas[name] = {}  # it may hold itself
            self.schemas[name] = make()
        return {"$ref": f"#/components/schemas/{self._names[key]}"}
