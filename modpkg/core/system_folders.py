"""Folders held open, in which names are written and removed without ever going through a link.

A path is looked up again each time it is used, and somebody else may put a link in the place of a
part of it meanwhile. An open folder stays the folder that it is: its names are listed, made, opened
and removed relative to it. Windows opens no folders; there the path is looked at before each step.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from modpkg.core import system
from modpkg.core.filenames import ENVIRONMENT
from modpkg.core.home import home
from modpkg.core.leftovers import is_temporary_name, leftovers, note_own, temporary_name
from modpkg.core.regular_file import IrregularFile

_MARK = getattr(stat, "IO_REPARSE_TAG_MOUNT_POINT", 0xA0000003)


def is_link(path: Path | str) -> bool:
    """Return whether a path is a symbolic link, or a junction of Windows; what is missing is not.

    Raises:
        OSError: It cannot be looked at.
    """
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return stat.S_ISLNK(status.st_mode) or getattr(status, "st_reparse_tag", 0) == _MARK


_NEEDED = ("open", "stat", "unlink", "rmdir", "rename", "mkdir", "link", "symlink")
"""The functions of `os` that have to reach names in an open folder."""


def can_hold_folders() -> bool:
    """Return whether the system opens folders and reaches names in them."""
    return (
        hasattr(os, "O_DIRECTORY")
        and hasattr(os, "O_NOFOLLOW")
        and all(getattr(os, name, None) in os.supports_dir_fd for name in _NEEDED)
        and os.scandir in os.supports_fd
    )


class OpenFolder:
    """A folder that is held open."""

    def __init__(self, path: Path, descriptor: int | None) -> None:
        self.path = path
        self._descriptor = descriptor

    @contextlib.contextmanager
    def folder(self, name: str) -> Iterator[OpenFolder]:
        """Hold a folder in this one open.

        Raises:
            IrregularFile: It is a link.
            OSError: It is missing, or no folder.
        """
        with _opened(self.path / name, name, self._descriptor, follow=False) as inner:
            yield inner

    def names(self) -> list[str]:
        """Return the names of what is in the folder, sorted."""
        with os.scandir(self.path if self._descriptor is None else self._descriptor) as entries:
            return sorted(entry.name for entry in entries)

    def status(self, name: str) -> os.stat_result | None:
        """Return what is known of a file, a folder or a link; None if there is none."""
        try:
            if self._descriptor is None:
                return os.lstat(self.path / name)
            return os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def create(self, name: str) -> BinaryIO:
        """Return a new file, open for writing.

        Raises:
            OSError: There is something of that name, or it cannot be made.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with self._step(name):
            if self._descriptor is None:
                descriptor = system.open_descriptor(self.path / name, flags, 0o666)
            else:
                descriptor = os.open(name, flags | os.O_NOFOLLOW, 0o666, dir_fd=self._descriptor)
        return io.BufferedWriter(io.FileIO(descriptor, "wb"))

    def open_to_update(self, name: str, mode: int) -> int:
        """Return a descriptor of a file that is read and written, created if it is missing.

        Raises:
            OSError: It is a link (ELOOP), or cannot be opened.
        """
        with self._step(name):
            if self._descriptor is None:
                return system.update_descriptor(self.path / name, mode)
            return system.update_descriptor(name, mode, within=self._descriptor)

    def make(self, name: str) -> None:
        """Make a folder, unless there is one.

        Inside a folder that is writable by its group, it is writable by the group too, whatever the
        umask, so that several users can share it.
        """
        with self._step(name):
            if self._descriptor is None:
                make_by_path(self.path / name)
                return
            try:
                os.mkdir(name, dir_fd=self._descriptor)
            except FileExistsError:
                return
            if not os.fstat(self._descriptor).st_mode & stat.S_IWGRP:
                return
            made = _descriptor(self.path / name, name, self._descriptor, follow=False)
            try:
                mode = stat.S_IMODE(os.fstat(made).st_mode)
                system.set_descriptor_mode(made, mode | stat.S_IRWXG)
            finally:
                os.close(made)

    def rename(self, name: str, new: str, *, into: OpenFolder | None = None) -> None:
        """Rename a file or folder, atomically; a file replaces another.

        Args:
            name: What it is called.
            new: What it is called then.
            into: The folder that it is moved into; this one if it is None.
        """
        into = into or self
        with self._step(new, into.path):
            if self._descriptor is None or into._descriptor is None:
                system.replace(self.path / name, into.path / new)
            else:
                os.rename(name, new, src_dir_fd=self._descriptor, dst_dir_fd=into._descriptor)

    def link(self, source: Path, name: str) -> bool:
        """Make ``name`` another name of a file; return whether the file system can."""
        if self._descriptor is None:
            return system.hard_link(source, self.path / name)
        return system.hard_link(source, name, within=self._descriptor)

    def point(self, name: str, target: str) -> None:
        """Make a new pointer to ``target``; see `modpkg.core.system.make_pointer`."""
        with self._step(name):
            if self._descriptor is None:
                system.make_pointer(self.path / name, target)
                return
            with contextlib.suppress(NotImplementedError, PermissionError):  # as on FAT
                os.symlink(target, name, dir_fd=self._descriptor)
                return
            with self.create(name) as file:
                file.write(target.encode())
                file.flush()
                os.fsync(file.fileno())

    def sync(self) -> None:
        """Make renames in the folder survive a power cut, where the system can."""
        if self._descriptor is None:
            system.sync_folder(self.path)
        else:
            with self._step("."):
                os.fsync(self._descriptor)

    def temporary(self, name: str) -> str:
        """Return an unused name for an unfinished file or folder that stands for another one.

        What commands that were killed have left in the folder is removed, once per process.
        """
        for path in leftovers(self.path, once=True):
            self.discard(path.name)
        temporary = temporary_name(name)
        note_own(self.path / temporary)
        return temporary

    def discard(self, name: str) -> None:
        """Remove an unfinished file or folder, if it can be, as `leftovers.discard` does."""
        with contextlib.suppress(OSError):
            self.remove(name)

    @contextlib.contextmanager
    def _step(self, name: str, folder: Path | None = None) -> Iterator[None]:
        """Check that the path is no link where folders cannot be held, and name it in errors."""
        if self._descriptor is None and is_link(self.path):
            raise IrregularFile(self.path, "a link")
        try:
            yield
        except OSError as error:
            error.filename, error.filename2 = str((folder or self.path) / name), None
            raise

    def remove(self, name: str) -> None:
        """Remove a file, a link or a folder with its contents; what is missing is no error.

        A folder is renamed first, to a temporary name, so that nobody sees part of it. What the
        system refuses to remove of its contents is left.

        Raises:
            OSError: It cannot be removed or renamed.
        """
        if self._descriptor is None:
            self._remove_by_path(name)
            return
        if (status := self.status(name)) is None:
            return
        if not stat.S_ISDIR(status.st_mode):
            with self._step(name):
                os.unlink(name, dir_fd=self._descriptor)
            return
        doomed = temporary_name(name)
        self.rename(name, doomed)
        with contextlib.suppress(OSError):
            _empty(doomed, self._descriptor)
            os.rmdir(doomed, dir_fd=self._descriptor)

    def _remove_by_path(self, name: str) -> None:
        path = self.path / name
        if is_link(self.path):
            raise IrregularFile(self.path, "a link")
        if is_link(path) or not path.is_dir():
            system.remove_file(path)
            return
        doomed = self.path / temporary_name(name)
        try:
            system.replace(path, doomed)
        except PermissionError:
            if not system.WINDOWS:
                raise
            doomed = path  # somebody reads in it, who keeps what is open
        import shutil  # slow to import, and seldom needed

        shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def open_folder(path: Path, *, follow: bool = False) -> Iterator[OpenFolder]:
    """Hold a folder open.

    Args:
        path: The folder.
        follow: Whether the path itself may be a link, as where a person has named it.

    Raises:
        IrregularFile: It is a link.
        OSError: It is missing, or no folder.
    """
    with _opened(path, path, None, follow=follow) as opened:
        yield opened


