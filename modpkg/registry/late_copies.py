"""Copies that are written once nothing is being fetched any more.

Each step of a write gives way to all threads that fetch, and a file takes several times as long
then. What is written here is verified whenever it is read, and fetched again if it is lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from modpkg.core import bounds
from modpkg.core.errors import InstallError
from modpkg.core.files import write_atomically


class _Copy(Struct, frozen=True):
    """What was fetched, and when."""

    data: bytes
    at: float
    """Seconds since 1970."""


class _Waiting:
    """Copies that are not written yet."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin with none, as a forked process does."""
        self.lock = threading.Lock()
        self.fetching = 0
        """How many pools fetch."""
        self.files: dict[Path, _Copy] = {}
        self.bytes = 0

    def take(self) -> dict[Path, _Copy]:
        """Return the copies, which wait no more."""
        files, self.files, self.bytes = self.files, {}, 0
        return files


_waiting = _Waiting()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waiting.forget)


def keep_copy(path: Path, data: bytes) -> None:
    """Write a copy, or let it wait until nothing is being fetched."""
    with _waiting.lock:
        if (known := _waiting.files.pop(path, None)) is not None:
            _waiting.bytes -= len(known.data)
        if _waiting.fetching and _waiting.bytes + len(data) <= bounds.LATE_COPIES_BYTES:
            _waiting.files[path] = _Copy(data, time.time())
            _waiting.bytes += len(data)
            return
    _write(path, data)


def waiting_copy(path: Path) -> bytes | None:
    """Return a copy that is not written yet; None if there is none."""
    with _waiting.lock:
        copy = _waiting.files.get(path)
    return None if copy is None else copy.data


@contextlib.contextmanager
def copies_wait() -> Iterator[None]:
    """Let copies wait meanwhile; the last one to end writes them, unless it was interrupted."""
    with _waiting.lock:
        _waiting.fetching += 1
    files: dict[Path, _Copy] = {}
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        with _waiting.lock:
            _waiting.take()
        raise
    finally:
        with _waiting.lock:
            _waiting.fetching -= 1
            if not _waiting.fetching:
                files = _waiting.take()
        for path, copy in files.items():
            if not _is_written_since(path, copy.at):
                _write(path, copy.data)


def _is_written_since(path: Path, moment: float) -> bool:
    """Return whether somebody has written a copy meanwhile, another command perhaps: it is newer.

    One of a time to come says nothing.
    """
    try:
        return moment < path.stat().st_mtime <= time.time()
    except OSError:
        return False


def _write(path: Path, data: bytes) -> None:
    with contextlib.suppress(OSError, InstallError):  # a cache that cannot be written is none
        write_atomically(path, data, flush=False)
