"""The tensors of a registry folder that a build can refer to, or write changes to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from packaging.version import Version

from modpkg.core.digests import parse_digest
from modpkg.core.names import parse_version
from modpkg.core.records import IndexLine, ReleaseRecord, TensorEntry
from modpkg.core.tensors import TensorIdentity, identity_of
from modpkg.core.tree import BlobTree
from modpkg.registry.lookup import TensorLookup
from modpkg.registry.place import Place, is_registry
from modpkg.registry.reader import Registry
from modpkg.registry.relatives import RelatedTensors, Relatives, relatives_of_release
from modpkg.registry.standing import without_removed
from modpkg.release.tensors import TensorReader


class KnownTensors:
    """The tensors of a registry folder, for the build of one release (`modpkg.release.known`)."""

    def __init__(self, folder: Path, name: str, version: Version) -> None:
        self._blobs = BlobTree(folder)
        self._registry = Registry(str(folder))
        self._lookup = TensorLookup(folder)
        self._reader = TensorReader(self._blobs.path, self._existing)
        self._name = name
        self._version = version

    def find(self, identity: TensorIdentity) -> TensorEntry | None:
        return self._lookup.find(identity)

    def _existing(self, identity: TensorIdentity) -> TensorEntry:
        entry = self._lookup.find(identity)
        if entry is None:
            raise AssertionError(f"{identity.digest} was found before")
        return entry

    def size(self, pack: str) -> int:
        return self._blobs.path(parse_digest(pack)).stat().st_size

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        return self._reader.read(entry, what)

    def earlier(
        self, provides: str | None, keys: Mapping[str, TensorIdentity]
    ) -> Mapping[str, TensorEntry]:
        """Return the tensors of the newest lower version of the module, yanked or not.

        If there is none (a fork or a copy): of the release with the same interface that shares most
        tensors with the build, and of several of these the one published last.
        """
        lower = [
            line
            for line in without_removed(self._registry.index(self._name))
            if parse_version(line.version) < self._version
        ]
        if lower:
            line = max(lower, key=lambda line: parse_version(line.version))
            return self._registry.record(line).tensors
        wanted = set(keys.values())
        best: tuple[tuple[int, str, str, str], Mapping[str, TensorEntry]] | None = None
        for line in self._providing(provides):
            tensors = self._registry.record(line).tensors
            shared = len(wanted & {identity_of(entry) for entry in tensors.values()})
            rank = (shared, line.published, line.name, line.release)
            if best is None or rank > best[0]:
                best = (rank, tensors)
        return {} if best is None else best[1]

    def _providing(self, provides: str | None) -> list[IndexLine]:
        """Return the releases of any name that provide this interface."""
        if provides is None:
            return []
        names = self._registry.names() or []
        return [
            line
            for name in names
            for line in without_removed(self._registry.index(name))
            if line.provides == provides
        ]


def known_tensors(
    place: Place, relatives: Relatives, cache: BlobTree | None = None
) -> KnownTensors | RelatedTensors | None:
    """Return what a build for that place can refer to; None if there is no registry yet.

    ``relatives`` are those of the module that is built, and ``cache`` is where records are kept.
    """
    if not is_registry(place):
        return None
    if place.folder is None:
        return RelatedTensors(place, relatives, cache)
    return KnownTensors(place.folder, relatives.name, relatives.version)


@contextlib.contextmanager
def published_tensors(
    place: Place, record: ReleaseRecord
) -> Iterator[Callable[[TensorEntry], bool]]:
    """Give a function that returns whether a published release has a tensor in this very place."""
    if place.folder is None:
        yield RelatedTensors(place, relatives_of_release(record)).holds
        return
    with contextlib.closing(TensorLookup(place.folder)) as lookup:
        yield lookup.holds


def remember_published(place: Place) -> None:
    """Bring what a place has for finding tensors up to date, after a release was published.

    Raises:
        OSError, ModpkgError: That is not possible; nothing depends on it.
    """
    if place.folder is not None:
        TensorLookup(place.folder).close()  # opening it updates it
