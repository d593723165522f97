"""Writing files so that a killed process or a full disk leaves nothing incomplete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from modpkg.core import system
from modpkg.core.digests import Digest
from modpkg.core.errors import InstallError
from modpkg.core.home import home
from modpkg.core.leftovers import TEMPORARY, without_mark
from modpkg.core.regular_file import CutShort, IrregularFile, OversizedFile, open_file
from modpkg.core.system_folders import OpenFolder, hold_folder, is_link, open_folder


@contextlib.contextmanager
def disk_errors(folder: Path, target: Path | None = None) -> Iterator[None]:
    """Turn "no space left" into `InstallError`, and let other errors name what they are about.

    The system names no file when writing or flushing fails, and the temporary file before that:
    ``target``, or else ``folder``, is named in place of them.
    """
    try:
        yield
    except OSError as error:
        if system.is_disk_full(error):
            raise disk_full(folder, error=error) from None
        if error.filename is None and error.errno is not None:
            error.filename = str(target or folder)
        elif target is not None and _is_temporary(error.filename):
            error.filename, error.filename2 = str(target), None
        raise


def _is_temporary(name: object) -> bool:
    return isinstance(name, str | bytes) and TEMPORARY in Path(os.fsdecode(name)).name[:5]


def denied(error: OSError) -> InstallError | None:
    """Return the error for a path that this user must not read or write; None for other errors."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS) or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    remedy = "ask its owner for access, or use a folder of your own"
    if system.is_in_use(error):
        remedy = "close the program that has it open, then run the command again"
        return InstallError("M510", path=path, reason="a program has it open", remedy=remedy)
    if path.is_relative_to(home()) or home().is_relative_to(path):
        remedy = "set MODPKG_HOME to a folder that you can write to"
    return InstallError("M510", path=path, reason=_reason_of(error, path), remedy=remedy)


def not_text(path: str) -> InstallError:
    """Return the error for a path that is not UTF-8, which no record can hold."""
    shown = path[:500].encode("utf-8", "backslashreplace").decode()
    remedy = "rename it, or work in another folder"
    return InstallError("M510", path=shown, reason="its name is not UTF-8", remedy=remedy)


def refusal_of(error: OSError) -> InstallError:
    """Return the error for what the operating system refused."""
    name = _named_by(error)
    if system.is_disk_full(error):
        return disk_full(Path(name or ".").absolute(), error=error)
    if isinstance(error, IrregularFile):
        return InstallError("M511", path=name, what=error.what)
    if isinstance(error, OversizedFile):
        return InstallError("M512", path=name, limit=human_bytes(error.limit))
    if (refusal := denied(error)) is not None:
        return refusal
    remedies = {
        errno.ENOENT: "check its spelling and the working folder, or make it first",
        errno.ENOTDIR: "name a folder, or remove the file that stands in its way",
        errno.EISDIR: "name a file in it",
        errno.ENAMETOOLONG: "choose a shorter name",
        errno.ELOOP: "remove the link that leads to itself",
        errno.EMFILE: "raise the limit of open files (ulimit -n)",
        errno.EIO: _FAILING,
        getattr(errno, "EREMOTEIO", errno.EIO): _FAILING,
        getattr(errno, "ESTALE", errno.EIO): _FAILING,
    }
    if error.errno == errno.ENOENT and system.is_too_long(name or ""):
        remedies[errno.ENOENT] = "turn on long paths in Windows, or choose a shorter folder"
    remedy = remedies.get(error.errno or 0, "run the command again; --debug shows where")
    reason = (error.strerror or str(error)).lower()
    return InstallError("M510", path=name or "A file", reason=reason, remedy=remedy)


_FAILING = (
    "check that its disk is sound and connected, as the system's log shows, and run the command "
    "again: nothing was half done"
)


@contextlib.contextmanager
def os_errors_told() -> Iterator[None]:
    """Turn what the operating system refuses into an error with a code, for who calls modpkg.

    Raises:
        InstallError: See `refusal_of`.
    """
    try:
        yield
    except OSError as error:
        raise refusal_of(error) from error


def _named_by(error: OSError) -> str | None:
    """Return the path that an error is about: its own, or the one in hand where it was raised.

    The system names no file when reading, writing or flushing an open one fails.
    """
    if isinstance(error.filename, str | bytes):
        return without_mark(os.fsdecode(error.filename))
    found, trace = None, error.__traceback__
    while trace is not None:
        values = trace.tb_frame.f_locals
        paths = [values[name] for name in _PATHS if isinstance(values.get(name), Path)]
        found, trace = paths[0] if paths else found, trace.tb_next
    return None if found is None else without_mark(str(found))


