"""The store: every tensor and file of every release on this machine, each verified."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import IntegrityError, PackError
from modpkg.core.files import write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.packs import PackTensor
from modpkg.core.records import ReleaseRecord, decode_record
from modpkg.core.tree import BlobTree
from modpkg.store.packs import PackFolder, PackLayout
from modpkg.store.projects import Projects
from modpkg.store.shared_lock import file_lock
from modpkg.store.tensors import TensorIndex


class Place(Struct, frozen=True):
    """Where a tensor's bytes lie in the store, or will lie."""

    pack: str
    """Name of the pack: 64 hex digits."""
    offset: int
    length: int


class Store:
    """One folder per user; ``docs/store.md`` describes what lies where.

    ``blobs`` has files, release records and interfaces; ``packs`` has tensors, under names of this
    machine's own, whichever registry's pack they came in.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobTree(root)
        self.packs = PackFolder(root / "packs")
        self.index = TensorIndex(root / "tensors.sqlite", self.packs)
        self.projects = Projects(root / "projects")
        self._read: dict[str, dict[str, PackTensor]] = {}

    @contextlib.contextmanager
    def used(self, *, alone: bool = False) -> Iterator[None]:
        """Hold the store while things in it are relied on; ``alone`` while things are removed."""
        with file_lock(self.root / "lock", exclusive=alone):
            yield

    def record(self, release: str, what: str) -> ReleaseRecord | None:
        """Return a release record that is here; None when it is not.

        Raises:
            IntegrityError, RecordError: what is here is damaged.
        """
        digest = parse_digest(release)
        if not self.blobs.has(digest):
            return None
        return decode_record(self.blobs.read(digest, what), ReleaseRecord, what)

    def is_checked(self, release: str) -> bool:
        """Say whether a release was checked as a whole."""
        return self._mark(release).exists()

    def mark_checked(self, release: str) -> None:
        """Remember that a release was checked as a whole, and that it is used now."""
        try:
            os.utime(self._mark(release))
        except FileNotFoundError:
            write_atomically(self._mark(release), b"")

    def forget_checked(self, release: str) -> None:
        """Have the release checked again."""
        self._mark(release).unlink(missing_ok=True)

    def last_used(self, release: str) -> float | None:
        """Return when a release was last installed, in seconds of `time.time`; None: never."""
        try:
            return self._mark(release).stat().st_mtime
        except FileNotFoundError:
            return None

    def _mark(self, release: str) -> Path:
        return self.root / "checked" / parse_digest(release)[7:]

    def size_of(self, digest: Digest) -> int | None:
        """Return the length of a blob that is here; None when it is not."""
        try:
            return self.blobs.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def find(self, wanted: Mapping[str, int]) -> dict[str, Place]:
        """Return where tensors lie, for those that are here.

        ``wanted`` is by digest the bytes per element: a tensor that begins at no multiple of it
        counts as not here. Of several places the one is taken whose pack has most of the others.
        """
        for _ in range(2):
            candidates = self.index.packs_with(wanted)
            try:
                return self._places(wanted, candidates)
            except PackError:  # the index has what no pack has
                self._read.clear()
                self.index.rebuild()
        return {}

    def _places(
        self, wanted: Mapping[str, int], candidates: Mapping[str, list[str]]
    ) -> dict[str, Place]:
        counts = Counter(name for names in candidates.values() for name in names)
        found = {}
        for digest, names in candidates.items():
            for name in sorted(names, key=lambda name: (-counts[name], name)):
                if name not in self._read:
                    self._read[name] = self.packs.read(name)
                place = self._read[name].get(digest)
                if place is None:
                    raise PackError(
                        "M201", path=self.packs.path(name), reason="a tensor is not in it"
                    )
                if place.offset % wanted[digest] == 0:
                    found[digest] = Place(name, place.offset, place.length)
                    break
        return found

    def add_pack(self, staged: Path, layout: PackLayout) -> None:
        """Take in a finished pack, every tensor of which was verified."""
        self.packs.adopt(staged, layout.name)
        self.index.add(layout.name, layout.size, layout.places)

    def module(
        self, record: ReleaseRecord, release: str, places: Mapping[str, Place] | None = None
    ) -> InstalledModule:
        """Return a module as composing wants it.

        ``places`` tells by digest where its tensors lie, or will lie; by default they are looked
        up and have to be here.

        Raises:
            IntegrityError: a tensor is not here.
        """
        if places is None:
            places = self.find(alignments(record))
        tensors = {}
        for name, entry in record.tensors.items():
            place = places.get(entry.digest)
            if place is None:
                what = f"tensor {name!r} of {record.name} {record.version}"
                raise IntegrityError("M306", what=what, digest=entry.digest, source=self.root)
            tensors[name] = TensorRef(
                file=str(self.packs.path(place.pack)),
                offset=place.offset,
                length=place.length,
                dtype=entry.dtype,
                shape=entry.shape,
                digest=entry.digest,
            )
        return InstalledModule(
            name=record.name,
            version=record.version,
            kind=record.kind,
            release=release,
            record=record,
            tensors=tensors,
            files={
                path: self.blobs.path(parse_digest(entry.digest))
                for path, entry in record.files.items()
            },
        )


def alignments(*records: ReleaseRecord) -> dict[str, int]:
    """Return by digest the bytes per element of the widest tensor that has these bytes."""
    widths: dict[str, int] = {}
    for record in records:
        for entry in record.tensors.values():
            width = DTYPE_BYTES[entry.dtype]
            widths[entry.digest] = max(width, widths.get(entry.digest, 1))
    return widths
