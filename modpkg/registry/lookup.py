"""Which tensors a registry in a folder has, and where: an index made from its release records.

It is only a hint: each answer is compared with the release record that it comes from. It is kept in
memory if the folder cannot be written. No reader of a registry needs it.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modpkg.core import system
from modpkg.core.decoding import decoding_reason
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.disposable_index import DisposableIndex, UnusableIndex, failures
from modpkg.core.errors import ModpkgError
from modpkg.core.files import make_folder, shared_mode
from modpkg.core.records import IndexLine, ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tensors import TensorIdentity, identity_of
from modpkg.registry.reader import Registry
from modpkg.registry.write_lock import folder_lock
from modpkg.release.places import chain_of, entries_by_identity, labelled_entries
from modpkg.release.verify import check_record

if TYPE_CHECKING:
    import sqlite3

VERSION = 1
LOCATION = Path("lookup") / "tensors.sqlite"

_TABLES = (
    "CREATE TABLE IF NOT EXISTS modules (name TEXT PRIMARY KEY, stamp TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS releases "
    "(digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS tensors "
    "(key BLOB, entry BLOB, depth INTEGER NOT NULL, release TEXT NOT NULL, "
    "PRIMARY KEY (key, entry)) WITHOUT ROWID",
)
# The rows depend on the set of releases alone, not on the order in which they are added.
_ADD = """
INSERT INTO tensors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    depth = min(depth, excluded.depth), release = min(release, excluded.release)
"""
_FIND = "SELECT entry, release FROM tensors WHERE key = ? ORDER BY depth, entry"


class TensorLookup:
    """The tensors of all releases of one registry folder, as of when it is opened.

    Raises:
        NotFound, RegistryError: The folder is not a registry, or cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _ = self._open_registry().info
        self._entries: dict[str, dict[bytes, ReleaseRecord]] = {}
        self._guard = threading.Lock()
        self._index = DisposableIndex(folder / LOCATION, _TABLES, VERSION)
        self._connection = self._open()

    def find(self, identity: TensorIdentity) -> TensorEntry | None:
        """Return where a tensor is, decoded on as few others as possible; None if nowhere.

        Places in a pack that is missing, or of another length, are left out.
        """
        return next(self._verified(identity), None)

    def holds(self, entry: TensorEntry) -> bool:
        """Return whether a published release has this tensor in this very place."""
        return entry in self._verified(identity_of(entry))

    def close(self) -> None:
        self._connection.close()

    def _open_registry(self) -> Registry:
        self._registry = Registry(str(self._folder))
        return self._registry

    def _verified(self, identity: TensorIdentity) -> Iterator[TensorEntry]:
        """Yield the places of a tensor that a release record and a pack confirm."""
        with self._guard:
            try:
                rows = self._index.use(lambda: list(self._rows(identity)), self._rebuild)
            except failures():
                self._connection.close()
                self._connection = self._open_in_memory()
                rows = list(self._rows(identity))
        for entry, size in rows:
            with contextlib.suppress(FileNotFoundError):
                pack = self._folder / blob_path(parse_digest(entry.pack))
                if os.stat(pack).st_size == size:
                    yield entry

    def _rows(self, identity: TensorIdentity) -> Iterator[tuple[TensorEntry, int]]:
        """Yield the places of a tensor, each with the length of its pack."""
        for text, release in self._connection.execute(_FIND, (canonical_json(identity),)):
            try:
                entry = msgspec.json.decode(text, type=TensorEntry)
            except msgspec.MsgspecError as error:
                raise UnusableIndex(decoding_reason(error)) from None
            record = self._entries_of(release).get(canonical_json([identity, entry]))
            if record is None:
                raise UnusableIndex(f"{release} has no such tensor")
            yield entry, record.packs[entry.pack]

    def _entries_of(self, release: str) -> dict[bytes, ReleaseRecord]:
        """Return a release's record by each tensor and source that it has."""
        if release not in self._entries:
            sql = "SELECT name, version FROM releases WHERE digest = ?"
            row = self._connection.execute(sql, (release,)).fetchone()
            if row is None:
                raise UnusableIndex(f"no release {release}")
            try:
                line = self._registry.line(*row)
            except ModpkgError:
                line = None
            try:
                if line is None or line.release != release:  # it may have come just now
                    line = self._open_registry().line(*row)
                record = self._registry.record(line)
            except ModpkgError as error:
                raise UnusableIndex(str(error)) from None
            if line.release != release:
                raise UnusableIndex(f"{line.name} {line.version} is another release")
            self._entries[release] = {
                canonical_json([identity_of(e), e]): record for _, e in labelled_entries(record)
            }
        return self._entries[release]

    # Building it ---------------------------------------------------------------------------

    def _rebuild(self) -> None:
        self._connection.close()
        self._connection = self._open(rebuild=True)

    def _open(self, rebuild: bool = False) -> sqlite3.Connection:
        """Return the lookup, updated; in memory if the file cannot be written."""
        self._entries.clear()
        for again in (rebuild, True):
            with (
                contextlib.suppress(*failures()),
                folder_lock(self._folder, ".lookup"),
            ):
                return self._open_file(again)
        return self._open_in_memory()

    def _open_in_memory(self) -> sqlite3.Connection:
        self._entries.clear()
        return self._updated(self._index.without_file().connect())

    def _open_file(self, rebuild: bool) -> sqlite3.Connection:
        """Return the lookup in its file; the folder's lock prevents other writers."""
        path = self._folder / LOCATION
        make_folder(path.parent)
        if rebuild:
            self._index.drop()
        if not path.exists():
            path.touch()
            system.set_mode(path, shared_mode(path.parent))
        connection = self._index.connect()
        try:
            return self._updated(connection)
        except BaseException:
            connection.close()
            raise

    def _updated(self, connection: sqlite3.Connection) -> sqlite3.Connection:
        """Add the releases that were published since, and return the connection.

        Raises:
            UnusableIndex: Releases were removed, so it has to be rebuilt.
        """
        registry = self._open_registry()
        with connection:
            stamps = self._stamps()
            known = dict(connection.execute("SELECT name, stamp FROM modules"))
            changed = [name for name in stamps if known.get(name) != stamps[name]]
            lines = {line.release: line for name in changed for line in _lines(registry, name)}
            rows = connection.execute("SELECT digest, name FROM releases").fetchall()
            for digest, name in rows:
                if name not in stamps or (name in changed and digest not in lines):
                    raise UnusableIndex(f"{digest} was removed")
            broken = {
                lines[release].name
                for release in sorted(lines.keys() - {digest for digest, _ in rows})
                if not self._add(connection, lines[release])
            }
            connection.executemany(
                "INSERT OR REPLACE INTO modules VALUES (?, ?)",
                [(name, stamps[name]) for name in changed if name not in broken],
            )
        return connection

    def _add(self, connection: sqlite3.Connection, line: IndexLine) -> bool:
        """Add a release; False if its record is damaged, so that nothing refers to it."""
        try:
            # Another instance, so that the records, maybe thousands, do not stay in memory.
            record = Registry(str(self._folder)).record(line)
            check_record(record)
        except ModpkgError:
            return False
        find = entries_by_identity(record).get
        connection.execute(
            "INSERT INTO releases VALUES (?, ?, ?)", (line.release, line.name, line.version)
        )
        rows = [
            (canonical_json(identity_of(e)), canonical_json(e), len(chain_of(e, find)))
            for _, e in labelled_entries(record)
        ]
        connection.executemany(_ADD, [(*row, line.release) for row in rows])
        return True

    def _stamps(self) -> dict[str, str]:
        """Return for each index file a text that differs whenever it was written again."""
        stamps = {}
        for entry in os.scandir(self._folder / "index"):
            if entry.name.endswith(".jsonl"):
                stat = entry.stat()
                stamp = f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"
                stamps[entry.name[: -len(".jsonl")]] = stamp
        return stamps


def _lines(registry: Registry, name: str) -> list[IndexLine]:
    """Return a module's releases; none if its index is damaged."""
    try:
        return registry.index(name)
    except ModpkgError:
        return []