_PATHS = ("target", "path", "self", "source", "staged", "temporary", "folder", "out")
"""What a path in hand is called, the most telling first."""


def _reason_of(error: OSError, path: Path) -> str:
    reason = (error.strerror or str(error)).lower()
    try:
        other = system.is_of_another_user(_existing(path).stat())
    except OSError:  # in a folder that must not be entered
        return reason
    return f"{reason}; it belongs to another user" if other else reason


def disk_full(
    path: Path, needed: str = "more", *, reserve: int = 0, error: OSError | None = None
) -> InstallError:
    """Return the error for a full disk, with the free space of ``path``'s file system.

    ``reserve`` bytes have to stay free. A quota, by ``error``, is full whatever the disk has.
    """
    if error is not None and error.errno == getattr(errno, "EDQUOT", None):
        return InstallError("M517", path=without_mark(str(path)))
    try:
        import shutil  # slow to import, and seldom needed

        free = human_bytes(shutil.disk_usage(_existing(path)).free)
    except OSError:  # the disk answers no more
        free = "none"
    own = path.is_relative_to(home())
    remedy = f"{'set MODPKG_HOME to' if own else 'choose'} a folder on another disk"
    return InstallError(
        "M502",
        path=without_mark(str(path)),
        needed=needed,
        reserve=f" beside {human_bytes(reserve)} that stay free" if reserve else "",
        free=free,
        remedy=remedy,
    )


def _existing(path: Path) -> Path:
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def make_folder(path: Path, *, within: Path | None = None) -> None:
    """Make a folder and its missing parents; see `modpkg.core.system_folders.hold_folder`.

    Inside a folder that is writable by its group, it is writable by the group too, whatever the
    umask, so that several users can share it.
    """
    with hold_folder(path, within=within, make=True):
        return


def shared_mode(folder: Path) -> int:
    """Return the mode for a file that everyone who may write to ``folder`` may change."""
    return 0o664 if folder.stat().st_mode & stat.S_IWGRP else 0o644


_TURN = threading.RLock()
"""Whose turn it is to write a small file. Each step of it gives way to other threads of Python, and
where many are at it, that takes longer than the step; disks flush for all of them together."""


def write_atomically(
    path: Path,
    chunks: Iterable[bytes] | bytes,
    *,
    mode: int = 0o644,
    within: Path | None = None,
    flush: bool = True,
) -> Digest:
    """Write a file so that it is either complete or absent, and return its digest.

    Temporary file, fsync, rename, fsync of the folder, which is held open meanwhile: no part of it
    below ``within`` is a link (see `modpkg.core.system_folders.hold_folder`). Without ``flush``,
    which a loss of power may leave with other content, it has to be verified when it is read.

    Raises:
        InstallError: The disk is full; nothing is left behind.
    """
    turn: AbstractContextManager[object] = contextlib.nullcontext()
    if isinstance(chunks, bytes):
        turn, chunks = _TURN, (chunks,)
    state = hashlib.sha256()
    with contextlib.ExitStack() as held, disk_errors(path.parent, path):
        with turn:
            folder = held.enter_context(hold_folder(path.parent, within=within, make=True))
            temporary = folder.temporary(path.name)
        try:
            with contextlib.ExitStack() as opened:
                with turn:
                    file = opened.enter_context(folder.create(temporary))
                    for chunk in chunks:
                        state.update(chunk)
                        file.write(chunk)
                    file.flush()
                    system.set_descriptor_mode(file.fileno(), mode)
                if flush:
                    os.fsync(file.fileno())
            with turn:
                folder.rename(temporary, path.name)
        except BaseException:
            folder.discard(temporary)
            raise
        if flush:
            folder.sync()
    return Digest("sha256:" + state.hexdigest())


def link_or_copy(source: Path, target: Path) -> None:
    """Make ``target`` a copy of ``source``, without copying bytes where possible.

    A hard link, else a reflink (a copy that shares blocks), else an atomic copy, with the times of
    ``source``. What is there already is kept only if it is such a link or copy: a file of that name
    may have come with a repository.
    """
    with disk_errors(target.parent, target), hold_folder(target.parent, make=True) as folder:
        there, wanted = folder.status(target.name), source.stat()
        if there is not None and _is_same(there, wanted):
            return
        temporary = folder.temporary(target.name)
        try:
            if not folder.link(source, temporary):
                _copy(source, folder, temporary, None, flush=True, times=wanted)
            folder.rename(temporary, target.name)
        except BaseException:
            folder.discard(temporary)
            raise


