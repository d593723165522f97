"""Folders held open, in which names are removed without ever going through a link.

A path is looked up again each time it is used, and somebody else may put a link in the place of a
part of it meanwhile. An open folder stays the folder that it is: its names are listed, opened and
removed relative to it. Windows opens no folders; there the path is looked at before each step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from modpkg.core import system
from modpkg.core.leftovers import temporary_name
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


def can_hold_folders() -> bool:
    """Return whether the system opens folders and reaches names in them."""
    needed = {os.open, os.stat, os.unlink, os.rmdir, os.rename}
    return (
        hasattr(os, "O_DIRECTORY")
        and hasattr(os, "O_NOFOLLOW")
        and needed <= os.supports_dir_fd
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
        try:
            mode = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(mode):
            os.unlink(name, dir_fd=self._descriptor)
            return
        doomed = temporary_name(name)
        os.rename(name, doomed, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
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
