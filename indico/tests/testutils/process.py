"""
Servers as processes of their own, for tests of starting, stopping, and races between processes.
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
import threading
import time
import unittest
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, Self
from unittest import mock

import indico
from indico import config
from indico.tests.mocks import HEADERS
from indico.tests.testutils.mongo import DatabaseTest

PATIENCE = 30  # seconds until a wait fails
READY = re.compile(r"indico listens on (http://([^\s:]+|\[\S+\]):(\d+))")

linux = unittest.skipUnless(sys.platform == "linux", "a process ends with its parent only on Linux")


def wait_until(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> None:
    """Return when the condition is true. Raises AssertionError, which names `what`, after `patience`."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {patience:g} seconds: {what}")
        time.sleep(0.01)


def processes_in(folder: Path) -> list[int]:
    """Return the processes in this working folder: servers, workers and mongod. Linux only."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(process / "cwd") == str(folder):
                found.append(int(process.name))
        except OSError:
            pass  # it has ended, or belongs to another user
    return found


def open_files(pid: int) -> set[str]:
    """Return the kernel's names of a process's open files. Empty if the process has ended."""
    found = set()
    with suppress(FileNotFoundError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                found.add(os.readlink(link))
    return found


def is_mongod(pid: int) -> bool:
    """Whether this process is a mongod, or is starting one."""
    try:
        return b"--dbpath" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def read_peak(pid: int) -> int:
    """Return the most memory that the process has had, in kilobytes."""
    [size] = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(size)


def report_figures(test: unittest.TestCase, figures: str) -> None:
    """Print what a test has counted, and add it to the file that TEST_REPORT in the environment names."""
    line = f"{test.id().rpartition('.')[2]} ({config.MONGODB_DRIVER}): {figures}"
    print(line)
    if path := os.environ.get("TEST_REPORT"):
        with open(path, "a") as file:
            print(line, file=file)


def make_folder() -> Path:
    """Make a folder. Pass it to `remove_folder` later."""
    return Path(tempfile.mkdtemp(prefix="indico-test-")).resolve()


def remove_folder(folder: Path) -> None:
    """Remove the folder. Its processes get two seconds to end, and then are killed."""
    with suppress(AssertionError):
        wait_until(lambda: not processes_in(folder), "processes end", patience=2)
    for pid in processes_in(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not processes_in(folder), f"the end of processes in {folder}")
    shutil.rmtree(folder)


class RunningThreads:
    """Runs `_threads` until the end of a block, which sets `_stopped`."""

    _threads: list[threading.Thread]
    _stopped: threading.Event

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    data: Any  # of the envelope


class ServerProcess:
    """
    `python -m indico.server` with these arguments and settings, in a temporary working folder. By default it
    uses a free port, and the tests' MongoDB, salt and token.

        with ServerProcess(WORKERS="2") as server:
            server.post("auth/login", LOGIN_DATA)

    The block begins when the server is ready. At its end, the process and the folder are removed. Instead of
    the module it can run a `script` that calls `indico.server.main`. An empty setting counts as not set.
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
        """The output so far, of both streams."""
        return os.pread(self._file.fileno(), 10_000_000, 0).decode()

    @property
    def url(self) -> str:
        """The last address that it printed, without a trailing slash."""
        return str(READY.findall(self.output)[-1][0])

    @property
    def port(self) -> int:
        return int(READY.findall(self.output)[-1][2])

    def wait_for(self, text: str, count: int = 1, patience: float = PATIENCE) -> None:
        """Return when the output contains the text that many times."""
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
        """POST the data as JSON to `/<route>`, on a new connection. Any thread can call this."""
        host, port = READY.findall(self.output)[-1][1:]
        connection = http.client.HTTPConnection(host.strip("[]"), int(port), timeout=timeout)
        try:
            connection.request("POST", f"/{route}", json.dumps(data), dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.headers, json.loads(response.read())["data"])
        finally:
            connection.close()

    def post(self, route: str, data: Any = None, headers: Mapping[str, str] = HEADERS) -> Any:
        """Like `fetch`, but returns the decoded response, as `ServerTest.post` does."""
        answer = self.fetch(route, data, headers)
        return {"status": answer.status, "data": answer.data}

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal, wait for the end, and return the exit status."""
        self.send(number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end, and return the exit status: -N after signal N."""
        try:
            return self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end:\n{self.output}") from None

    def close(self) -> None:
        """Kill the server if it runs, and clean up. Can be called twice."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._file.close()
        if self._own_folder is not None:
            remove_folder(self._own_folder)
            self._own_folder = None


def make_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return an environment of the variables that a process needs, the tests' settings, and these."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "MONGODB_DRIVER", "PYTHONDONTWRITEBYTECODE")
    return {
        # Coverage measures servers too.
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
    """Run `python -m <module> <words>` in this process, in an empty folder, and return its output."""
    with (
        tempfile.TemporaryDirectory(prefix="indico-test-") as folder,
        chdir(folder),
        mock.patch.object(sys, "argv", [str(module.__file__), *words]),
        redirect_stdout(StringIO()) as output,
    ):
        runpy.run_path(str(module.__file__), run_name="__main__")
    return output.getvalue()


class ProcessTest(DatabaseTest):
    """A test that starts servers. They share a database and a working folder, `self.folder`."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = make_folder()
        self.addCleanup(remove_folder, self.folder)

    def launch(self, *arguments: str, **options: Any) -> ServerProcess:
        """Launch a server without waiting for it. The arguments are those of ServerProcess."""
        server = ServerProcess(*arguments, **{"folder": self.folder, **options})
        self.addCleanup(server.close)
        return server

    def start(self, *arguments: str, **options: Any) -> ServerProcess:
        """Launch a server, and return it when it is ready."""
        return self.launch(*arguments, **options).wait_ready()

    def assert_refuses(self, sentence: str, *arguments: str, **options: Any) -> None:
        """Assert that the server prints only this sentence, within 80 columns, and exits with status 1."""
        for line in sentence.splitlines():
            self.assertLessEqual(len(line.replace(str(self.folder), ".")), 80)
        server = self.launch(*arguments, **options)
        self.assertEqual((server.wait(), server.output.strip()), (1, sentence))

    def run_python(self, *words: str, source: str = "", **settings: str) -> tuple[int, str, str]:
        """Run Python in the folder, and return its status, standard output and standard error."""
        result = subprocess.run(
            [sys.executable, *words],
            input=source,
            cwd=self.folder,
            env=make_environment(settings),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return result.returncode, result.stdout, result.stderr
