"""What differs between Linux, macOS and Windows; only this file and its like ask where they run.

Locks are in `modpkg.core.system_locks`, open folders in `modpkg.core.system_folders`.

What Python lacks on a system is looked for, not concluded from the system's name. What Python has
everywhere but the system refuses (renaming an open file, flushing a folder) follows `WINDOWS`. Both
are looked at when they are needed, so that tests can take functions away.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shlex
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote

WINDOWS = os.name == "nt"

_TURNS = [threading.Lock() for _ in range(16)]
"""By descriptor: an open file has one position, which two threads must not move."""


def open_descriptor(
    path: Path | str, flags: int, mode: int = 0o644, *, within: int | None = None
) -> int:
    """Return a descriptor for bytes: Windows would translate line ends without asking.

    The path may be relative to the open folder ``within``, where the system has these.
    """
    return os.open(path, flags | getattr(os, "O_BINARY", 0), mode, dir_fd=within)


_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
"""A pipe is opened without a writer, and no terminal becomes the process's own."""


def read_descriptor(path: Path | str, *, follow: bool = True) -> int:
    """Return a descriptor of a file that is only read; opening it never waits.

    Without ``follow`` the path itself must not be a link, where the system can tell.
    """
    return open_descriptor(path, os.O_RDONLY | _NO_WAIT | (0 if follow else _NO_LINK))


def set_waiting(descriptor: int) -> None:
    """Let reading wait for an archive that is to fetch a file first, as opening must not."""
    if _NO_WAIT:
        os.set_blocking(descriptor, True)


def update_descriptor(
    path: Path | str, mode: int = 0o644, *, create: bool = True, within: int | None = None
) -> int:
    """Return a descriptor of a file that is read and written, and created if it is missing.

    A link is not followed: it could make the file anywhere. The path may be relative to the open
    folder ``within``.
    """
    flags = os.O_RDWR | _NO_WAIT | _NO_LINK
    return open_descriptor(path, flags | (os.O_CREAT if create else 0), mode, within=within)


def append_descriptor(path: Path | str) -> int:
    """Return a descriptor of a file that grows at its end, and is created if it is missing.

    A link is not followed.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_WAIT | _NO_LINK
    return open_descriptor(path, flags)


def read_at(file: int, view: memoryview, position: int) -> int:
    """Read bytes at a position into ``view``; return how many, 0 at the end of the file."""
    if hasattr(os, "preadv"):
        return os.preadv(file, [view], position)
    data = _pread(file, len(view), position)
    view[: len(data)] = data
    return len(data)


def write_at(file: int, data: memoryview | bytes, position: int) -> None:
    """Write all bytes at a position."""
    view = memoryview(data)
    while view:
        count = _pwrite(file, view, position)
        view, position = view[count:], position + count


def _pread(file: int, length: int, position: int) -> bytes:
    if hasattr(os, "pread"):
        return os.pread(file, length, position)
    with _TURNS[file % len(_TURNS)]:
        os.lseek(file, position, os.SEEK_SET)
        return os.read(file, length)


def _pwrite(file: int, view: memoryview, position: int) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(file, view, position)
    with _TURNS[file % len(_TURNS)]:
        os.lseek(file, position, os.SEEK_SET)
        return os.write(file, view)


_FICLONE = 0x40049409
"""Linux's request to share a whole file's blocks."""


def share_blocks(source: int, target: int) -> bool:
    """Make an open file share all blocks of another; return whether the file system can."""
    try:
        import fcntl

        fcntl.ioctl(target, _FICLONE, source)
    except (ImportError, OSError):  # another file system, or one without reflinks
        return False
    return True


def copy_range(source: int, offset: int, target: int, position: int, length: int) -> int:
    """Copy bytes from one open file to another, and return how many there were.

    The kernel copies, and shares blocks where it can; otherwise they are read and written.
    """
    left = length
    while left and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, left, offset, position)
        except OSError as error:
            if is_disk_full(error):
                raise
            break
        if not count:
            return length - left
        left, offset, position = left - count, offset + count, position + count
    while left:
        data = _pread(source, min(left, 1 << 20), offset)
        if not data:
            break
        write_at(target, data, position)
        left, offset, position = left - len(data), offset + len(data), position + len(data)
    return length - left


def reserve(file: int, length: int) -> None:
    """Set the length of an open file and allocate its disk space.

    A write through a memory map could not report a full disk.
    """
    begun = os.fstat(file).st_size
    if begun > length:
        os.ftruncate(file, length)
    if hasattr(os, "posix_fallocate"):
        if length:
            os.posix_fallocate(file, 0, length)
        return
    zeros = bytes(1 << 20)
    for start in range(begun, length, len(zeros)):
        write_at(file, zeros[: length - start], start)


def is_disk_full(error: OSError) -> bool:
    """Return whether there was no space left, on the disk or in the user's quota."""
    return error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))


