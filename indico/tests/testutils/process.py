"""
Servers as processes of their own, for what one process can't show: starting, stopping, and racing.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple
from unittest import mock

import indico
from indico import config
from indico.tests.mocks import HEADERS
from indico.tests.testutils.mongo import DatabaseTest

PATIENCE = 30  # seconds; what takes longer will not happen
READY = re.compile(r"^indico listens on (http://(\S+):(\d+))$", re.MULTILINE)

linux = unittest.skipUnless(sys.platform == "linux", "a process is bound to its parent's life on Linux alone")


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    """Return when the condition holds; AssertionError, which says what did not happen, when it never does."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} seconds: {what}")
        time.sleep(0.01)


def processes_in(folder: Path) -> list[int]:
    """The processes whose working folder this is: servers, their workers and their mongod. Linux alone."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
        except OSError:
            pass  # it has ended, or is another user's
    return found


def is_mongod(pid: int) -> bool:
    """Whether this process is a mongod, or about to become one."""
    try:
        return b"--dbpath" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def make_folder() -> Path:
    """A folder to be given to `remove_folder`."""
    return Path(tempfile.mkdtemp(prefix="indico-test-")).resolve()


def remove_folder(folder: Path) -> None:
    """Remove the folder, and end all that still runs in it, though a moment later what is ending already."""
    with suppress(AssertionError):
        wait_until(lambda: not processes_in(folder), "the end of what is ending", patience=2)
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_in(folder), f"the end of what runs in {folder}")
    shutil.rmtree(folder)


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    data: Any  # of the envelope


class ServerProcess:
    """
    `python -m indico.server` with these arguments and settings, on a free port unless they name one, with
    the tests' MongoDB, salt and token, in a throw-away working folder.

        with ServerProcess(WORKERS="2") as server:
            server.post("auth/login", LOGIN_DATA)

    The block begins when the server is ready, and at its end nothing of it is left. Instead of the module
    it can run a `script`, which calls `indico.server.main` by itself. An empty setting counts as not set.
    """

    def __init__(
        self,
        *arguments: str,
        script: str | None = None,
        folder: Path | None = None,
        prefix: Sequence[str] = (),
        python: str = sys.executable,
        **settings: str,
    ) -> None:
        self._own_folder = make_folder() if folder is None else None
        self.folder = folder or self._own_folder or Path()
        command = [python, "-m", "indico.server", *arguments]
        if script is not None:
            (self.folder / "run.py").write_text(script)
            command = [python, "run.py", *arguments]
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._process = subprocess.Popen(
            [*prefix, *command],
            cwd=self.folder,
            env=make_environment(settings),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> ServerProcess:
        try:
            return self.wait_ready()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it wrote so far, to either stream."""
        return os.pread(self._file.fileno(), 10_000_000, 0).decode()

    @property
    def url(self) -> str:
        """Its address, without a slash at the end, as it said last."""
        return str(READY.findall(self.output)[-1][0])

    @property
    def port(self) -> int:
        return int(READY.findall(self.output)[-1][2])

    def wait_for(self, text: str, count: int = 1, patience: float = PATIENCE) -> None:
        """Return when the output holds the text that many times."""
        deadline = time.monotonic() + patience
        while self.output.count(text) < count:
            ended = self._process.poll() is not None
            if (ended and self.output.count(text) < count) or time.monotonic() > deadline:
                raise AssertionError(f"{text!r} is not in the output:\n{self.output}")
            time.sleep(0.01)

    def wait_ready(self) -> ServerProcess:
        self.wait_for("indico listens on http")
        return self

    def fetch(
        self, route: str, data: Any = None, headers: Mapping[str, str] = HEADERS, timeout: float = PATIENCE
    ) -> Answer:
        """POST the data as JSON to `/<route>`, on a connection of its own. Threads may share a server."""
        host, port = READY.findall(self.output)[-1][1:]
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
        try:
            connection.request("POST", f"/{route}", json.dumps(data), dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.headers, json.loads(response.read())["data"])
        finally:
            connection.close()

    def post(self, route: str, data: Any = None, headers: Mapping[str, str] = HEADERS) -> Any:
        """The same, with the decoded answer as `ServerTest.post` gives it."""
        answer = self.fetch(route, data, headers)
        return {"status": answer.status, "data": answer.data}

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal and wait for the end; the exit status."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end; the exit status, which is -N after signal N."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None

    def close(self) -> None:
        """End it, whatever state it is in. May be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._file.close()
        if self._own_folder is not None:
            remove_folder(self._own_folder)
            self._own_folder = None


def make_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """An environment of nothing but what a process needs, what the tests set, and these settings."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "MONGODB_DRIVER", "PYTHONDONTWRITEBYTECODE")
    return {
        # Coverage counts what servers run, too.
        **{name: value for name, value in os.environ.items() if name in kept or name.startswith("COVERAGE")},
        "PYTHONPATH": str(Path(indico.__file__).parents[1]),
        "USER_SALT": os.environ["USER_SALT"],
        "DEV_TOKEN": config.DEV_TOKEN,
        "LOGIN_RATE": os.environ["LOGIN_RATE"],
        "MONGODB": config.MONGODB,
        "MONGODB_DATABASE": config.MONGODB_DATABASE,
        "HTTP_SERVER": config.HTTP_SERVER,
        "PORT": "0",
        **settings,
    }


def run_main(module: ModuleType, *words: str) -> str:
    """What `python -m <module> <words>` prints, in this process and an empty folder. May raise SystemExit."""
    with (
        tempfile.TemporaryDirectory(prefix="indico-test-") as folder,
        chdir(folder),
        mock.patch.object(sys, "argv", [str(module.__file__), *words]),
        redirect_stdout(StringIO()) as output,
    ):
        runpy.run_path(str(module.__file__), run_name="__main__")
    return output.getvalue()


class ProcessTest(DatabaseTest):
    """A test that starts servers, which share a database and a working folder, `self.folder`."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)

    def launch(self, *arguments: str, **options: Any) -> ServerProcess:
        """A server that may or may not come to be ready; the arguments are those of ServerProcess."""
        server = ServerProcess(*arguments, **{"folder": self.folder, **options})
        self.addCleanup(server.close)
        return server

    def start(self, *arguments: str, **options: Any) -> ServerProcess:
        """A server that is ready."""
        return self.launch(*arguments, **options).wait_ready()

    def assert_refuses(self, sentence: str, *arguments: str, **options: Any) -> None:
        """It does not start: it writes this sentence and nothing else, and exits with status 1."""
        server = self.launch(*arguments, **options)
        self.assertEqual((server.wait(), server.output.strip()), (1, sentence))
