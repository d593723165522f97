"""The locks that Linux, macOS and Windows have, for `modpkg.core.file_lock`."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Lock = Callable[[int, bool, bool], None]
"""Locks a descriptor, exclusively or not, waiting or not."""


def descriptor_locks() -> tuple[Lock, ...]:
    """Return the kinds of locks that this system has, the preferred one first; none on Windows."""
    try:
        import fcntl  # noqa: F401
    except ImportError:
        return ()
    return _flock, _open_file_lock


def _flock(descriptor: int, exclusive: bool, wait: bool) -> None:
    import fcntl

    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)


def _open_file_lock(descriptor: int, exclusive: bool, wait: bool) -> None:
    """Lock as POSIX does, but for the open file and not for the whole process."""
    import fcntl

    if not hasattr(fcntl, "F_OFD_SETLK"):  # macOS
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    fcntl.fcntl(descriptor, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


class _SharedLock:
    """A lock file, and how many in this process share it while the process holds it."""

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.holders = 0
        self.lock: Any = None


_shared: dict[str, _SharedLock] = {}


@contextlib.contextmanager
def lock_by_file(
    path: Path, exclusive: bool, waiting: Callable[[], None] | None, patience: float
) -> Iterator[None]:
    """Hold a lock where descriptors have none: only one process at a time can.

    Within the process a shared lock is shared, by all threads.
    """
    from filelock import FileLock, Timeout

    def acquire() -> Any:
        lock = FileLock(path, thread_local=False)
        try:
            lock.acquire(timeout=-1 if waiting is None else patience)
        except Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
        return lock

    if exclusive:
        lock = acquire()
        try:
            yield
        finally:
            lock.release()
        return
    shared = _shared.setdefault(str(path.absolute()), _SharedLock())
    with shared.turn:
        if not shared.holders:
            shared.lock = acquire()
        shared.holders += 1
    try:
        yield
    finally:
        with shared.turn:
            shared.holders -= 1
            if not shared.holders:
                shared.lock.release()
