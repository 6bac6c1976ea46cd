"""
Docs page: `GET /docs`, the API's description to read and to try. It is Swagger UI, as a package brings it, so
that nothing comes from anywhere else.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from indico import config
from indico.core.hooks import Application
from indico.core.http.pages import PageHandler
from indico.error import RouteNotFound
from indico.utils import LOGGER

ASSETS = "mkdocs_swagger_ui_tag"  # the package; what it is for otherwise is not used here
FILES = {
    "swagger-ui.css": "swagger-ui/stylesheets/swagger-ui.css",
    "swagger-ui.js": "swagger-ui/javascripts/swagger-ui-bundle.js",
}
CACHED = 3600  # seconds
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
PAGE = """\
<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>$title</title>
    <link rel="icon" href="data:,">
    <link rel="stylesheet" href="docs/swagger-ui.css">
    <link rel="stylesheet" href="docs/page.css">
    <script src="docs/swagger-ui.js" defer></script>
    <script src="docs/page.js" defer></script>
  </head>
  <body>
    <div id="page"></div>
    <p id="note" role="status"></p>
  </body>
</html>
"""
SCRIPT = """\
"use strict";

// A key in an answer, such as a login's, goes along with all further calls.
function keep(response) {
  const key = response.ok && response.obj?.data?.indico_key;
  if (key) {
    ui.preauthorizeApiKey("indico_key", key);
    document.getElementById("note").textContent = "Logged in: the key goes along with further calls.";
  }
  return response;
}

const ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#page",
  deepLinking: true,
  defaultModelsExpandDepth: -1,
  responseInterceptor: keep,
  tryItOutEnabled: true,
  validatorUrl: null,
});
"""
STYLE = """\
body { margin: 0; background: #fafafa; }
.swagger-ui .info { margin: 30px 0 10px; }
.swagger-ui .scheme-container { padding: 10px 0; background: none; box-shadow: none; }
.swagger-ui .response-col_links { display: none; }
#note:not(:empty) {
  position: sticky; bottom: 0; margin: 0; padding: 0.8em; text-align: center;
  background: #49cc90; color: #fff; font: 600 1em sans-serif;
}
"""


def install(application: Application) -> None:
    """Serve the page, unless DOCS is off."""
    if not config.DOCS:
        return
    if importlib.util.find_spec(ASSETS) is None:
        LOGGER.warning("There is no docs page: install the extra docs-page, or set DOCS=0")
        return
    application.add_handlers(".*", [(r"/docs", DocsHandler), (r"/docs/([a-z.-]+)", AssetHandler)])
    application.hooks.welcome_pages["docs page"] = "/docs"


class DocsHandler(PageHandler):
    content_type = "text/html; charset=UTF-8"

    def get(self) -> None:
        """The page to read this and try it."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        self.send(PAGE.replace("$title", f"{__name__.partition('.')[0]}: API"))


class AssetHandler(PageHandler):
    def get(self, name: str) -> None:
        self.content_type = "text/css" if name.endswith(".css") else "text/javascript"
        body = read_asset(name)
        self.set_header("Cache-Control", f"max-age={CACHED}")
        self.send(body)


@functools.cache
def read_asset(name: str) -> bytes:
    """One of the page's files. Raises RouteNotFound for any other name."""
    own = {"page.js": SCRIPT, "page.css": STYLE}
    if name in own:
        return own[name].encode()
    if name not in FILES:
        raise RouteNotFound(name)
    spec = importlib.util.find_spec(ASSETS)
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / FILES[name]).read_bytes()
