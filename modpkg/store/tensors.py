"""The tensor index: in which packs of the store a tensor is.

It is only a hint: the offset is read from the pack's header, whose digest is the pack's
name. It is synchronized with the packs when it is first used, and kept in memory where its file
cannot be used.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modpkg.core.disposable_index import DisposableIndex, UnusableIndex, failures
from modpkg.core.errors import PackError
from modpkg.core.file_lock import file_lock
from modpkg.store.packs import PackFolder

if TYPE_CHECKING:  # slow to import, and not needed when there is nothing to do
    import sqlite3

T = TypeVar("T")

VERSION = 1
_TABLES = (
    "CREATE TABLE IF NOT EXISTS packs (pack BLOB PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS tensors (digest BLOB NOT NULL, pack BLOB NOT NULL, "
    "PRIMARY KEY (digest, pack)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS tensors_of_pack ON tensors (pack)",
)
_BATCH = 500
"""Most parameters of one query."""


class TensorIndex:
    """``tensors.sqlite`` beside the packs. Each call opens and closes it."""

    def __init__(self, path: Path, packs: PackFolder) -> None:
        self._path = path
        self._packs = packs
        self._index = DisposableIndex(path, _TABLES, VERSION)
        self._synchronized = False
        self._memory: sqlite3.Connection | None = None
        """The index in memory, once the file could not be used."""
        self._turn = threading.RLock()
        self._damaged: set[tuple[str, str]] = set()
        """Tensors that were removed, with their packs: a rebuilt index would have them again."""

    def packs_with(self, digests: Collection[str]) -> dict[str, list[str]]:
        """Return the names of the packs that each tensor is in, sorted; none for missing ones."""
        keys = list(map(_raw, digests))

        def query(connection: sqlite3.Connection) -> dict[str, list[str]]:
            packs: dict[str, list[str]] = {}
            for start in range(0, len(keys), _BATCH):
                part = keys[start : start + _BATCH]
                marks = ",".join("?" * len(part))
                sql = f"SELECT digest, pack FROM tensors WHERE digest IN ({marks})"  # noqa: S608
                for digest, pack in connection.execute(sql, part):
                    packs.setdefault(f"sha256:{_hex(digest)}", []).append(_hex(pack))
            for digest, name in self._damaged:
                if name in packs.get(digest, ()):
                    packs[digest].remove(name)
            return {digest: sorted(names) for digest, names in packs.items() if names}

        return self._use(query) if keys and self._packs.root.is_dir() else {}

    def packs(self) -> dict[str, int]:
        """Return the size in bytes of each pack's file, by the pack's name."""
        return self._use(_sizes)

    def tensors_in(self, name: str) -> set[str]:
        """Return the digests of a pack's tensors."""

        def query(connection: sqlite3.Connection) -> set[str]:
            sql = "SELECT digest FROM tensors WHERE pack = ?"
            rows = connection.execute(sql, [bytes.fromhex(name)])
            return {f"sha256:{_hex(digest)}" for (digest,) in rows}

        return self._use(query)

    def remove_tensors(self, name: str, digests: Collection[str]) -> None:
        """Remove damaged tensors of a pack, so that they are not found again."""
        rows = [(_raw(digest), bytes.fromhex(name)) for digest in digests]
        self._damaged |= {(digest, name) for digest in digests}
        query = "DELETE FROM tensors WHERE digest = ? AND pack = ?"
        self._use(lambda connection: connection.executemany(query, rows))

    def add_pack(self, name: str, size: int, digests: Collection[str]) -> None:
        """Add a pack that has just come into the store."""
        self._damaged -= {(digest, name) for digest in digests}
        rows = list(map(_raw, digests))
        self._use(lambda connection: _insert(connection, name, size, rows))

    def remove_packs(self, names: Iterable[str]) -> None:
        """Remove packs that have left the store."""
        removed = list(names)
        self._use(lambda connection: _delete(connection, removed))

    def rebuild(self) -> None:
        """Rebuild the index from the packs' headers; packs that are damaged are removed."""
        with file_lock(self._lock, exclusive=True):
            self._index.drop()
            with self._open() as connection:
                self._synchronize(connection)

    @property
    def _lock(self) -> Path:
        return self._path.with_suffix(".lock")

    def _use(self, act: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``act`` returns; the index is synchronized at its first use.

        Where the file cannot be used, the index is made from the packs' headers, in memory.
        """
        folder = self._path.parent
        unwritable = folder.is_dir() and not os.access(folder, os.W_OK)
        if self._memory is None and not unwritable:
            try:
                return self._index.use(lambda: self._once(act), self.rebuild)
            except failures():
                pass
        with self._turn:
            if self._memory is None:
                self._memory = self._index.without_file().connect()
            self._synchronize(self._memory)
            result = act(self._memory)
            self._memory.commit()
            return result

    def _once(self, act: Callable[[sqlite3.Connection], T]) -> T:
        with file_lock(self._lock), self._open() as connection:
            if not self._synchronized:
                self._synchronize(connection)
                self._synchronized = True
            result = act(connection)
            connection.commit()
            return result

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(self._index.connect()) as connection:
            yield connection

    def _synchronize(self, connection: sqlite3.Connection) -> None:
        """Make the index agree with the packs that are there."""
        indexed = _sizes(connection)
        present = self._packs.sizes()
        if present == indexed:
            return
        _delete(connection, [name for name, size in indexed.items() if present.get(name) != size])
        for name, size in present.items():
            if indexed.get(name) == size:
                continue
            try:
                tensors: Mapping[str, object] = self._packs.read(name)
            except PackError:
                # Cut or overwritten: its tensors are fetched again.
                with contextlib.suppress(OSError):
                    self._packs.remove(name)
                continue
            except OSError:  # what cannot be read now may be read later
                continue
            _insert(connection, name, size, [_raw(digest) for digest in tensors])
        connection.commit()


def _sizes(connection: sqlite3.Connection) -> dict[str, int]:
    return {_hex(pack): size for pack, size in connection.execute("SELECT pack, size FROM packs")}


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


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest[7:])


def _hex(value: object) -> str:
    """Return a stored digest as hex.

    Raises:
        UnusableIndex: ``value`` is not a digest.
    """
    if not isinstance(value, bytes) or len(value) != 32:
        raise UnusableIndex("no digest")
    return value.hex()
