"""
Of the files that a project edits, core imports only config and error. A change of the others can't break it.
"""

from __future__ import annotations

import subprocess
import sys

from indico.tests.testutils import slow
from indico.tests.testutils.process import make_environment
from indico.tests.testutils.strict import StrictTest

# Imports every module of core, and ends with the names of those that want a room.
PROGRAM = """
import importlib, pkgutil, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        parts = name.split(".")
        if parts[0] == "indico" and len(parts) > 1 and parts[1] not in ("core", "config", "error"):
            raise ImportError("is of a room: " + name, name=name)

sys.meta_path.insert(0, Blocker())
import indico.core

def walk(package):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        yield module.name
        if module.ispkg and module.name in sys.modules:
            yield from walk(sys.modules[module.name])

failed = []
modules = 0
for name in walk(indico.core):
    modules += 1
    try:
        importlib.import_module(name)
    except ImportError as error:
        if (error.name or "").startswith("indico"):
            failed.append(f"{name} imports {error.name}")
print(modules, "modules")
sys.exit("\\n".join(failed) or 0)
"""


class CoreTest(StrictTest):
    @slow
    def test_core_imports_no_room_but_config_and_error(self) -> None:
        result = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=make_environment({}),
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        self.assertRegex(result.stdout, r"^[1-9]\d+ modules$")
