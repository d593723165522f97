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
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from modpkg.core.errors import InstallError
from modpkg.core.files import denied, make_folder
from modpkg.core.regular_file import IrregularFile
from modpkg.core.system import (
    read_descriptor,
    set_descriptor_mode,
    update_descriptor,
)
from modpkg.core.system_folders import hold_folder
from modpkg.core.system_locks import Lock, descriptor_locks, lock_by_file

_HELD = (errno.EACCES, errno.EAGAIN, errno.EWOULDBLOCK)
_ABSENT = (
    *(errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL),
    *(errno.EPERM, errno.ENOTTY),
)
_PATIENCE = 0.5
"""Seconds after which a wait is announced."""


@contextlib.contextmanager
def file_lock(
    path: Path,
    *,
    exclusive: bool = False,
    mode: int = 0o666,
    waiting: Callable[[], None] | None = None,
    within: Path | None = None,
) -> Iterator[None]:
    """Wait for the lock ``path`` and hold it, shared with others or exclusively.

    The operating system releases it when the process ends, however it ends. A new lock file gets
    ``mode``; ``waiting`` is called once if the lock is not free within half a second. Where nothing
    may be written, a shared lock is that of the file that is there, or none. ``within`` is that of
    `modpkg.core.system_folders.hold_folder`.

    Raises:
        InstallError: Locks do not work in the folder, or it cannot be written.
    """
    try:
        make_folder(path.parent, within=within)
    except OSError as error:
        raise denied(error) or error from None
    if not descriptor_locks():
        with lock_by_file(path, exclusive, waiting, _PATIENCE):
            yield
        return
    try:
        with hold_folder(path.parent, within=within) as folder:
            descriptor = folder.open_to_update(path.name, mode)
    except IrregularFile:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise IrregularFile(path, "a link") from None
        if (refusal := denied(error)) is None:
            raise
        if exclusive:
            raise refusal from None
        with _lock_to_read(path):
            yield
        return
    try:
        if mode != 0o666:  # shared between users, whatever the umask
            set_descriptor_mode(descriptor, mode)
        _acquire(path, descriptor, exclusive, waiting)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _lock_to_read(path: Path) -> Iterator[None]:
    """Hold a lock shared whose file this user cannot write, if there is one."""
    try:
        descriptor = read_descriptor(path)
    except OSError:
        yield
        return
    try:
        with contextlib.suppress(OSError):  # nobody can hold it where locks do not work
            descriptor_locks()[0](descriptor, False, True)
        yield
    finally:
        os.close(descriptor)


def _acquire(
    path: Path, descriptor: int, exclusive: bool, waiting: Callable[[], None] | None
) -> None:
    reason = ""
    for lock in descriptor_locks():
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


def _take(lock: Lock, descriptor: int, exclusive: bool, waiting: Callable[[], None] | None) -> None:
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


def _holds(lock: Lock, path: Path, descriptor: int) -> bool:
    """Return whether a second, exclusive lock is refused while this process has one."""
    try:
        other = update_descriptor(path, create=False)
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
