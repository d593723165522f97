"""Writing files so that a killed process or a full disk leaves nothing incomplete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from modpkg.core.digests import Digest
from modpkg.core.errors import InstallError, InvalidValue
from modpkg.core.home import home
from modpkg.core.printable import printable

TEMPORARY = ".tmp-"
"""Prefix of unfinished files and folders; nothing reads them."""


def safe_path(text: str) -> str:
    """Return a path from a release, checked to stay inside the module's folder.

    Raises:
        InvalidValue: The path is absolute, contains "..", has a drive, a backslash, a NUL, an
            empty or over-long part, or a name that Windows reserves.
    """
    reason = None
    parts = text.split("/")
    if not text or len(text.encode("utf-8", "replace")) > 512:
        reason = "it is empty or longer than 512 bytes"
    elif text.startswith("/") or ":" in text:
        reason = "it is absolute or has a ':'"
    elif "\\" in text or "\n" in text or "\t" in text or printable(text) != text:
        reason = "it has a backslash or an invisible character"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "it has an empty part, '.' or '..'"
    elif any(part.startswith(".") for part in parts):
        reason = "a part of it is hidden, and some tools run what a hidden file says"
    elif any(
        part != part.rstrip(" .") or part.split(".")[0].rstrip(" ").upper() in _RESERVED
        for part in parts
    ):
        reason = "a part of it is not a portable file name"
    if reason is not None:
        raise InvalidValue("M105", path=text, reason=reason)
    return text


_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    "CONIN$",
    "CONOUT$",
    *(f"{name}{digit}" for name in ("COM", "LPT") for digit in "123456789\u00b9\u00b2\u00b3"),
}


def temporary_sibling(path: Path) -> Path:
    """Return an unused name beside ``path``, on the same file system."""
    return path.parent / f"{TEMPORARY}{path.name[:40]}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into `InstallError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from None
        raise


def denied(error: OSError) -> InstallError | None:
    """Return the error for a path that this user must not read or write; None for other errors."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    remedy = "ask its owner for access, or use a folder of your own"
    if path.is_relative_to(home()):
        remedy = "set MODPKG_HOME to a folder that you can write to"
    return InstallError("M510", path=path, reason=_reason_of(error, path), remedy=remedy)


def refusal_of(error: OSError) -> InstallError:
    """Return the error for what the operating system refused."""
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return disk_full(Path(name or ".").absolute())
    if (refusal := denied(error)) is not None:
        return refusal
    remedies = {
        errno.ENOENT: "check its spelling and the working folder, or make it first",
        errno.ENOTDIR: "name a folder, or remove the file that stands in its way",
        errno.EISDIR: "name a file in it",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ELOOP: "remove the link that leads to itself",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
    }
    remedy = remedies.get(error.errno or 0, "run the command again; --debug shows where")
    reason = (error.strerror or str(error)).lower()
    return InstallError("M510", path=name or "A file", reason=reason, remedy=remedy)


def _reason_of(error: OSError, path: Path) -> str:
    reason = (error.strerror or str(error)).lower()
    try:
        owner = _existing(path).stat().st_uid
    except OSError:  # in a folder that must not be entered
        return reason
    other = hasattr(os, "geteuid") and owner != os.geteuid()
    return f"{reason}; it belongs to another user" if other else reason


