"""
API description: `GET /openapi.json`, an OpenAPI 3.1 document that is made from the code.

It describes the routes and their actions, `@auth`, the names of `@unpack`, the types of `@type_check`, return
annotations, schemas and docstrings. A new route is described without further steps.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tornado.routing import PathMatches, Rule, RuleRouter

from indico import __version__, config
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.routes.handler import IndicoHandler

INTRODUCTION = """\
Every response is an envelope: `{"status": 200, "data": ...}`. The `data` of an error is a message.

`/auth/login` returns a key. Send it with all other requests, in the header `indico_key` or as
`Authorization: Bearer <key>`. A body is JSON or a form, whatever its content type.
"""
DEVELOPMENT = "\nIn development `/auth/login` also accepts the token that the server prints when it starts.\n"
ACTION = re.compile(r"\(\?P<action>([^()]*)\)\??")  # within a route's pattern
GROUP = re.compile(r"\(\?P<(\w+)>[^()]*\)")  # another part of the path that the handler gets


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
    """Return the OpenAPI document of all routes of the application."""
    # It imports pydantic, which only this page may need.
    from indico.core.openapi import SECURITY, OpenAPIDocument

    document = OpenAPIDocument()
    for operation in find_operations(application.routes, application.hooks.extra_statuses):
        document.add(*operation)
    description = INTRODUCTION + ("" if config.PRODUCTION else DEVELOPMENT)
    return {
        "openapi": "3.1.0",
        "servers": [{"url": "."}],  # relative to this document, so that it holds below a proxy's prefix
        "info": {"title": __name__.partition(".")[0], "version": __version__, "description": description},
        "tags": [{"name": name, "description": text} for name, text in document.tags.items()],
        "paths": dict(sorted(document.paths.items(), key=lambda path: "get" in path[1])),  # pages come last
        "components": {"schemas": document.describe_types(), "securitySchemes": SECURITY},
    }


def find_operations(rules: Iterable[Rule], more_statuses: dict[str, list[int]]) -> Iterator[tuple[Any, ...]]:
    """
    Yield the path, the function, the handler and the statuses of each action and page. Patterns with unnamed
    groups are skipped: we can't name their parameters.
    """
    for rule in rules:
        handler = rule.target
        if isinstance(handler, RuleRouter):
            yield from find_operations(handler.rules, more_statuses)
        if not isinstance(handler, type) or not isinstance(rule.matcher, PathMatches):
            continue
        pattern = rule.matcher.regex.pattern.removesuffix("$")
        action = ACTION.search(pattern)
        path = GROUP.sub(r"{\1}", pattern.replace(action[0], "") if action else pattern)
        if re.search(r"(?<!\\)[()\[\]?*+|]", path):
            continue
        path = re.sub(r"\\(.)", r"\1", path)
        if issubclass(handler, PageHandler):
            yield path, handler.get, handler, ()
        elif issubclass(handler, IndicoHandler) and action is not None:
            timeout = () if handler.request_timeout is None else (504,)
            for name, function in handler.list_actions().items():
                if re.fullmatch(action[1], name):
                    yield path + name, function, handler, (*timeout, *more_statuses.get(name, ()))
