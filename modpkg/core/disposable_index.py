"""A SQLite index of other files' content, dropped and rebuilt when it cannot be used."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:  # slow to import, and not needed when there is nothing to do
    import sqlite3

T = TypeVar("T")

APPLICATION = 0x6D706B67
"""``application_id`` of the files: "mpkg"."""
BUSY_TIMEOUT = 60.0
"""Seconds to wait for another process that writes."""


class UnusableIndex(Exception):
    """An index is damaged, of another version, or contradicts what it was made from."""


class DisposableIndex:
    """The file of an index.

    Args:
        path: The file; None for a database in memory.
        tables: The statements that create its tables, with ``IF NOT EXISTS``.
        version: Its ``user_version``; raised when the tables or what is in them changes.
        wal: Whether readers and a writer work at the same time. Needs a local file system.
    """

    def __init__(
        self, path: Path | None, tables: Sequence[str], version: int, *, wal: bool = False
    ) -> None:
        self.path = path
        self._tables = tables
        self._version = version
        self._wal = wal

    def connect(self) -> sqlite3.Connection:
        """Open the index, and create it if there is none.

        Raises:
            UnusableIndex: The file is of another version, or is a link or another thing.
            sqlite3.DatabaseError: It is damaged.
        """
        import sqlite3

        for path in self._files():
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.lstat(path).st_mode):  # SQLite would follow a link
                    raise UnusableIndex("not a file")
        connection = sqlite3.connect(
            ":memory:" if self.path is None else self.path,
            timeout=BUSY_TIMEOUT,
            isolation_level="IMMEDIATE",
            check_same_thread=False,
        )
        try:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, self._version):
                raise UnusableIndex("another version's")
            if version == 0:
                self._create(connection)
            if self._wal:
                # A power cut may lose the last entries: they are read again from their source.
                connection.execute("PRAGMA synchronous=NORMAL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        if self._wal:
            connection.execute("PRAGMA journal_mode=WAL")
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

        Raises:
            OSError: The disk is full.
        """
        from sqlite3 import DatabaseError

        try:
            return act()
        except (UnusableIndex, DatabaseError) as error:
            if "disk is full" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
            rebuild()
            return act()
