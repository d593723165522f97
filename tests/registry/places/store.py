"""A server of other people, started for tests on a free port of the loopback device."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[3]
INSTALLED = ROOT / "build" / "places"
"""Where `install.py` puts what pip cannot install."""
BUCKET = "models"
KEY, SECRET = "AKIAWRITER", "writersecret"
READ_KEY, READ_SECRET = "AKIAREADER", "readersecret"
PATIENCE = 180
"""Seconds that a server may take to start, or to end, on a busy machine."""

# Ends a server with the process that wants it, however that ends: that may be killed.
_GUARD = """
trap '' INT
"$@" & server=$!
trap 'kill -9 $server 2>/dev/null; wait $server; exit' TERM
while kill -0 "$OWNER" 2>/dev/null && kill -0 $server 2>/dev/null; do sleep 2 & wait $!; done
kill -9 $server 2>/dev/null
"""


def free_port() -> int:
    """Return a port that is this caller's for a minute, whoever else looks for one.

    No outgoing connection gets it: those have other ports. And as if a connection to it had just
    ended, it can be taken only by who says, as servers do, that such a rest does not matter.
    """
    while True:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as found, contextlib.suppress(OSError):
            found.bind(("127.0.0.1", port))
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # for what remains of it
            found.listen()
            with socket.create_connection(("127.0.0.1", port)):
                accepted, _ = found.accept()
                accepted.close()  # the side that closes first keeps the rest
            return port


class LoopbackServer:
    """One kind of server: how it is started, and how it answers."""

    name = ""
    path = "/"
    """What answers when it is ready, with any status."""

    def __init__(self, port: int = 0) -> None:
        self.port = port or free_port()
        self.folder = Path()
        """With its data, where tests share it."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, folder: Path, owner: int) -> list[int]:
        """Start it with its data in a folder, and return its process groups.

        It ends when the process ``owner`` does.
        """
        raise NotImplementedError

    def fill(self) -> None:
        """Make what it has to have when it runs."""

    def run(
        self,
        command: Sequence[str | Path],
        folder: Path,
        owner: int,
        environment: Mapping[str, str] = {},
    ) -> int:
        """Start a process that ends with ``owner``, and return its process group."""
        with open(folder / "output.txt", "ab") as output:
            process = subprocess.Popen(
                ["sh", "-c", _GUARD, "sh", *map(str, command)],
                cwd=ROOT,
                env=os.environ | environment | {"OWNER": str(owner)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process.returncode = 0  # it may outlive this process, which is not to warn of it
        return process.pid

    def await_answer(self, folder: Path, groups: Sequence[int]) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It does not.
        """
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        ends = time.monotonic() + PATIENCE
        while time.monotonic() < ends:
            try:
                opener.open(self.address + self.path, timeout=10).close()
                return
            except urllib.error.HTTPError:
                return
            except OSError:
                time.sleep(0.05)
            if not all(map(runs, groups)):
                break
        output = (folder / "output.txt").read_text(errors="replace")[-2000:]
        remedy = "`python tests/registry/places/install.py build/places` installs what pip cannot"
        raise RuntimeError(f"{self.name} did not start; {remedy}.\n{output}")


class StoreServer(LoopbackServer):
    """A server of an object store, and how a user reaches the bucket in it."""

    heeds = True
    """Whether it heeds the conditions that publishers need."""

    @property
    def url(self) -> str:
        """The bucket's."""
        return f"s3://{BUCKET}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables of somebody who may write."""
        return self.s3(KEY, SECRET)

    @property
    def reading(self) -> dict[str, str] | None:
        """The variables of somebody who may only read; None where anybody may write."""
        return self.s3(READ_KEY, READ_SECRET)

    def s3(self, key: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address,
        }


def runs(group: int) -> bool:
    """Return whether a process has not ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(group, os.WNOHANG)
    try:
        os.kill(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(groups: Sequence[int]) -> None:
    """Kill process groups: what they hold is thrown away."""
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


PYTHON = sys.executable