def make_by_path(path: Path) -> None:
    """Make a folder and its missing parents; see `OpenFolder.make`."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        folder.mkdir(exist_ok=True)
        if folder.parent.stat().st_mode & stat.S_IWGRP:
            with contextlib.suppress(PermissionError):  # another user made it meanwhile
                mode = stat.S_IMODE(folder.stat().st_mode)
                system.set_mode(folder, mode | stat.S_IRWXG)


@contextlib.contextmanager
def hold_folder(
    path: Path, *, within: Path | None = None, make: bool = False
) -> Iterator[OpenFolder]:
    """Hold a folder open to write in it; below the part that a person named, no link is followed.

    Args:
        path: The folder.
        within: The folder that a person named, which may be reached through links. Without it that
            is the whole path up to an environment (``.modpkg``) or an unfinished folder, whose
            contents are modpkg's own.
        make: Whether it is made, with its parents, if it is missing.

    Raises:
        IrregularFile: A part of it is a link.
        OSError: It is missing, or no folder.
    """
    named = len(path.parts) if within is None else len(within.parts)
    if within is None:
        own = (number for number, part in enumerate(path.parts) if _is_own(path, number, part))
        named = next(own, named)
    trusted = Path(*path.parts[:named])
    if make:
        make_by_path(trusted)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(open_folder(trusted, follow=True))
        for part in path.parts[named:]:
            outer = stack.pop_all()
            with outer:
                try:
                    folder = stack.enter_context(folder.folder(part))
                except FileNotFoundError:
                    if not make:
                        raise
                    folder.make(part)
                    folder = stack.enter_context(folder.folder(part))
        yield folder


def _is_own(path: Path, number: int, part: str) -> bool:
    """Return whether a part of a path, and what is below it, is only ever made by modpkg.

    A person may call the folder of modpkg's data ``.modpkg`` too, and have a link there.
    """
    if part != ENVIRONMENT:
        return is_temporary_name(part)
    folder = Path(*path.parts[: number + 1]).absolute()
    return not home().is_relative_to(folder)


@contextlib.contextmanager
def _opened(
    path: Path, name: Path | str, within: int | None, *, follow: bool
) -> Iterator[OpenFolder]:
    if not can_hold_folders():
        if not follow and is_link(path):
            raise IrregularFile(path, "a link")
        os.scandir(path).close()  # for the errors of opening it
        yield OpenFolder(path, None)
        return
    descriptor = _descriptor(path, name, within, follow=follow)
    try:
        yield OpenFolder(path, descriptor)
    finally:
        os.close(descriptor)


def _descriptor(path: Path | str, name: Path | str, within: int | None, *, follow: bool) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | (0 if follow else os.O_NOFOLLOW)
    try:
        return os.open(name, flags, dir_fd=within)
    except OSError as error:
        error.filename = str(path)
        if not follow and error.errno in (errno.ELOOP, errno.ENOTDIR):
            mode = os.stat(name, dir_fd=within, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise IrregularFile(path, "a link") from None
        raise


def _empty(name: str, within: int) -> None:
    """Remove all that is in a folder, depth first; no link is followed."""
    descriptor = _descriptor(name, name, within, follow=False)
    try:
        with os.scandir(descriptor) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner, is_folder in found:
            with contextlib.suppress(OSError, RecursionError):
                if is_folder:
                    _empty(inner, descriptor)
                    os.rmdir(inner, dir_fd=descriptor)
                else:
                    os.unlink(inner, dir_fd=descriptor)
    finally:
        os.close(descriptor)
