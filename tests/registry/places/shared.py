"""Servers that all workers of a test run share: each is started once, when a test first needs it.

`begin` is called in the process that starts the workers. They inherit its variable, take turns by
locks in its folder, and every server ends with that process.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from tests.registry.places.servers import SERVERS
from tests.registry.places.store import LoopbackServer, StoreServer, stop

FOLDER = "MODPKG_TEST_PLACES"
Kind = TypeVar("Kind", bound=LoopbackServer)


class SharedServers:
    """Gives running servers, which other tests may use or have used."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __call__(self, name: str) -> StoreServer:
        """Return the object store of a name."""
        return self.of(SERVERS[name])

    def of(self, kind: type[Kind]) -> Kind:
        """Return the server of a kind."""
        state, folder = self._root / f"{kind.name}.json", self._root / kind.name
        with FileLock(self._root / f"{kind.name}.lock"):
            running = kind(json.loads(state.read_text())["port"] if state.exists() else 0)
            running.folder = folder
            if state.exists():
                return running
            folder.mkdir()
            groups = running.start(folder, _owner(self._root))
            state.write_text(json.dumps({"port": running.port, "groups": groups}))
            try:
                running.await_answer(folder, groups)
                running.fill()
            except BaseException:  # the next test that needs it begins anew
                _stop(state)
                raise
            return running


def begin() -> None:
    """Choose the folder of this test run, unless whoever started this process has."""
    name = f"modpkg-places-{os.getpid()}-{secrets.token_hex(4)}"
    os.environ.setdefault(FOLDER, str(Path(tempfile.gettempdir(), name)))


def _owner(root: Path) -> int:
    """Return the process that has chosen a folder."""
    return int(root.name.split("-")[2])


def end() -> None:
    """Remove the folder, in the process that has begun, and stop what may still run there."""
    root = Path(os.environ.get(FOLDER, "--0"))
    if _owner(root) == os.getpid():
        _stop_all(root)
        shutil.rmtree(root, ignore_errors=True)
        del os.environ[FOLDER]


@contextmanager
def servers() -> Iterator[SharedServers]:
    """Give servers that run until nobody is in such a block.

    Then all are stopped: some use the processor while idle.
    """
    begin()
    root = Path(os.environ[FOLDER])
    root.mkdir(mode=0o700, exist_ok=True)
    users, lock = root / "users", FileLock(root / "users.lock")

    def count(change: int) -> int:
        number = (int(users.read_text()) if users.exists() else 0) + change
        users.write_text(str(number))
        return number

    with lock:
        count(1)
    try:
        yield SharedServers(root)
    finally:
        with lock:
            if count(-1) == 0:
                _stop_all(root)


def _stop_all(root: Path) -> None:
    for state in root.glob("*.json"):
        _stop(state)


def _stop(state: Path) -> None:
    """Stop a server that was started, by the file that says how it is reached."""
    stop(json.loads(state.read_text())["groups"])
    state.unlink()
    shutil.rmtree(state.with_suffix(""), ignore_errors=True)
