"""Taking turns: a file that many processes hold at once, or one alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl

    _TOGETHER = True
except ImportError:  # Windows, where all take turns
    _TOGETHER = False


@contextlib.contextmanager
def held(path: Path, *, alone: bool = False) -> Iterator[None]:
    """Hold ``path``: together with others, or ``alone``, when nobody else does. Waits for it.

    The system lets go of it when the process ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _TOGETHER:
        from filelock import FileLock

        with FileLock(path, is_singleton=True):  # who holds it may take it again
            yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
