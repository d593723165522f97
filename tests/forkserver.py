"""A process that has imported torch and transformers, and forks a new process per command.

A test that runs ``python -m modpkg`` needs a process: its own state, exit status and signals. It
does not need the seconds that importing torch takes, a thousand times per test run. `run` starts
``python -m tests.forkserver FD`` once per pytest worker. That server only imports: it starts no
thread and computes nothing, so a process forked from it is as good as a fresh one. What a fresh one
imports is checked in `tests/test_rooms.py`; `examples/demo.sh` starts real ones.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).parents[1]
AVAILABLE = sys.platform == "linux"
"""The libraries of other systems do not all survive a fork."""
LARGEST = 1 << 17
"""Bytes of a request."""
IMPORTS = (
    "filelock",
    "rich.progress",
    "safetensors.torch",
    "sqlite3",
    "torch",
    "transformers.models.bert.modeling_bert",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mixtral.modeling_mixtral",
)
"""What commands import, besides all of modpkg."""


def run(
    module: str,
    arguments: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``python -m module arguments``, with an empty standard input.

    Raises:
        subprocess.TimeoutExpired: The process did not end in time; it was killed.
    """
    command = [sys.executable, "-m", module, *arguments]
    if not AVAILABLE:
        return subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    request = {
        "module": module,
        "arguments": list(arguments),
        "cwd": str((cwd or Path.cwd()).absolute()),
        "env": dict(env),
    }
    with open(os.memfd_create("out"), "r+b") as out, open(os.memfd_create("err"), "r+b") as err:
        try:
            status = _server().run(request, out.fileno(), err.fileno(), timeout)
        except TimeoutError:
            raise subprocess.TimeoutExpired(command, timeout) from None
        return subprocess.CompletedProcess(command, status, _text(out), _text(err))


def _text(file: Any) -> str:
    file.seek(0)
    return file.read().decode().replace("\r\n", "\n").replace("\r", "\n")


class _Client:
    """The socket to a server that this process started."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forkserver", str(theirs.fileno())],
                cwd=ROOT,
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()

    def run(self, request: dict[str, Any], out: int, err: int, timeout: float) -> int:
        """Run a command, and return its exit status as `subprocess` has it."""
        socket.send_fds(self._socket, [json.dumps(request).encode()], [out, err])
        child = int(self._socket.recv(LARGEST))
        self._socket.settimeout(timeout)
        try:
            return int(self._socket.recv(LARGEST))
        except TimeoutError:
            os.kill(child, signal.SIGKILL)
            self._socket.settimeout(None)
            self._socket.recv(LARGEST)
            raise
        finally:
            self._socket.settimeout(None)


_client: _Client | None = None


def _server() -> _Client:
    global _client
    if _client is None:
        _client = _Client()
    return _client


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Answer requests; return the request in each forked process, and None when all are done."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 2)
        if not message:
            return None
        child = os.fork()
        if child == 0:
            requests.close()
            request: dict[str, Any] = json.loads(message)
            for number, descriptor in enumerate(descriptors, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _execute(request: dict[str, Any]) -> int:
    """Run what was requested, and return its exit status."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]
    try:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> NoReturn:
    """End a forked process as Python does, but without freeing torch, which takes longer."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(status & 0xFF)


def main() -> None:
    """Import, serve, and in each forked process run what was requested."""
    requests = socket.socket(fileno=int(sys.argv[1]))
    requests.set_inheritable(False)
    for name in IMPORTS:
        importlib.import_module(name)
    package = importlib.import_module("modpkg")
    for found in pkgutil.walk_packages(package.__path__, "modpkg."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()
    if (request := _serve(requests)) is not None:
        _end(_execute(request))


if __name__ == "__main__":
    main()
