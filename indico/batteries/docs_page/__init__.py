"""
Docs page: `GET /docs` shows the API's description and can send requests. It is Swagger UI from an installed
package, so the browser loads nothing from other servers.
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

PACKAGE = "mkdocs_swagger_ui_tag"  # it contains the files of Swagger UI
FOLDER = Path(__file__).parent
MAX_AGE = 3600  # seconds that a browser may cache a file
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


def install(application: Application) -> None:
    """Serve the page, unless DOCS is off."""
    if not config.DOCS:
        return
    package = importlib.util.find_spec(PACKAGE)
    if package is None or package.origin is None:
        LOGGER.warning("There is no docs page: install the extra docs-page, or set DOCS=0")
        return
    swagger_ui = Path(package.origin).parent / "swagger-ui"
    files = {
        "page.css": FOLDER / "page.css",
        "page.js": FOLDER / "page.js",
        "swagger-ui.css": swagger_ui / "stylesheets/swagger-ui.css",
        "swagger-ui.js": swagger_ui / "javascripts/swagger-ui-bundle.js",
    }
    application.add_handlers(
        ".*", [(r"/docs", DocsHandler), (r"/docs/([a-z.-]+)", FileHandler, {"files": files})]
    )
    application.hooks.welcome_pages["docs page"] = "/docs"


class DocsHandler(PageHandler):
    content_type = "text/html; charset=UTF-8"

    def get(self) -> None:
        """The docs page, in HTML."""
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("Referrer-Policy", "no-referrer")
        page = read_file(FOLDER / "index.html").decode()
        self.send(page.replace("$title", f"{__name__.partition('.')[0]}: API"))


class FileHandler(PageHandler):
    def initialize(self, files: dict[str, Path]) -> None:
        self._files = files

    def get(self, name: str) -> None:
        if name not in self._files:
            raise RouteNotFound(name)
        self.content_type = "text/css" if name.endswith(".css") else "text/javascript"
        self.set_header("Cache-Control", f"max-age={MAX_AGE}")
        self.send(read_file(self._files[name]))


@functools.cache
def read_file(path: Path) -> bytes:
    return path.read_bytes()