def disk_full(path: Path, needed: str = "more") -> InstallError:
    """Return the error for a full disk, with the free space of ``path``'s file system."""
    free = shutil.disk_usage(_existing(path)).free
    return InstallError("M502", path=path, needed=needed, free=human_bytes(free))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents.

    Inside a folder that is writable by its group, it is writable by the group too, whatever the
    umask, so that several users can share it.
    """
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        if folder.parent.stat().st_mode & stat.S_IWGRP:
            with contextlib.suppress(PermissionError):  # another user made it meanwhile
                folder.chmod(stat.S_IMODE(folder.stat().st_mode) | stat.S_IRWXG)


def shared_mode(folder: Path) -> int:
    """Return the mode for a file that everyone who may write to ``folder`` may change."""
    return 0o664 if folder.stat().st_mode & stat.S_IWGRP else 0o644


def write_atomically(path: Path, chunks: Iterable[bytes] | bytes, *, mode: int = 0o644) -> Digest:
    """Write a file so that it is either complete or absent, and return its digest.

    Temporary file, fsync, rename, fsync of the folder.

    Raises:
        InstallError: The disk is full; nothing is left behind.
    """
    if isinstance(chunks, bytes):
        chunks = (chunks,)
    make_folder(path.parent)
    temporary = temporary_sibling(path)
    state = hashlib.sha256()
    with disk_errors(path.parent):
        try:
            with open(temporary, "xb") as file:
                for chunk in chunks:
                    state.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    sync_folder(path.parent)
    return Digest("sha256:" + state.hexdigest())


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` survive a power cut, where the system can."""
    if os.name == "nt":  # Windows has no fsync of folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a copy of ``source``, without copying bytes where possible.

    A hard link, else a reflink (a copy that shares blocks), else an atomic copy. An existing
    ``target`` of the same length is kept: callers name files by their content.
    """
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(target)
    with disk_errors(target.parent):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                copy_file(source, temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


_FICLONE = 0x40049409
"""Linux's request to share a whole file's blocks."""


def copy_file(source: Path, target: Path) -> None:
    """Write ``source``'s bytes to a new file, sharing blocks where the file system can.

    Unlike a hard link it does not change when the source is edited.
    """
    if reflink(source, target):
        return
    with open(source, "rb") as old, open(target, "xb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


def reflink(source: Path, target: Path) -> bool:
    """Make a new file that shares ``source``'s blocks until either is changed.

    Return whether the file system can; if not, there is no new file.
    """
    try:
        import fcntl
    except ImportError:
        return False
    with open(source, "rb") as old, open(target, "xb") as new:
        try:
            fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())
        except OSError:  # another file system, or one without reflinks
            target.unlink()
            return False
    return True


def share_file(source: Path, target: Path) -> None:
    """Make a new file with the bytes of a file that nobody changes, read-only.

    A reflink, since a program that writes into it all the same changes only its own; else a hard
    link; else a copy.
    """
    if not reflink(source, target):
        try:
            os.link(source, target)
            return  # with the mode of the source, which is the same file
        except OSError:
            copy_file(source, target)
    target.chmod(0o444)


def copy_range(source: int, offset: int, target: int, position: int, length: int) -> int:
    """Copy bytes from one open file to another, and return how many there were.

    The kernel copies, and shares blocks where it can; otherwise they are read and written.
    """
    left = length
    while left and hasattr(os, "copy_file_range"):
        try:
            count = os.copy_file_range(source, target, left, offset, position)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            break
        if not count:
            return length - left
        left, offset, position = left - count, offset + count, position + count
    while left:
        data = os.pread(source, min(left, 1 << 20), offset)
        if not data:
            break
        count = os.pwrite(target, data, position)
        left, offset, position = left - count, offset + count, position + count
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
    os.lseek(file, begun, os.SEEK_SET)
    zeros = bytes(1 << 20)
    for start in range(begun, length, len(zeros)):
        os.write(file, zeros[: length - start])


def remove_tree(path: Path) -> None:
    """Remove a folder and its contents; it is renamed first, so that no reader sees part of it."""
    if not path.exists():
        return
    doomed = temporary_sibling(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def shown(path: Path) -> str:
    """Return a path to show: relative to the working folder when it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


_UNITS = ("B", "kB", "MB", "GB", "TB")


def parse_bytes(text: str) -> int | None:
    """Return a size in bytes, parsed from decimal units; None if it cannot be parsed.

    >>> parse_bytes("1.5 GB"), parse_bytes("much")
    (1500000000, None)
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(B|kB|MB|GB|TB)", text.strip())
    if match is None:
        return None
    whole, _, part = match[1].partition(".")
    exact = int(whole + part.ljust(9, "0"))  # in billionths
    power: int = 1000 ** _UNITS.index(match[2])
    return exact * power // 10**9


def human_bytes(count: int) -> str:
    """Return a byte count to show, in decimal units: ``460.8 kB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS[1:]:
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"
