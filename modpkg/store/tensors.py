"""The tensor index: in which packs of the store a tensor lies.

It only says where to look: the place itself is read from the pack's header, which the pack's name
vouches for. It is brought up to date with the packs whenever it is opened for the first time, and
made anew when it is damaged, of another version, or found to be wrong.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from modpkg.core.errors import PackError
from modpkg.core.files import disk_errors
from modpkg.store.packs import PackFolder
from modpkg.store.shared_lock import held

if TYPE_CHECKING:  # slow to import, and not needed when there is nothing to do
    import sqlite3

FORMAT = 1
"""``user_version`` of the file; one with another is made anew."""
APPLICATION = 0x6D706B67
"""``application_id`` of the file: "mpkg"."""
_BATCH = 500
_PATIENCE = 60.0
"""Seconds to wait for another process that writes."""


class TensorIndex:
    """``tensors.sqlite`` beside the packs. Every call opens it anew, and leaves nothing open."""

    def __init__(self, path: Path, packs: PackFolder) -> None:
        self._path = path
        self._packs = packs
        self._mended = False

    def packs_with(self, digests: Collection[str]) -> dict[str, list[str]]:
        """Return the names of the packs that each tensor is in, for those that are in any."""
        keys = [bytes.fromhex(digest[7:]) for digest in digests]
        found: dict[str, list[str]] = {}

        def look(connection: sqlite3.Connection) -> None:
            for start in range(0, len(keys), _BATCH):
                part = keys[start : start + _BATCH]
                marks = ",".join("?" * len(part))
                query = f"SELECT digest, pack FROM tensors WHERE digest IN ({marks})"  # noqa: S608
                for digest, pack in connection.execute(query, part):
                    found.setdefault(f"sha256:{_hex(digest)}", []).append(_hex(pack))

        if keys and self._packs.root.is_dir():
            self._use(look)
        return {digest: sorted(names) for digest, names in found.items()}

    def packs(self) -> dict[str, int]:
        """Return all packs, with the bytes of their files."""
        found: dict[str, int] = {}

        def look(connection: sqlite3.Connection) -> None:
            rows = connection.execute("SELECT pack, size FROM packs")
            found.update((_hex(pack), size) for pack, size in rows)

        self._use(look)
        return found

    def tensors_in(self, name: str) -> set[str]:
        """Return the digests of a pack's tensors."""
        found: set[str] = set()

        def look(connection: sqlite3.Connection) -> None:
            query = "SELECT digest FROM tensors WHERE pack = ?"
            rows = connection.execute(query, [bytes.fromhex(name)])
            found.update(f"sha256:{_hex(digest)}" for (digest,) in rows)

        self._use(look)
        return found

    def lose(self, name: str, digests: Iterable[str]) -> None:
        """Note that some of a pack's tensors are damaged: they are not there for anyone."""
        rows = [(bytes.fromhex(digest[7:]), bytes.fromhex(name)) for digest in digests]
        query = "DELETE FROM tensors WHERE digest = ? AND pack = ?"
        self._use(lambda connection: _many(connection, query, rows))

    def add(self, name: str, size: int, digests: Iterable[str]) -> None:
        """Note a pack that has just come into the store."""
        rows = [bytes.fromhex(digest[7:]) for digest in digests]
        self._use(lambda connection: _insert(connection, name, size, rows))

    def forget(self, names: Iterable[str]) -> None:
        """Note that packs have left the store."""
        gone = list(names)
        self._use(lambda connection: _delete(connection, gone))

    def rebuild(self) -> None:
        """Make the index anew from the packs' headers; packs that are not sound are removed."""
        with held(self._lock, alone=True):
            self._remove()
            with self._open() as connection:
                self._mend(connection)

    @property
    def _lock(self) -> Path:
        return self._path.with_suffix(".lock")

    def _use(self, act: _Act) -> None:
        """Open the index, bring it up to date at the first use, and act on it."""
        from sqlite3 import DatabaseError, OperationalError

        with disk_errors(self._path.parent):
            try:
                self._once(act)
            except (DatabaseError, ValueError) as error:
                if isinstance(error, OperationalError) and _is_full(error):
                    raise OSError(28, "No space left on device") from None
                self.rebuild()  # not a database, cut, of another version, with other tables
                self._once(act)

    def _once(self, act: _Act) -> None:
        with held(self._lock), self._open() as connection:
            if not self._mended:
                self._mend(connection)
                self._mended = True
            act(connection)
            connection.commit()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        import sqlite3

        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level="IMMEDIATE")
        with contextlib.closing(connection):
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            (application,) = connection.execute("PRAGMA application_id").fetchone()
            if (version, application) == (0, 0):
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(_SCHEMA)
            elif (version, application) != (FORMAT, APPLICATION):
                raise ValueError("another version's")
            # A power cut may lose the last entries: they are found again from the packs.
            connection.execute("PRAGMA synchronous=NORMAL")
            yield connection

    def _mend(self, connection: sqlite3.Connection) -> None:
        """Make the index agree with the packs that are there."""
        known = {_hex(pack): size for pack, size in connection.execute("SELECT * FROM packs")}
        there = self._packs.sizes()
        if there == known:
            return
        _delete(connection, [name for name, size in known.items() if there.get(name) != size])
        for name, size in there.items():
            if known.get(name) == size:
                continue
            try:
                places: Mapping[str, object] = self._packs.read(name)
            except PackError:
                self._packs.remove(name)  # cut or overwritten: what it had is fetched again
                continue
            _insert(connection, name, size, [bytes.fromhex(digest[7:]) for digest in places])
        connection.commit()

    def _remove(self) -> None:
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = self._path.with_name(self._path.name + suffix)
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)


if TYPE_CHECKING:
    from collections.abc import Callable

    _Act = Callable[[sqlite3.Connection], None]

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS packs (pack BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tensors (
  digest BLOB NOT NULL, pack BLOB NOT NULL, PRIMARY KEY (digest, pack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS tensors_of_pack ON tensors (pack);
PRAGMA application_id = {APPLICATION};
PRAGMA user_version = {FORMAT};
COMMIT;
"""


def _insert(connection: sqlite3.Connection, name: str, size: int, digests: list[bytes]) -> None:
    pack = bytes.fromhex(name)
    connection.executemany(
        "INSERT OR IGNORE INTO tensors VALUES (?, ?)", [(digest, pack) for digest in digests]
    )
    connection.execute("INSERT OR REPLACE INTO packs VALUES (?, ?)", (pack, size))


def _delete(connection: sqlite3.Connection, names: list[str]) -> None:
    packs = [(bytes.fromhex(name),) for name in names]
    connection.executemany("DELETE FROM tensors WHERE pack = ?", packs)
    connection.executemany("DELETE FROM packs WHERE pack = ?", packs)


def _hex(value: object) -> str:
    """Return a digest that the file has, in hex; one that is no digest shows that it is damaged."""
    if not isinstance(value, bytes) or len(value) != 32:
        raise ValueError("no digest")
    return value.hex()


def _many(connection: sqlite3.Connection, query: str, rows: list[tuple[bytes, bytes]]) -> None:
    connection.executemany(query, rows)


def _is_full(error: Exception) -> bool:
    return "disk is full" in str(error)
