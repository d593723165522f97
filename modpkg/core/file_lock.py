"""A lock file that many processes share, or one holds exclusively.

Some file systems have no `flock` (they answer ENOSYS, ENOLCK or EOPNOTSUPP), and some grant it to
everybody. A granted lock is therefore tried once more from the side; where it does not hold, the
locks of POSIX that belong to an open file are used, and if these do not hold either, nothing is
done without a lock.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modpkg.core.errors import InstallError

try:
    import fcntl

    _SHARED = True
except ImportError:  # Windows, where every lock is exclusive
    _SHARED = False

_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
_ABSENT = (
    *(errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL),
    *(errno.EPERM, errno.ENOTTY),
)
_PATIENCE = 0.5
"""Seconds after which a wait is announced."""

_Lock = Callable[[int, bool, bool], None]
"""Locks a descriptor, exclusively or not, waiting or not."""


@contextlib.contextmanager
def file_lock(
    path: Path,
    *,
    exclusive: bool = False,
    mode: int = 0o666,
    waiting: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Wait for the lock ``path`` and hold it, shared with others or exclusively.

    The operating system releases it when the process ends, however it ends. A new lock file gets
    ``mode``; ``waiting`` is called once if the lock is not free within half a second.

    Raises:
        InstallError: Locks do not work in the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not _SHARED:
        with _windows_lock(path, waiting):
            yield
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
    try:
        if mode != 0o666:  # shared between users, whatever the umask
            with contextlib.suppress(PermissionError):
                os.fchmod(descriptor, mode)
        _acquire(path, descriptor, exclusive, waiting)
        yield
    finally:
        os.close(descriptor)


def _acquire(
    path: Path, descriptor: int, exclusive: bool, waiting: Callable[[], None] | None
) -> None:
    reason = ""
    for lock in (_flock, _open_file_lock):
        try:
            _take(lock, descriptor, exclusive, waiting)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            reason = error.strerror or str(error)
            continue
        if _holds(lock, path, descriptor):
            return
        reason = "they are granted to everybody"
    raise InstallError("M509", folder=path.parent, reason=reason)


def _take(
    lock: _Lock, descriptor: int, exclusive: bool, waiting: Callable[[], None] | None
) -> None:
    if waiting is None:
        lock(descriptor, exclusive, True)
        return
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            lock(descriptor, exclusive, False)
        except OSError as error:
            if error.errno not in _HELD:
                raise
        else:
            return
        if time.monotonic() >= until:
            waiting()
            lock(descriptor, exclusive, True)
            return
        time.sleep(0.02)


def _holds(lock: _Lock, path: Path, descriptor: int) -> bool:
    """Return whether a second, exclusive lock is refused while this process has one."""
    try:
        other = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:  # whoever finished first has removed it
        return True
    try:
        if not os.path.samestat(os.fstat(other), os.fstat(descriptor)):
            return True
        lock(other, True, False)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return True
    finally:
        os.close(other)
    return False


def _flock(descriptor: int, exclusive: bool, wait: bool) -> None:
    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    fcntl.flock(descriptor, operation if wait else operation | fcntl.LOCK_NB)


def _open_file_lock(descriptor: int, exclusive: bool, wait: bool) -> None:
    """Lock as POSIX does, but for the open file and not for the whole process."""
    if not hasattr(fcntl, "F_OFD_SETLK"):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    command = fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK
    kind = fcntl.F_WRLCK if exclusive else fcntl.F_RDLCK
    fcntl.fcntl(descriptor, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0))


@contextlib.contextmanager
def _windows_lock(path: Path, waiting: Callable[[], None] | None) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(path, is_singleton=True)  # who holds it may take it again
    try:
        lock.acquire(timeout=-1 if waiting is None else _PATIENCE)
    except Timeout:
        if waiting is not None:
            waiting()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