def _is_same(there: os.stat_result, wanted: os.stat_result) -> bool:
    """Return whether a file is another name of one, or the copy that `link_or_copy` made of it."""
    if not stat.S_ISREG(there.st_mode):
        return False
    if (there.st_dev, there.st_ino) == (wanted.st_dev, wanted.st_ino):
        return True
    return (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns)


def copy_file(source: Path, target: Path, *, mode: int | None = None) -> None:
    """Write ``source``'s bytes to a new file, sharing blocks where the file system can.

    Unlike a hard link it does not change when the source is edited. Without a ``mode`` it has the
    one that this user's new files have.
    """
    with hold_folder(target.parent) as folder:
        _copy(source, folder, target.name, mode)


def _copy(
    source: Path,
    folder: OpenFolder,
    name: str,
    mode: int | None,
    *,
    flush: bool = False,
    times: os.stat_result | None = None,
) -> None:
    with open_file(source) as old, folder.create(name) as new:
        if not system.share_blocks(old.fileno(), new.fileno()):
            for piece in iter(lambda: old.read(1 << 20), b""):
                new.write(piece)
            if new.tell() < os.fstat(old.fileno()).st_size:
                raise CutShort(source)
        if mode is not None:
            system.set_descriptor_mode(new.fileno(), mode)
        if times is not None:
            new.flush()
            system.set_descriptor_times(new.fileno(), times)
        if flush:
            new.flush()
            os.fsync(new.fileno())


def share_file(source: Path, target: Path, *, within: Path | None = None) -> bool:
    """Make a read-only file with the bytes of one that nobody changes; return False if it copied.

    A reflink, since a program that writes into it all the same changes only its own; else a hard
    link, unless the source is another user's or may be executed; else a copy, as on Windows.
    """
    with hold_folder(target.parent, within=within) as folder:
        if _reflink(source, folder, target.name):
            return True
        # a hard link has the mode and the owner of the source, which is the same file
        status = source.stat()
        same = not system.is_of_another_user(status) and not status.st_mode & 0o111
        if same and not system.WINDOWS and folder.link(source, target.name):
            return True
        _copy(source, folder, target.name, 0o444)
        return False


def _reflink(source: Path, folder: OpenFolder, name: str) -> bool:
    """Make a new file that shares ``source``'s blocks until either is changed.

    Return whether the file system can; if not, there is no new file.
    """
    with open_file(source) as old, folder.create(name) as new:
        shared = system.share_blocks(old.fileno(), new.fileno())
        system.set_descriptor_mode(new.fileno(), 0o444)
    if not shared:
        folder.remove(name)
    return shared


def remove_tree(path: Path) -> None:
    """Remove a folder and its contents; it is renamed first, so that no reader sees part of it.

    No link is followed; one in its place is removed itself.
    """
    with contextlib.suppress(FileNotFoundError), open_folder(path.parent, follow=True) as parent:
        parent.remove(path.name)


def check_no_links(*paths: Path) -> None:
    """Check that none of these is a link: it could lead anywhere.

    Raises:
        InstallError: One is.
    """
    for path in paths:
        if is_link(path):
            raise InstallError("M511", path=path, what="a link")


def rename(source: Path, target: Path, *, within: Path | None = None) -> None:
    """Rename a file or folder, atomically; a file replaces another, and no link is followed."""
    with (
        hold_folder(source.parent, within=within) as origin,
        hold_folder(target.parent, within=within) as folder,
    ):
        origin.rename(source.name, target.name, into=folder)


def replace_tree(source: Path, target: Path) -> None:
    """Rename a folder to ``target``, which is removed if it is there, or stays if that fails."""
    with hold_folder(source.parent) as origin, hold_folder(target.parent) as folder:
        if folder.status(target.name) is None:
            origin.rename(source.name, target.name, into=folder)
            return
        old = folder.temporary(target.name)
        folder.rename(target.name, old)
        try:
            origin.rename(source.name, target.name, into=folder)
        except BaseException:
            folder.rename(old, target.name)
            raise
        folder.discard(old)


def sync_tree(folder: Path) -> None:
    """Make all files in a folder survive a power cut, where the system can."""
    for path in folder.rglob("*"):
        system.sync_folder(path) if path.is_dir() else system.sync_file(path)
    system.sync_folder(folder)


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
