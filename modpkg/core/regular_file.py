"""Regular files, opened for reading so that nothing else in their place stops or floods a command.

A registry, a project or a downloaded folder may have a pipe (opening it waits for a writer), a
socket, a device (``/dev/zero`` never ends) or a file that grows in the place of any file. Files are
therefore opened without waiting, looked at after they are open, and read up to a bound that is
counted while reading: what ``stat`` says of a file may be wrong a moment later, and says 0 of a
file in ``/proc``. All of modpkg reads files through this module or `modpkg.core.system`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from modpkg.core import system
from modpkg.core.bounds import SMALL_FILE_BYTES

_KINDS = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISLNK, "a link"),
)


class IrregularFile(OSError):
    """A pipe, a socket, a device or a forbidden link is in the place of a file.

    Attributes:
        what: What it is, as in "a named pipe".
    """

    def __init__(self, path: Path | str, what: str) -> None:
        super().__init__(errno.EINVAL, f"it is {what}, not a file", str(path))
        self.what = what


class OversizedFile(OSError):
    """A file has more bytes than are read of such a file.

    Attributes:
        limit: How many are read, in bytes.
    """

    def __init__(self, path: Path | str, limit: int) -> None:
        super().__init__(errno.EFBIG, f"it has more than {limit} bytes", str(path))
        self.limit = limit


class CutShort(OSError):
    """A file ended before its length, as on a disk that fails.

    Without this, half of a manifest or an index would be taken for the whole, and written back.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(errno.EIO, "it ended before its length", str(path))


def kind_of(mode: int) -> str | None:
    """Return what a file's mode says it is; None for a regular file or a folder."""
    return next((what for test, what in _KINDS if test(mode)), None)


def open_descriptor(path: Path | str, *, follow: bool = True) -> int:
    """Return a descriptor of a regular file to read, without waiting for anything.

    Args:
        path: The file.
        follow: Whether the path itself may be a link.

    Raises:
        IrregularFile: It is none.
        IsADirectoryError: It is a folder.
        OSError: It cannot be opened.
    """
    return _opened(path, follow)[0]


def _opened(path: Path | str, follow: bool) -> tuple[int, int]:
    """Return what `open_descriptor` does, and the length that the file is said to have."""
    try:
        descriptor = system.read_descriptor(path, follow=follow)
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise IrregularFile(path, "a socket") from None
        if error.errno == errno.ELOOP and not follow:
            raise IrregularFile(path, "a link") from None
        raise
    try:
        status = os.fstat(descriptor)
        mode = status.st_mode
        if not stat.S_ISREG(mode):
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
            if (what := kind_of(mode)) is not None:
                raise IrregularFile(path, what)
        system.set_waiting(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor, status.st_size


def open_file(path: Path | str, *, follow: bool = True) -> BinaryIO:
    """Return a regular file, open for reading with a buffer; see `open_descriptor`."""
    return io.BufferedReader(io.FileIO(open_descriptor(path, follow=follow), "rb"))


def open_unbuffered(path: Path | str) -> io.FileIO:
    """Return a regular file, open for reading without a buffer; see `open_descriptor`."""
    return io.FileIO(open_descriptor(path), "rb")


def check_regular(path: Path | str) -> None:
    """Check that a file can be opened and is regular, before a library opens it by its path.

    Raises:
        OSError: See `open_descriptor`.
    """
    os.close(open_descriptor(path))


def read_file(path: Path | str, most: int = SMALL_FILE_BYTES, *, follow: bool = True) -> bytes:
    """Return the bytes of a regular file, of which there are at most ``most``.

    Raises:
        OversizedFile: There are more, by its length or while it is read.
        CutShort: There are fewer than its length.
        OSError: See `open_descriptor`.
    """
    descriptor, length = _opened(path, follow)
    try:
        data = b"" if length > most else _read(descriptor, most + 1, length)
    finally:
        os.close(descriptor)
    if max(length, len(data)) > most:
        raise OversizedFile(path, most)
    if len(data) < length:
        raise CutShort(path)
    return data


def read_head(path: Path | str, most: int, *, follow: bool = True) -> bytes:
    """Return at most the first ``most`` bytes of a regular file.

    Raises:
        OSError: See `open_descriptor`.
    """
    descriptor, length = _opened(path, follow)
    try:
        data = _read(descriptor, most, length)
    finally:
        os.close(descriptor)
    if len(data) < min(length, most):
        raise CutShort(path)
    return data


def read_text(
    path: Path | str,
    most: int = SMALL_FILE_BYTES,
    *,
    errors: str = "strict",
    follow: bool = True,
) -> str:
    """Return the text of a regular file in UTF-8, with its line ends made ``\\n``.

    Raises:
        UnicodeDecodeError: It is not UTF-8.
        OSError: See `read_file`.
    """
    text = read_file(path, most, follow=follow).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_at_most(descriptor: int, most: int) -> bytes:
    """Return the next bytes of a descriptor, up to its end or ``most`` of them."""
    return _read(descriptor, most, os.fstat(descriptor).st_size)


def _read(descriptor: int, most: int, length: int) -> bytes:
    """Return what `read_at_most` does of a file that is said to have a length.

    That it ends there is seen by one byte more that is asked for and does not come.
    """
    piece = min(most, length + 1) if length else 1 << 16
    parts: list[bytes] = []
    left = most
    while left > 0 and (part := os.read(descriptor, min(left, piece))):
        parts.append(part)
        left -= len(part)
        if most - left == length and len(part) < piece:
            break
        piece = 1 << 20
    return parts[0] if len(parts) == 1 else b"".join(parts)
