"""A SQLite index of other files' content, dropped and rebuilt when it cannot be used.

It is a hint, made from files that are there anyway: where it cannot be read or written, because the
disk is full, fails or is read-only, an index in memory takes its place (`without_file`), and the
command goes on. The file is read and written by calls that can report an error: a memory map of it
(as SQLite's write-ahead log needs) would end the process when the disk is full.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modpkg.core.errors import InstallError
from modpkg.core.regular_file import read_head

if TYPE_CHECKING:  # slow to import, and not needed when there is nothing to do
    import sqlite3

T = TypeVar("T")

APPLICATION = 0x6D706B67
"""``application_id`` of the files: "mpkg"."""
BUSY_TIMEOUT = 60.0
"""Seconds to wait for another process that writes."""
_FORMAT, _WITH_LOG = 18, 2
"""The byte of the file that says how it is written, and its value with a write-ahead log."""
_SETTINGS = (
    "PRAGMA mmap_size=0",
    "PRAGMA temp_store=MEMORY",
    # A kill cannot harm the file, a power cut can: it is rebuilt then.
    "PRAGMA synchronous=OFF",
)

_NO_DAMAGE = ("disk is full", "is locked", "readonly database")
"""What SQLite says of a file that is sound."""


class UnusableIndex(Exception):
    """An index is damaged, of another version, or contradicts what it was made from."""


def failures() -> tuple[type[Exception], ...]:
    """Return what an index raises when its file cannot be used: no reason to fail."""
    import sqlite3

    return OSError, InstallError, sqlite3.Error, UnusableIndex


class DisposableIndex:
    """The file of an index.

    Args:
        path: The file; None for a database in memory.
        tables: The statements that create its tables, with ``IF NOT EXISTS``.
        version: Its ``user_version``; raised when the tables or what is in them changes.
    """

    def __init__(self, path: Path | None, tables: Sequence[str], version: int) -> None:
        self.path = path
        self._tables = tables
        self._version = version

    def without_file(self) -> DisposableIndex:
        """Return an index with the same tables in memory."""
        return DisposableIndex(None, self._tables, self._version)

    def connect(self) -> sqlite3.Connection:
        """Open the index, and create it if there is none.

        Raises:
            UnusableIndex: The file is of another version, or is a link or another thing.
            sqlite3.Error: It is damaged, or cannot be read or written.
            OSError: It cannot be read.
        """
        import sqlite3

        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.lstat(path).st_mode):  # SQLite would follow a link
                    raise UnusableIndex("not a file")
        self._check_no_log()
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=BUSY_TIMEOUT,
            isolation_level="IMMEDIATE",
            check_same_thread=False,
        )
        try:
            for setting in _SETTINGS:
                connection.execute(setting)
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, self._version):
                raise UnusableIndex("another version's")
            if version == 0:
                self._create(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_no_log(self) -> None:
        """Check that opening the file will not map a log, as earlier versions of modpkg wrote.

        Raises:
            UnusableIndex: It would.
        """
        if self.path is None:
            return
        try:
            head = read_head(self.path, _FORMAT + 1)
        except (FileNotFoundError, IsADirectoryError):  # SQLite tells of the folder
            return
        if head[_FORMAT:] == bytes([_WITH_LOG]):
            raise UnusableIndex("written with a log")

    def _create(self, connection: sqlite3.Connection) -> None:
        statements = (
            "BEGIN IMMEDIATE",
            *self._tables,
            f"PRAGMA application_id = {APPLICATION}",
            f"PRAGMA user_version = {self._version}",
            "COMMIT",
        )
        connection.executescript(";\n".join(statements))

    def _files(self) -> list[Path]:
        """Return the paths of the file and of what SQLite keeps beside it."""
        if self.path is None:
            return []
        suffixes = ("", "-wal", "-shm", "-journal")
        return [self.path.with_name(self.path.name + suffix) for suffix in suffixes]

    def drop(self) -> None:
        """Remove the file and what SQLite keeps beside it; the caller has it alone."""
        for path in self._files():
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)

    def use(self, act: Callable[[], T], rebuild: Callable[[], object]) -> T:
        """Return what ``act`` returns; if the index cannot be used, rebuild it and act again.

        A full disk, or another process that does not end, is no reason to rebuild it.

        Raises:
            Exception: One of `failures`: go on `without_file`.
        """
        from sqlite3 import DatabaseError

        try:
            return act()
        except (UnusableIndex, DatabaseError) as error:
            if any(reason in str(error) for reason in _NO_DAMAGE):
                raise
            rebuild()
            return act()
