"""
API description: `GET /openapi.json`, an OpenAPI 3.1 document made from what is in the code.

Routes and their actions, `@auth`, the names of `@unpack`, the types of `@type_check`, return annotations,
schemas and docstrings: a new route appears in it by itself.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tornado.routing import PathMatches, RuleRouter

from indico import __version__, config
from indico.core.hooks import Application
from indico.core.http.envelope import name_route
from indico.core.http.pages import PageHandler
from indico.core.operations import SECURITY, Operation, describe_operation, list_types
from indico.routes.handler import IndicoHandler

PACKAGE = __name__.partition(".")[0]
PAGES = "pages"  # the tag of all that is read by GET
INTRODUCTION = """\
Every answer is an envelope, `{"status": 200, "data": ...}`; the `data` of an error is a sentence.

`/auth/login` answers with a key. It goes along with other calls in the header `indico_key`, or as
`Authorization: Bearer <key>`. A body is JSON or a form, whatever its content type says.
"""
DEVELOPMENT = "\nThe token that the server printed when it started is taken in place of any other.\n"
ACTION = re.compile(r"\(\?P<action>([^()]*)\)\??")  # within a route's pattern
GROUP = re.compile(r"\(\?P<(\w+)>[^()]*\)")  # what else of a path the handler gets


def install(application: Application) -> None:
    """Serve the description, unless DOCS is off."""
    if config.DOCS:
        describe = functools.cache(lambda: json.dumps(describe_application(application), ensure_ascii=False))
        application.add_handlers(".*", [(r"/openapi\.json", OpenAPIHandler, {"describe": describe})])


class OpenAPIHandler(PageHandler):
    content_type = "application/json"

    def initialize(self, describe: Callable[[], str]) -> None:
        self.describe = describe  # the same text at each call

    def get(self) -> None:
        """This description."""
        self.send(self.describe())


def describe_application(application: Application) -> dict[str, Any]:
    """The OpenAPI document of all that the application serves."""
    from indico.core.openapi import describe_types  # it imports pydantic, which only this page may need

    operations = list_operations(application)
    types = {
        (operation.path, operation.method, name): kind
        for operation in operations
        for name, kind in list_types(operation).items()
    }
    schemas, definitions = describe_types({**types, "others": (Any, "validation")})
    responses: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for operation in operations:
        tags.setdefault(operation.tag, operation.tag_description)
        own = {name: schemas[operation.path, operation.method, name] for name in list_types(operation)}
        described = describe_operation(operation, own, schemas["others"], responses)
        paths.setdefault(operation.path, {})[operation.method] = described
    return {
        "openapi": "3.1.0",
        "info": {
            "title": PACKAGE,
            "version": __version__,
            "description": INTRODUCTION + ("" if config.PRODUCTION else DEVELOPMENT),
        },
        "tags": [{"name": name, "description": text} for name, text in tags.items()],
        "paths": paths,
        "components": {"schemas": definitions, "responses": responses, "securitySchemes": SECURITY},
    }


def list_operations(application: Application) -> list[Operation]:
    """All actions, then all pages. Of two with the same path and method the first is served."""
    more_statuses = application.hooks.extra_statuses
    operations: dict[tuple[str, str], Operation] = {}
    for pattern, handler in find_routes(application.default_router):
        for operation in find_operations(pattern, handler, more_statuses):
            operations.setdefault((operation.path, operation.method), operation)
    return sorted(operations.values(), key=lambda operation: operation.tag == PAGES)


def find_routes(router: Any) -> Iterator[tuple[str, type[IndicoHandler]]]:
    """The patterns of paths that are served, and the handlers they lead to."""
    for rule in router.rules:
        if isinstance(rule.target, RuleRouter):
            yield from find_routes(rule.target)
        elif isinstance(rule.matcher, PathMatches) and is_ours(rule.target):
            yield rule.matcher.regex.pattern.removesuffix("$"), rule.target


def is_ours(target: Any) -> bool:
    """Whether it is a handler that answers with envelopes. Other handlers' responses can't be described."""
    return isinstance(target, type) and issubclass(target, (IndicoHandler, PageHandler))


def find_operations(
    pattern: str, handler: type[IndicoHandler], more_statuses: dict[str, list[int]]
) -> Iterator[Operation]:
    """
    Yield the page's operation, or one per action. Patterns with unnamed groups are skipped: we can't name
    their parameters.
    """
    action = ACTION.search(pattern)
    path = GROUP.sub(r"{\1}", pattern.replace(action[0], "") if action else pattern)
    if re.search(r"(?<!\\)[()\[\]?*+|]", path):
        return
    path = re.sub(r"\\(.)", r"\1", path)
    if issubclass(handler, PageHandler):
        yield Operation(path, "get", handler.get, PAGES, "What is read by GET", handler.content_type)
    elif action is not None:
        names = dict.fromkeys(name for kind in reversed(handler.__mro__) for name in vars(kind))  # as written
        timeout = () if handler.request_timeout is None else (504,)
        for name in names:
            function = handler.get_action(name)
            if function is not None and re.fullmatch(action[1], name):
                statuses = (*timeout, *more_statuses.get(name, ()))
                tag, description = name_route(handler), describe_handler(handler)
                yield Operation(path + name, "post", function, tag, description, statuses=statuses)


def describe_handler(handler: type[IndicoHandler]) -> str:
    """The first paragraph of the handler's docstring, or else of its file's."""
    module = inspect.getmodule(handler)
    text = handler.__doc__ or (module and module.__doc__) or ""
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())
