"""
`python -m indico.new route order`: adds a resource, from the templates beside this file. In the templates,
the resource is named order.
"""

from __future__ import annotations

import ast
import builtins
import keyword
import re
from pathlib import Path
from typing import Any

from pymongo.asynchronous.database import AsyncDatabase

from indico.core.commands.new import ROOT, CannotCreate, check_root, read_names
from indico.core.commands.new.formatting import format_files

TEMPLATES = Path(__file__).parent / "templates"

# Each template, and the file that it becomes.
FILES = {
    "route.txt": "indico/routes/order.py",
    "db.txt": "indico/db/order_db.py",
    "test_route.txt": "indico/tests/routes/test_order.py",
    "test_db.txt": "indico/tests/db/test_order_db.py",
}
SERVER = "indico/server.py"


def add_command(commands: Any) -> None:
    parser = commands.add_parser(
        "route",
        help="add a resource: its route, its helpers, their tests",
        description="Add a resource with the actions create, find, page, update and remove: its route, its"
        " helpers, the tests of both, and its line in server.py.",
    )
    parser.add_argument("name", metavar="NAME", help="the resource's name in the singular, such as order")
    parser.set_defaults(run=make_route)


def make_route(name: str) -> str:
    """Write the files, and return a message for the terminal. Raises CannotCreate before it writes any."""
    check_root()
    if not re.fullmatch("[a-z]+(_[a-z]+)*", name) or keyword.iskeyword(name):
        raise CannotCreate(
            f"{name!r} can't be the name of a resource: use lower-case letters, as in tea_order."
        )
    files = {rename(path, name): render(template, name) for template, path in FILES.items()}
    for path in files:
        if (ROOT / path).exists():
            raise CannotCreate(f"{path} already exists. It was not changed.")
    if name in find_used():
        raise CannotCreate(f"{name} is already used in the code or the database: choose another name.")
    files[SERVER] = add_line((ROOT / SERVER).read_text(encoding="utf-8"), name)
    for path, text in files.items():
        (ROOT / path).write_text(text, encoding="utf-8")
    hint = format_files(ROOT, list(files))
    lines = [f"wrote {path}" for path in files]
    return "\n".join([*lines, f"Add its fields to the schema in {rename(FILES['db.txt'], name)}.{hint}"])


def find_used() -> set[str]:
    """Return the names that are not free: those of collections, pages and batteries, and in the templates."""
    used = {*dir(builtins), *dir(AsyncDatabase)}
    used.update(path.stem for path in (ROOT / "indico" / "batteries").iterdir())
    for template in FILES:
        used |= read_names((TEMPLATES / template).read_bytes()) - {"order"}
    for path in (ROOT / "indico").rglob("*.py"):
        if "tests" not in path.parts:
            source = path.read_text(encoding="utf-8")
            used.update(re.findall(r'(?:mongodb\.|database\.|"/)(\w+)', source))
    return used


def rename(text: str, name: str) -> str:
    """Return the text with this name instead of order, in all its forms: orders, Order, ORDER."""
    camel = "".join(part.capitalize() for part in name.split("_"))
    plural = re.sub("([^aeiou])y$", r"\1ie", name)
    plural += "es" if re.search("(s|x|z|ch|sh)$", plural) else "s"
    names = {"orders": plural, "order": name, "Orders": plural.capitalize(), "Order": camel}
    names["ORDER"] = name.upper()
    # All in one pass, because a new name may contain an old one.
    return re.sub("|".join(names), lambda old: names[old[0]], text)


def render(template: str, name: str) -> str:
    """Return the template for this resource, with its imports sorted."""
    text = rename((TEMPLATES / template).read_text(encoding="utf-8"), name)
    return re.sub(r"(?m)(^from indico.*\n)+", lambda lines: "".join(sorted(lines[0].splitlines(True))), text)


def add_line(source: str, name: str) -> str:
    """Return the source of server.py with the route in its imports and in ROUTES. Raises CannotCreate."""
    route, new_import = rename("OrderRoute", name), rename("from indico.routes.order import OrderRoute", name)
    lines, body = source.splitlines(), ast.parse(source).body
    for node in body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "ROUTES" and node.end_lineno:
            if node.lineno < node.end_lineno:  # one line for each route
                lines.insert(node.end_lineno - 1, f"    {route},")
            else:
                lines[node.lineno - 1] = lines[node.lineno - 1].removesuffix("]") + f", {route}]"
            break
    else:
        raise CannotCreate(f"{SERVER} has no list ROUTES to add the route to.")
    imports = [node for node in body if isinstance(node, ast.ImportFrom)]
    earlier = [node for node in imports if "from indico" < f"from {node.module} " < new_import]
    lines.insert(earlier[-1].end_lineno or 0, new_import)
    return "\n".join(lines) + "\n"
