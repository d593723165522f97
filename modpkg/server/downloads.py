"""How often releases were fetched: counted in memory, and written every now and then.

A release is fetched when its record is, of which nothing else has a part. Readers of a CDN, of the
storage itself, and of copies on their own machines are not counted.
"""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from msgspec import Struct
from sqlalchemy.dialects import postgresql, sqlite

from modpkg.core import bounds
from modpkg.core.errors import ModpkgError
from modpkg.registry.place import Place, registry_at
from modpkg.registry.source import FileMissing
from modpkg.server.clock import now
from modpkg.server.database import Database
from modpkg.server.tables import DownloadCount

_MOST = 20_000
"""Blobs that are counted until the next time they are written; others are not."""
_BLOBS = "/blobs/"
_BEGINNING = b'{"expects":'
"""Of a release record, which is canonical JSON."""


class _CalledRelease(Struct):
    """What a release record calls itself."""

    name: str
    version: str


class DownloadTally:
    """The downloads that are not written yet."""

    def __init__(self, place: Place, database: Database) -> None:
        self._place = place
        self._database = database
        self._counts: dict[str, int] = {}
        self._known: dict[str, _CalledRelease | None] = {}

    def note(self, path: str) -> None:
        """Note that a file was sent, whole."""
        if path.startswith(_BLOBS):
            counts = self._counts
            if path in counts:
                counts[path] += 1
            elif len(counts) < _MOST:
                counts[path] = 1

    def write(self) -> None:
        """Add what was noted to the counts of the day."""
        counts, self._counts = self._counts, {}
        found: dict[tuple[str, str], int] = {}
        for path, count in counts.items():
            if (release := self._release(path)) is not None:
                key = release.name, release.version
                found[key] = found.get(key, 0) + count
        if found:
            self._add(found, now().date())

    def _release(self, path: str) -> _CalledRelease | None:
        """Return which release a blob is the record of; None for any other blob."""
        if path not in self._known:
            if len(self._known) > _MOST:
                self._known.clear()
            self._known[path] = self._read(path[1:])
        return self._known[path]

    def _read(self, path: str) -> _CalledRelease | None:
        source = self._place.source
        try:
            if b"".join(source.stream(path, 0, len(_BEGINNING))) != _BEGINNING:
                return None
            record = msgspec.json.decode(
                source.read(path, bounds.RECORD_BYTES), type=_CalledRelease
            )
            digest = f"sha256:{path[-64:]}"
            lines = registry_at(self._place).index(record.name)
        except (ModpkgError, FileMissing, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return record if any(line.release == digest for line in lines) else None

    def _add(self, found: dict[tuple[str, str], int], day: datetime.date) -> None:
        rows = [
            {"module": module, "version": version, "day": day.isoformat(), "count": count}
            for (module, version), count in sorted(found.items())
        ]
        is_sqlite = self._database.engine.dialect.name == "sqlite"
        insert: Any = (sqlite if is_sqlite else postgresql).insert(DownloadCount)
        more = insert.on_conflict_do_update(
            index_elements=["module", "version", "day"],
            set_={"count": DownloadCount.count + insert.excluded.count},
        )
        with self._database.begin() as db:
            db.execute(more, rows)
