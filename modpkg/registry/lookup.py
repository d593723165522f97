"""Where a registry in a folder has which tensor: a lookup made from its release records.

It is a hint and no more: what it says of a tensor is compared with the release record that it
says it of. It is made anew when it is missing, damaged or of another version, in memory where it
cannot be written. No reader of a registry needs it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.files import make_folder, shared_mode
from modpkg.core.records import IndexLine, ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tensors import TensorIdentity, identity_of
from modpkg.registry.reader import Registry
from modpkg.registry.write_lock import folder_lock
from modpkg.release.places import chain_of, entries_by_identity, labelled_entries
from modpkg.release.verify import check_record

VERSION = 1
"""Raised when the tables or what is in them change."""
PLACE = Path("lookup") / "tensors.sqlite"

_TABLES = (
    "CREATE TABLE modules (name TEXT PRIMARY KEY, stamp TEXT NOT NULL)",
    "CREATE TABLE releases (digest TEXT PRIMARY KEY, name TEXT NOT NULL, version TEXT NOT NULL)",
    "CREATE TABLE tensors (key BLOB, entry BLOB, depth INTEGER NOT NULL, release TEXT NOT NULL, "
    "PRIMARY KEY (key, entry)) WITHOUT ROWID",
    f"PRAGMA user_version = {VERSION}",
)
# What the rows are follows from the set of releases alone, not from the order they came in.
_ADD = """
INSERT INTO tensors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    depth = min(depth, excluded.depth), release = min(release, excluded.release)
"""
_FIND = "SELECT entry, release FROM tensors WHERE key = ? ORDER BY depth, entry"


class _Damaged(Exception):
    """The lookup does not say what the records say."""


def _connect(path: str) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=60, check_same_thread=False)


class TensorLookup:
    """The tensors of all releases of one registry folder, as the index has them when it is opened.

    Raises:
        NotFound, RegistryError: the folder is no registry that can be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        _ = Registry(str(folder)).info
        self._records: dict[str, dict[bytes, ReleaseRecord]] = {}
        self._guard = threading.Lock()
        self._database = self._open()

    def find(self, key: TensorIdentity) -> TensorEntry | None:
        """Return where a tensor lies, decoded on as few others as can be; None if nowhere.

        A pack that is not there any more, with its length, counts as nowhere.
        """
        return next(self._verified(key), None)

    def holds(self, entry: TensorEntry) -> bool:
        """Say whether a published release has this tensor at this very place."""
        return entry in self._verified(identity_of(entry))

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _verified(self, key: TensorIdentity) -> Iterator[TensorEntry]:
        """Yield the places of a tensor that a record and a pack bear out."""
        with self._guard:
            try:
                rows = list(self._rows(key))
            except (_Damaged, sqlite3.Error, msgspec.MsgspecError):
                self._database.close()
                self._database = self._open(anew=True)
                rows = list(self._rows(key))
        for entry, size in rows:
            with contextlib.suppress(FileNotFoundError):
                pack = self._folder / blob_path(parse_digest(entry.pack))
                if os.stat(pack).st_size == size:
                    yield entry

    def _rows(self, key: TensorIdentity) -> Iterator[tuple[TensorEntry, int]]:
        """Yield places of a tensor, each with the length of the pack."""
        for text, release in self._database.execute(_FIND, (canonical_json(key),)):
            entry = msgspec.json.decode(text, type=TensorEntry)
            if release not in self._records:
                self._records[release] = self._entries(release)
            record = self._records[release].get(canonical_json([key, entry]))
            if record is None:
                raise _Damaged
            yield entry, record.packs[entry.pack]

    def _entries(self, release: str) -> dict[bytes, ReleaseRecord]:
        """Return a release's record by each tensor and source that it has."""
        row = self._database.execute(
            "SELECT name, version FROM releases WHERE digest = ?", (release,)
        ).fetchone()
        try:
            registry = Registry(str(self._folder))  # another process may have published meanwhile
            line = registry.line(*row) if row is not None else None
            if line is None or line.release != release:
                raise _Damaged
            record = registry.record(line)
        except ModpkgError:
            raise _Damaged from None
        return {canonical_json([identity_of(e), e]): record for _, e in labelled_entries(record)}

    # Making it -----------------------------------------------------------------------------

    def _open(self, anew: bool = False) -> sqlite3.Connection:
        """Return the lookup, brought up to date; in memory, when it cannot be written."""
        path = self._folder / PLACE
        self._records.clear()
        for again in (anew, True):
            with (
                contextlib.suppress(OSError, sqlite3.Error, _Damaged),
                folder_lock(self._folder, ".lookup"),
            ):
                return self._from_file(path, again)
        return self._refreshed(_connect(":memory:"), fresh=True)

    def _from_file(self, path: Path, anew: bool) -> sqlite3.Connection:
        """Return the lookup in a file; the folder's lock is held, so nobody else changes it."""
        make_folder(path.parent)
        if anew:
            for leftover in (path, path.with_name(f"{path.name}-journal")):
                leftover.unlink(missing_ok=True)
        fresh = not path.exists()
        database = _connect(str(path))
        try:
            if fresh:
                path.touch()
                path.chmod(shared_mode(path.parent))
            return self._refreshed(database, fresh)
        except BaseException:
            database.close()
            raise

    def _refreshed(self, database: sqlite3.Connection, fresh: bool) -> sqlite3.Connection:
        """Add the releases that came since, and return the lookup.

        Raises:
            _Damaged: releases went, or it is not of this version: it has to be made anew.
        """
        with database:
            if fresh:
                for statement in _TABLES:
                    database.execute(statement)
            elif database.execute("PRAGMA user_version").fetchone() != (VERSION,):
                raise _Damaged
            stamps = self._stamps()
            had = dict(database.execute("SELECT name, stamp FROM modules"))
            changed = [name for name in stamps if had.get(name) != stamps[name]]
            registry = Registry(str(self._folder))
            lines = {line.release: line for name in changed for line in _lines(registry, name)}
            rows = database.execute("SELECT digest, name FROM releases").fetchall()
            for digest, name in rows:
                if name not in stamps or (name in changed and digest not in lines):
                    raise _Damaged
            broken = {
                lines[release].name
                for release in sorted(lines.keys() - {digest for digest, _ in rows})
                if not _add(database, registry, lines[release])
            }
            database.executemany(
                "INSERT OR REPLACE INTO modules VALUES (?, ?)",
                [(name, stamps[name]) for name in changed if name not in broken],
            )
        return database

    def _stamps(self) -> dict[str, str]:
        """Return what changes of each index file whenever it is written."""
        stamps = {}
        for entry in os.scandir(self._folder / "index"):
            if entry.name.endswith(".jsonl"):
                found = entry.stat()
                stamp = f"{found.st_ino} {found.st_size} {found.st_mtime_ns}"
                stamps[entry.name[: -len(".jsonl")]] = stamp
        return stamps


def _lines(registry: Registry, name: str) -> list[IndexLine]:
    """Return a module's releases; none when its index cannot be used."""
    try:
        return registry.index(name)
    except ModpkgError:
        return []


def _add(database: sqlite3.Connection, registry: Registry, line: IndexLine) -> bool:
    """Add a release; False when its record is not sound, so that nothing refers to it."""
    try:
        record = registry.record(line)
        check_record(record)
    except ModpkgError:
        return False
    find = entries_by_identity(record).get
    database.execute(
        "INSERT INTO releases VALUES (?, ?, ?)", (line.release, line.name, line.version)
    )
    database.executemany(
        _ADD,
        [
            (
                canonical_json(identity_of(e)),
                canonical_json(e),
                len(chain_of(e, find)),
                line.release,
            )
            for _, e in labelled_entries(record)
        ],
    )
    return True
