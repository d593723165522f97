"""A process that has imported torch and transformers, and forks a new process per command.

A test that runs ``python -m modpkg`` needs a process: its own state, exit status and signals. It
does not need the seconds that importing torch takes, a thousand times per test run. `start` runs
``python -m tests.forkserver FOLDER`` once per test run. That server only imports: it starts no
thread and computes nothing, so a process forked from it is as good as a fresh one. What a fresh one
imports is checked in `tests/test_rooms.py`; `examples/demo.sh` starts real ones.

`python` is the server as an executable, for code that starts Python itself: it takes ``-m module``,
``-c code`` or a script, and lives exactly as long as the forked process does. Where there is no
server, it is plain Python.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from tests.forkclient import ADDRESS, INTERPRETER, LARGEST, connect

ROOT = Path(__file__).parents[1]
_CLIENT = str(ROOT / "tests" / "forkclient.py")
AVAILABLE = sys.platform == "linux"
"""The libraries of other systems do not all survive a fork."""
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
    *command: str,
    cwd: Path | None = None,
    env: Mapping[str, str] = os.environ,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Run ``python command``, such as ``-m modpkg list``, with an empty standard input.

    Raises:
        subprocess.TimeoutExpired: The process did not end in time; it was killed.
    """
    if not AVAILABLE:
        return subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
        )
    start()
    reached = {name: os.environ[name] for name in (ADDRESS, INTERPRETER)}
    with (
        open(os.devnull, "rb") as nothing,
        open(os.memfd_create("out"), "r+b") as out,
        open(os.memfd_create("err"), "r+b") as err,
        connect(
            reached[ADDRESS],
            command,
            str((cwd or Path.cwd()).absolute()),
            {**env, **reached},
            (nothing.fileno(), out.fileno(), err.fileno()),
        ) as process,
    ):
        process.settimeout(timeout)
        try:
            status = int(process.recv(LARGEST))
        except TimeoutError:
            raise subprocess.TimeoutExpired(command, timeout) from None
        return subprocess.CompletedProcess(command, status, _text(out), _text(err))


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode()
    return text.replace("\r\n", "\n").replace("\r", "\n")


def python() -> str:
    """Return the path of an executable that finds its server through the environment."""
    if not AVAILABLE:
        return sys.executable
    start()
    return _CLIENT


def start() -> None:
    """Start the server, unless this process or the one that started it has; do not wait for it.

    Requests that come while it imports are answered after that.
    """
    if not AVAILABLE or ADDRESS in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="modpkg-tests-", dir="/tmp")
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.forkserver", folder],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    atexit.register(server.communicate)  # closes its standard input, which ends it
    assert server.stdout is not None
    if not server.stdout.readline():
        raise RuntimeError("tests/forkserver.py did not start")
    os.environ[ADDRESS] = f"{folder}/socket"
    os.environ[INTERPRETER] = sys.executable


class _Server:
    """Forks a process for each connection, and kills it when that is closed first."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(0, selectors.EVENT_READ, self._stop)
        self._children: dict[int, socket.socket] = {}
        self._stopped = False

    def serve(self) -> dict[str, Any] | None:
        """Answer requests; return the request in a forked process, and None in the end."""
        while not self._stopped:
            for key, _ in self._selector.select():
                if (request := key.data()) is not None:
                    return request  # type: ignore[no-any-return]
        return None

    def _stop(self) -> None:
        self._stopped = True

    def _accept(self) -> dict[str, Any] | None:
        connection, _ = self._listener.accept()
        message, descriptors, _, _ = socket.recv_fds(connection, LARGEST, 3)
        if len(descriptors) < 3:
            connection.close()
            return None
        child = os.fork()
        if child == 0:
            for other in (self._selector, self._listener, connection, *self._children.values()):
                other.close()
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
                os.close(descriptor)
            request: dict[str, Any] = json.loads(message)
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        self._children[child] = connection
        ended = os.pidfd_open(child)

        def gone() -> None:
            if child in self._children:  # it may have ended at the same time
                self._selector.unregister(connection)
                os.kill(child, signal.SIGKILL)

        def over() -> None:
            self._selector.unregister(ended)
            os.close(ended)
            _, status = os.waitpid(child, 0)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.send(str(os.waitstatus_to_exitcode(status)).encode())
            connection.close()
            del self._children[child]

        self._selector.register(ended, selectors.EVENT_READ, over)
        self._selector.register(connection, selectors.EVENT_READ, gone)
        return None


def _execute(request: dict[str, Any]) -> int:
    """Run what was requested, and return its exit status."""
    kind, *arguments = request["command"]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    # A process that is started from here may be forked too.
    sys.executable = _CLIENT
    # One thread: the tests of the other workers need the other cores.
    torch = importlib.import_module("torch")
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    try:
        if kind == "-m":
            sys.path[0] = request["cwd"]
            sys.argv[1:] = arguments[1:]
            runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.path[0] = ""
            sys.argv[:] = ["-c", *arguments[1:]]
            exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})
        else:
            sys.path[0] = str(Path(kind).resolve().parent)
            sys.argv[:] = [kind, *arguments]
            runpy.run_path(kind, run_name="__main__")
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
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(status & 0xFF)


def _use_huge_pages() -> None:
    """Put this process's memory into huge pages, of which a fork copies far fewer entries."""
    huge, collapse = 1 << 21, 25
    madvise = ctypes.CDLL(None).madvise
    madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    for line in Path("/proc/self/maps").read_text().splitlines():
        area, access, _, _, inode = line.split(maxsplit=5)[:5]
        start, end = (int(place, 16) for place in area.split("-"))
        start, end = -(-start // huge) * huge, end // huge * huge
        if access == "rw-p" and inode == "0" and start < end:
            madvise(start, end - start, collapse)  # where the system can


def main() -> None:
    """Import, serve, and in each forked process run what was requested."""
    folder = sys.argv[1]
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(f"{folder}/socket")
    listener.listen()
    print("ready", flush=True)
    for name in IMPORTS:
        importlib.import_module(name)
    package = importlib.import_module("modpkg")
    for found in pkgutil.walk_packages(package.__path__, "modpkg."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
    gc.collect()
    gc.freeze()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # the end of a forked process frees what torch registered
    _use_huge_pages()
    request = _Server(listener).serve()
    if request is not None:
        _end(_execute(request))
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