def is_failure(error: OSError) -> bool:
    """Return whether an error is the system's, and says nothing about what the path leads to."""
    return error.errno in _FAILURES


_FAILURES = (
    *(errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE),
    *(getattr(errno, name) for name in ("EREMOTEIO", "ESTALE") if hasattr(errno, name)),
)

_PATIENCE = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts at a file that a virus scanner or an indexer may have open."""


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder, atomically; a file replaces another.

    Windows refuses while a program has one of them open. It is tried again for a moment there.
    """
    _patiently(lambda: source.replace(target))


def remove_file(path: Path) -> bool:
    """Remove a file, if it exists; return whether it is gone.

    Windows keeps a file that a program has open: it is left to whoever tidies up next.
    """
    try:
        _patiently(lambda: path.unlink(missing_ok=True))
    except PermissionError:
        if not WINDOWS:
            raise
        return False
    return True


def _patiently(act: Callable[[], object]) -> None:
    for pause in _PATIENCE if WINDOWS else ():
        with contextlib.suppress(PermissionError):
            act()
            return
        time.sleep(pause)
    act()


def set_mode(path: Path, mode: int) -> None:
    """Set the permissions of a file or folder.

    Not on Windows: all that it has is an attribute that forbids to replace and remove the file.
    """
    if not WINDOWS:
        path.chmod(mode)


def set_descriptor_mode(file: int, mode: int) -> None:
    """Set the permissions of an open file or folder, where it can be done; see `set_mode`."""
    if hasattr(os, "fchmod") and not WINDOWS:
        with contextlib.suppress(PermissionError):  # another user's
            os.fchmod(file, mode)


def set_descriptor_times(file: int, status: os.stat_result) -> None:
    """Give an open file the times of another, where the system can."""
    if os.utime in os.supports_fd:
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def others_can_read(mode: int) -> bool:
    """Return whether a file's mode lets other users read it; Windows has no such modes."""
    return not WINDOWS and bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def is_of_another_user(status: os.stat_result) -> bool:
    """Return whether a file belongs to another user; on Windows that is not known."""
    return hasattr(os, "geteuid") and status.st_uid != os.geteuid()


def is_of_trusted_user(status: os.stat_result) -> bool:
    """Return whether a file belongs to this user, to the administrator, or to who called sudo."""
    if not hasattr(os, "geteuid"):
        return True
    caller = os.environ.get("SUDO_UID") if os.geteuid() == 0 else None
    return status.st_uid in (os.geteuid(), 0) or str(status.st_uid) == caller


def is_shared_with_group(status: os.stat_result) -> bool:
    """Return whether a file's owner lets a group of this user change it."""
    if not hasattr(os, "getgroups") or not status.st_mode & stat.S_IWGRP:
        return False
    return status.st_gid in (os.getegid(), *os.getgroups())


def everybody_can_write(mode: int) -> bool:
    """Return whether every user may change a file or folder, and remove what others put there."""
    return not WINDOWS and bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def user_name(number: int) -> str:
    """Return how a user is called, or the number."""
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"the user {number}"


