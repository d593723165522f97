"""Another system, in this process: functions are taken away, and what it refuses is refused."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import sys
from pathlib import Path
from typing import Any

from modpkg.core import system

_READLINK = os.readlink
_LACKS = {
    "windows": (
        *("pread", "preadv", "pwrite", "pwritev", "posix_fallocate", "posix_fadvise", "sync"),
        *("copy_file_range", "sched_getaffinity", "killpg", "fchmod", "fchown", "symlink"),
        *("readlink", "geteuid", "getegid", "getuid", "getgid", "fork", "forkpty", "mkfifo"),
    ),
    "macos": ("preadv", "posix_fallocate", "posix_fadvise", "copy_file_range", "sched_getaffinity"),
}
_UNUSUAL = frozenset('<>"|?*:')


def become(name: str) -> None:
    """Turn this process into one on "windows" or "macos"; there is no way back.

    Windows has no `fcntl` either. It renames and removes no file that is open or mapped, nor one
    without a bit to write, renames nothing over a folder, opens no folder, and has fewer names.
    """
    for function in _LACKS[name]:
        if hasattr(os, function):
            delattr(os, function)
    if name == "macos":
        import fcntl

        for constant in ("F_OFD_SETLK", "F_OFD_SETLKW"):
            if hasattr(fcntl, constant):
                delattr(fcntl, constant)
        return
    sys.modules["fcntl"] = None  # type: ignore[assignment]
    import shutil

    shutil._use_fd_functions = False  # type: ignore[attr-defined]
    system.WINDOWS = True
    system._PATIENCE = (0.001, 0.001)
    for function in ("SIGALRM", "setitimer"):
        if hasattr(signal, function):
            delattr(signal, function)
    sys.addaudithook(_refuse)


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.rename":
        source, target = (os.fspath(path) for path in arguments[:2])
        if Path(target).is_dir():
            raise PermissionError(13, "Access is denied", target)
        for path in (source, target):
            _check_closed(path)
        _check_writable(target)
        _check_name(target)
    elif event == "os.remove":
        path = os.fspath(arguments[0])
        _check_closed(path)
        _check_writable(path)
    elif event == "open" and isinstance(arguments[0], str | os.PathLike):
        path, _, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            _check_name(os.fspath(path))
        elif isinstance(path, str | Path) and not str(path).startswith(("/proc", "/sys", "/dev/n")):
            with contextlib.suppress(OSError):
                if stat.S_ISDIR(os.stat(path).st_mode):
                    raise PermissionError(13, "Permission denied", path)
    elif event == "os.mkdir":
        _check_name(os.fspath(arguments[0]))
    elif event in ("os.chmod", "os.symlink"):
        raise AssertionError(f"{event} {arguments}")


def _check_name(path: str) -> None:
    name = Path(path).name
    if _UNUSUAL & set(name) or name != name.rstrip(" ."):
        raise OSError(22, "Invalid argument", path)


def _check_writable(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not os.lstat(path).st_mode & stat.S_IWUSR:
            raise PermissionError(13, "Access is denied", path)


def _check_closed(path: str) -> None:
    """Raise as Windows does, if this process has the file, or a file in the folder, open."""
    absolute = str(Path(path).absolute())
    try:
        status = os.lstat(absolute)
    except FileNotFoundError:
        return
    places = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            opened = os.fstat(int(number))
            if os.path.samestat(opened, status) and not stat.S_ISDIR(status.st_mode):
                raise _InUse(path)
            if not stat.S_ISDIR(opened.st_mode):
                places.add(_READLINK(f"/proc/self/fd/{number}"))
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as maps:
        for line in maps:
            parts = line.split(maxsplit=5)
            if len(parts) == 6 and parts[4] != "0":
                if int(parts[4]) == status.st_ino and parts[3] == _device(status.st_dev):
                    raise _InUse(path)
                places.add(parts[5].rstrip("\n"))
    if stat.S_ISDIR(status.st_mode) and any(p.startswith(f"{absolute}/") for p in places):
        raise _InUse(path)


def _device(number: int) -> str:
    return f"{os.major(number):02x}:{os.minor(number):02x}"


class _InUse(PermissionError):
    winerror = 32

    def __init__(self, path: str) -> None:
        super().__init__(13, "The process cannot access the file because it is in use", path)
