"""
The clients of docs/clients.rst, made and run by its own commands, with the real server.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv

from indico import config
from indico.server import BATTERIES
from indico.tests.testutils import slow
from indico.tests.testutils.pages import DOCS, NOT_COVERED, read_blocks
from indico.tests.testutils.process import ProcessTest, make_environment

PAGE = "clients.rst"
EXAMPLE = "http://127.0.0.1:5000"
# What package managers print when they can't reach their registry.
UNREACHABLE = (
    "EAI_AGAIN",
    "ENOTFOUND",
    "ECONNREFUSED",
    "ETIMEDOUT",
    "No matching distribution",
    "not in this registry",
)
INSTALLING = ("npm install ", "pip install ")


@slow
class ClientsTest(ProcessTest):
    def setUp(self) -> None:
        super().setUp()
        if not (DOCS / PAGE).exists():
            self.skipTest("the guide is not there: the package is installed without its checkout")
        if "indico.batteries.openapi" not in BATTERIES:
            self.skipTest("the battery that describes the API was taken out")
        # Package managers find their settings there.
        kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "npm_"))}
        self.environment = make_environment({**kept, **NOT_COVERED, "TOKEN": config.DEV_TOKEN})
        description, *_ = self.read_commands()
        self.run_command(description.replace("python", sys.executable, 1))
        del self.environment["PYTHONPATH"]  # from here on nothing needs the server's package

    def read_commands(self) -> list[str]:
        blocks = read_blocks(PAGE, "sh")
        return [line for block in blocks for line in block.code.splitlines()]

    def run_command(self, command: str) -> str:
        run = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if run.returncode and command.startswith(INSTALLING):
            for text in UNREACHABLE:
                if text in run.stdout:
                    self.skipTest(f"the registry can't be used: {command} printed {text}")
        self.assertEqual(run.returncode, 0, f"{command}\n{run.stdout}")
        return run.stdout

    def run_client(self, file: str, first: str, last: str) -> None:
        """Run the page's commands from one that begins so to one that ends the client's part."""
        shutil.copy(DOCS / "clients" / file, self.folder)
        commands = self.read_commands()
        begin = next(i for i, line in enumerate(commands) if line.startswith(first))
        end = next(i for i, line in enumerate(commands) if line.startswith(last))
        for command in commands[begin:end]:
            self.run_command(command)
        server = self.start()
        self.assertIn(EXAMPLE, commands[end])
        output = self.run_command(commands[end].replace(EXAMPLE, server.url))
        location, rejected = output.splitlines()
        self.assertEqual(location, "London")
        self.assertRegex(rejected, "^400 .*user_id")
        self.assertEqual(self.database.user.count_documents({"name": "Ada", "location": "London"}), 1)

    def test_the_client_in_typescript_compiles_strictly_and_does_what_the_page_says(self) -> None:
        for program in ("node", "npm"):
            if shutil.which(program) is None:
                self.skipTest(f"{program} is not installed")
        self.run_client("client.ts", "npm init", "node client.js")

    def test_the_client_in_python_passes_mypy_and_does_what_the_page_says(self) -> None:
        venv.create(self.folder / ".venv", with_pip=True)
        path = os.pathsep.join([str(self.folder / ".venv/bin"), os.environ["PATH"]])
        self.environment["PATH"] = path
        self.run_client("client.py", "pip install", "python client.py")
