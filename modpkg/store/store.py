"""The store: the tensors and files of all installed releases, each once and verified."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import IntegrityError, PackError
from modpkg.core.file_lock import file_lock
from modpkg.core.files import write_atomically
from modpkg.core.installed import InstalledModule, TensorRef
from modpkg.core.ownership import check_links_of_owner
from modpkg.core.packs import PackTensor
from modpkg.core.records import ReleaseRecord, decode_record
from modpkg.core.tree import BlobTree
from modpkg.core.verified import VerifiedFiles
from modpkg.store.packs import PackFolder, PackLayout
from modpkg.store.projects import Projects
from modpkg.store.tensors import TensorIndex

FOLDERS = (
    *("blobs", "blobs/sha256", "packs", "partial", "composed", "tested", "checked"),
    *("projects", "index-cache"),
)
"""The folders of a store."""
FILES = ("tensors.sqlite", "tensors.sqlite-wal", "tensors.sqlite-shm", "tensors.sqlite-journal")
"""Its index, and what SQLite keeps beside it."""


class TensorLocation(Struct, frozen=True):
    """Where a tensor is in the store, or will be once it is fetched."""

    pack: str
    """Name of the pack: 64 hex digits."""
    offset: int
    """In bytes, from the beginning of the file."""
    length: int
    """In bytes."""


class Store:
    """One folder per user; ``docs/store.md`` describes its layout.

    ``blobs`` has files, release records and interfaces; ``packs`` has tensors, in other packs
    than those of the registry that they came from.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobTree(root)
        self.packs = PackFolder(root / "packs")
        self.index = TensorIndex(root / "tensors.sqlite", self.packs)
        self.projects = Projects(root / "projects")
        self.verified = VerifiedFiles()
        """Packs whose tensors this process has verified, when it fetched them."""
        self._read: dict[str, dict[str, PackTensor]] = {}
        self._holders: set[int] = set()
        """The threads of this process that hold the lock."""

    @contextlib.contextmanager
    def lock(self, *, exclusive: bool = False) -> Iterator[None]:
        """Lock the store while its contents are relied on; ``exclusive`` to remove any of them.

        Who holds it may ask for it again, to rely on them.

        Raises:
            InstallError: A part of it is a link of somebody else, or locks do not work.
        """
        thread = threading.get_ident()
        if thread in self._holders and not exclusive:
            yield
            return
        check_links_of_owner(self.root, FOLDERS)
        with file_lock(self.root / "lock", exclusive=exclusive):
            self._holders.add(thread)
            try:
                yield
            finally:
                self._holders.discard(thread)

    def record(self, release: str, what: str) -> ReleaseRecord | None:
        """Return a release record; None if it is not in the store. ``what`` names it in errors.

        Raises:
            IntegrityError, RecordError: The record is damaged.
        """
        digest = parse_digest(release)
        if not self.blobs.has(digest):
            return None
        return decode_record(self.blobs.read(digest, what), ReleaseRecord, what)

    def is_checked(self, release: str) -> bool:
        """Return whether a release as a whole was checked."""
        return self._mark(release).exists()

    def mark_checked(self, release: str) -> None:
        """Record that a release as a whole was checked, and that it is used now."""
        try:
            os.utime(self._mark(release))
        except FileNotFoundError:
            write_atomically(self._mark(release), b"")
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise  # that it is used cannot be recorded in a store that is only read

    def forget_checked(self, release: str) -> None:
        """Remove the record that a release was checked."""
        self._mark(release).unlink(missing_ok=True)

    def _mark(self, release: str) -> Path:
        return self.root / "checked" / parse_digest(release)[7:]

    def size_of(self, digest: Digest) -> int | None:
        """Return the length of a blob in bytes; None if it is not in the store."""
        try:
            return self.blobs.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def find(self, wanted: Mapping[str, int]) -> dict[str, TensorLocation]:
        """Return the location of each tensor that is in the store, by digest.

        Args:
            wanted: By digest, the bytes per element: a tensor whose offset is not a multiple of it
                counts as missing. Of several locations, the one is returned whose pack has most of
                the other tensors.
        """
        for _ in range(2):
            candidates = self.index.packs_with(wanted)
            try:
                return self._places(wanted, candidates)
            except PackError:  # the index names a tensor that its pack lacks
                self._read.clear()
                self.index.rebuild()
        return {}

    def _places(
        self, wanted: Mapping[str, int], candidates: Mapping[str, list[str]]
    ) -> dict[str, TensorLocation]:
        counts = Counter(name for names in candidates.values() for name in names)
        locations = {}
        for digest, names in candidates.items():
            for name in sorted(names, key=lambda name: (-counts[name], name)):
                if name not in self._read:
                    self._read[name] = self.packs.read(name)
                place = self._read[name].get(digest)
                if place is None:
                    raise PackError(
                        "M201", path=self.packs.path(name), reason="a tensor is missing"
                    )
                if place.offset % wanted[digest] == 0:
                    locations[digest] = TensorLocation(name, place.offset, place.length)
                    break
        return locations

    def add_pack(self, staged: Path, layout: PackLayout) -> None:
        """Move a finished pack, whose tensors were all verified, into the store."""
        self.packs.adopt(staged, layout.name)
        self.verified.add(self.packs.path(layout.name))
        self.index.add_pack(layout.name, layout.size, layout.places)

    def module(
        self,
        record: ReleaseRecord,
        release: str,
        places: Mapping[str, TensorLocation] | None = None,
    ) -> InstalledModule:
        """Return a module as composing takes it.

        Args:
            places: By digest, the locations of its tensors; looked up in the store if None.

        Raises:
            IntegrityError: A tensor is missing.
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
    """Return by digest the most bytes per element that any tensor with this digest has."""
    widths: dict[str, int] = {}
    for record in records:
        for entry in record.tensors.values():
            width = DTYPE_BYTES[entry.dtype]
            widths[entry.digest] = max(width, widths.get(entry.digest, 1))
    return widths
