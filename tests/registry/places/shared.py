"""Servers that all workers of a test run share: each is started once, when a test first needs it.

`begin` is called in the process that starts the workers. They inherit its variable, take turns by
locks in its folder, and every server ends with that process.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from tests.registry.places.servers import SERVERS
from tests.registry.places.store import StoreServer, stop

FOLDER = "MODPKG_TEST_PLACES"


def begin() -> None:
    """Make the folder of this test run, unless whoever started this process has."""
    if FOLDER not in os.environ:
        root = tempfile.mkdtemp(prefix="modpkg-places-")
        Path(root, "owner").write_text(str(os.getpid()))
        os.environ[FOLDER] = root


def end() -> None:
    """Stop what was started, in the process that has begun."""
    root = Path(os.environ.get(FOLDER, os.devnull))
    if not root.is_dir() or (root / "owner").read_text() != str(os.getpid()):
        return
    for state in root.glob("*.json"):
        stop(json.loads(state.read_text())["groups"])
    shutil.rmtree(root, ignore_errors=True)
    del os.environ[FOLDER]


def server(name: str) -> StoreServer:
    """Return a running server with an empty bucket, or one that other tests have used."""
    begin()
    root = Path(os.environ[FOLDER])
    state = root / f"{name}.json"
    with FileLock(root / f"{name}.lock"):
        if state.exists():
            return SERVERS[name](json.loads(state.read_text())["port"])
        running = SERVERS[name]()
        folder = root / name
        folder.mkdir()
        groups = running.start(folder, int((root / "owner").read_text()))
        state.write_text(json.dumps({"port": running.port, "groups": groups}))
        running.await_answer(folder, groups)
        running.fill()
        return running
