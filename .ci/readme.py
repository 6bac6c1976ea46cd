"""
Does what README.md says, as it says it.

    readme.py test     prints the command that runs the tests
    readme.py start    runs the command that starts the server, then every `$ command` of the README, and
                       compares the answers with what the README shows

The README is that of the working directory, which may be a copy. Runs take turns, because all use one port,
unless PORT has another.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

PATIENCE = 300  # seconds for the first command, which installs
VARYING = re.compile(r"_id|created|\w+_key")  # what differs from run to run
LOCK = Path(tempfile.gettempdir(), f"readme-{os.getuid()}.lock")

README = Path("README.md").read_text().replace(":5000", f":{os.environ.get('PORT', 5000)}")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def drop_varying(pairs: list[tuple[str, object]]) -> list[tuple[str, object]]:
    return [pair for pair in pairs if not VARYING.fullmatch(pair[0])]


def normalise(text: str) -> object:
    """The answer without what varies; text that is no JSON as it is."""
    try:
        return json.loads(text, object_pairs_hook=drop_varying)
    except ValueError:
        return text


def start() -> None:
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        ["bash", "-c", blocks("sh")[0]],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    signal.alarm(PATIENCE)  # ends this script, if the server never says that it is ready
    assert server.stdout is not None
    printed = ""
    try:
        while "curl" not in printed:
            line = server.stdout.readline()
            assert line, f"the server ended, having said:\n{printed}"
            printed += line
        steps = re.findall(
            r"^\$ ((?:.*\\\n)*.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks("console")), re.MULTILINE
        )
        login = re.sub(r"\\\n *", "", steps[0][0])
        values = {"<token>": re.search('"access_token": "([^"]+)"', printed)[1]}
        assert login.replace("<token>", values["<token>"]) in printed, f"not the README's login:\n{printed}"
        session = ""
        for command, expected in steps:
            for name, value in values.items():
                command = command.replace(name, value)
            output = subprocess.run(
                ["bash", "-c", session + command.replace("curl ", "curl -s ", 1)],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            if not expected:
                session += command + "\n"
                continue
            assert normalise(output) == normalise(expected), f"{command}\ngave {output}\nnot   {expected}"
            if found := re.search(r'"\w+_key": ?"([0-9a-f]{56})"', output):
                values["<key>"] = found[1]
    finally:
        os.killpg(server.pid, signal.SIGINT)
        server.wait()
    print(f"Ran {sum(bool(expected) for _, expected in steps)} tests in one run of the server")


if __name__ == "__main__":
    if sys.argv[1] == "test":
        print(blocks("sh")[1])
    else:
        with LOCK.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            start()
