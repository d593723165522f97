"""A lock file that many processes share, or one holds exclusively."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl

    _SHARED = True
except ImportError:  # Windows, where every lock is exclusive
    _SHARED = False


@contextlib.contextmanager
def file_lock(path: Path, *, exclusive: bool = False) -> Iterator[None]:
    """Wait for the lock ``path`` and hold it, shared with others or exclusively.

    The operating system releases it when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _SHARED:
        from filelock import FileLock

        with FileLock(path, is_singleton=True):  # who holds it may take it again
            yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
