"""Writing files so that a killed process or a full disk leaves nothing half-made."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path

from modpkg.digests import Digest
from modpkg.errors import DiskFull, UnsafePath

TEMPORARY = ".tmp-"
"""Names of unfinished files and folders begin so; nothing ever reads one."""


def safe_path(text: str) -> str:
    """Return a path out of a release, once it is known to stay inside the module's folder.

    Raises:
        UnsafePath: it is absolute, climbs, has a drive, a backslash, a NUL, an empty or
            over-long part, or a name that Windows reserves.
    """
    reason = None
    parts = text.split("/")
    if not text or len(text.encode("utf-8", "replace")) > 512:
        reason = "it is empty or longer than 512 bytes"
    elif text.startswith("/") or ":" in text:
        reason = "it is absolute or has a ':'"
    elif "\\" in text or any(ord(char) < 32 or ord(char) == 127 for char in text):
        reason = "it has a backslash or a control character"
    elif any(part in ("", ".", "..") for part in parts):
        reason = "it has an empty part, '.' or '..'"
    elif any(
        part != part.rstrip(" .") or part.split(".")[0].upper() in _RESERVED for part in parts
    ):
        reason = "a part of it is not a portable file name"
    if reason is not None:
        raise UnsafePath(path=text, reason=reason)
    return text


_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{name}{n}" for name in ("COM", "LPT") for n in range(1, 10)),
}


def temporary_sibling(path: Path) -> Path:
    """Return an unused name beside ``path``, on the same file system."""
    return path.parent / f"{TEMPORARY}{path.name[:40]}-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn "no space left" into `DiskFull`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from None
        raise


def disk_full(path: Path, needed: str = "more") -> DiskFull:
    """Return the error that says how much is free where ``path`` lies."""
    free = shutil.disk_usage(_existing(path)).free
    return DiskFull(path=path, needed=needed, free=human_bytes(free))


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def write_atomically(path: Path, chunks: Iterable[bytes] | bytes, *, mode: int = 0o644) -> Digest:
    """Write a file so that it is either whole or not there, and return its digest.

    Temporary file, fsync, rename, fsync of the folder.

    Raises:
        DiskFull: no space is left; nothing remains.
    """
    if isinstance(chunks, bytes):
        chunks = (chunks,)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    """Put ``source``'s bytes at ``target``: a hard link where possible, else an atomic copy."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_sibling(target)
    with disk_errors(target.parent):
        try:
            try:
                os.link(source, temporary)
            except OSError:
                shutil.copyfile(source, temporary)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def remove_tree(path: Path) -> None:
    """Remove a folder and all in it; a rename first, so that no reader sees half of it."""
    if not path.exists():
        return
    doomed = temporary_sibling(path)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def shown(path: Path) -> str:
    """Return a path for people: relative to the working folder when it is inside."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


_UNITS = ("B", "kB", "MB", "GB", "TB")


def parse_bytes(text: str) -> int | None:
    """Return the bytes that a size is, in decimal units; None where it is no size.

    >>> parse_bytes("1.5 GB"), parse_bytes("much")
    (1500000000, None)
    """
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?(B|kB|MB|GB|TB)", text.strip())
    if match is None:
        return None
    return int(Decimal(match[1]) * 1000 ** _UNITS.index(match[2]))


def human_bytes(count: int) -> str:
    """Return a byte count for people, in decimal units: ``460.8 kB``."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in _UNITS[1:]:
        value /= 1000
        if value < 999.95 or unit == "TB":
            break
    return f"{value:.1f} {unit}"