def sync_file(path: Path) -> None:
    """Make the bytes of a complete file survive a power cut, where the system can."""
    if WINDOWS:  # which flushes only what is open for writing
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the system can."""
    if WINDOWS:  # which opens no folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_pointer(path: Path, target: str) -> None:
    """Make a new pointer to ``target``, a relative path with slashes.

    It is a symbolic link, or a file with the path as its text where there are no links. Windows has
    them for some users, and renames none over another.
    """
    if not WINDOWS and hasattr(os, "symlink"):
        with contextlib.suppress(NotImplementedError, PermissionError):  # as on FAT
            path.symlink_to(target)
            return
    with open(path, "x", encoding="utf-8", newline="\n") as file:
        file.write(target)
        file.flush()
        os.fsync(file.fileno())


_LONGEST_POINTER = 4096


def read_pointer(path: Path) -> str | None:
    """Return the ``target`` that `make_pointer` wrote; None if there is no pointer.

    Raises:
        OSError: The disk does not give it.
    """
    try:
        return os.readlink(path)  # noqa: PTH115 - Path.readlink needs it too, to exist
    except (FileNotFoundError, NotADirectoryError):
        return None
    except AttributeError:  # a system without links
        pass
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file
            raise
    try:
        descriptor = read_descriptor(path)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return os.read(descriptor, _LONGEST_POINTER).decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    finally:
        os.close(descriptor)


def hard_link(source: Path, target: Path | str, *, within: int | None = None) -> bool:
    """Make ``target`` another name of a file; return whether the file system can.

    A symbolic link gets no other name: what it leads to can be changed. ``target`` may be relative
    to the open folder ``within``.
    """
    try:
        if source.is_symlink():
            return False
        if within is None:
            os.link(source, target)
        else:
            os.link(source, target, dst_dir_fd=within, follow_symlinks=False)
    except (OSError, NotImplementedError):
        return False
    return True


def symbolic_link(path: Path, target: Path) -> bool:
    """Make ``path`` a symbolic link to a file; return whether the system has them."""
    try:
        path.symlink_to(target.resolve())
    except (OSError, NotImplementedError):
        return False
    return True


def is_in_use(error: OSError) -> bool:
    """Return whether Windows refused because a program has the file open."""
    return getattr(error, "winerror", None) in (32, 33, 1224)  # shared, locked, or mapped


def path_of_url(path: str) -> Path:
    """Return the path that a ``file`` URL's path stands for: ``/C:/models`` has a drive."""
    text = unquote(path)
    return Path(text[1:] if WINDOWS and text[2:3] == ":" else text)


def is_too_long(path: str) -> bool:
    """Return whether Windows finds no such path unless long paths are turned on."""
    return WINDOWS and len(path) >= 248


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def may_have_gpu() -> bool:
    """Return whether there is a driver of NVIDIA's, which takes no time to see.

    Only torch can say whether the GPU can be used; importing it takes seconds.
    """
    if WINDOWS:
        return Path(os.environ.get("SYSTEMROOT", ""), "System32", "nvcuda.dll").exists()
    return any(Path("/dev", name).exists() for name in ("nvidiactl", "dxg"))


def shell_command(text: str) -> list[str]:
    """Return the arguments that run a line in the system's shell."""
    if WINDOWS:
        return [os.environ.get("COMSPEC", r"C:\Windows\System32\cmd.exe"), "/c", text]
    return ["/bin/sh", "-c", text]


def shell_word(text: str) -> str:
    """Return a word as it is typed in the system's shell.

    >>> shell_word("my model")
    "'my model'"
    """
    return subprocess.list2cmdline([text]) if WINDOWS else shlex.quote(text)


def prepare_console() -> None:
    r"""Let standard output take any text: what its encoding lacks is written as ``\u4f60``.

    Windows writes cp1252 or cp437 into pipes and files, and a name of a file need not be text.
    """
    for name in ("stdout", "stderr"):  # None where it was closed
        stream = getattr(sys, name) or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def silence_output() -> None:
    """Send what is still to be printed nowhere: nobody reads standard output any more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
