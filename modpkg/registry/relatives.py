"""The tensors of a registry without a lookup of its own: those that a release's relatives have.

Relatives are the other releases of its name, its base, what it was forked or merged from, and what
it requires. Only their records are read. They decide what need not be sent again, and nothing else:
what they do not tell is sent, or verified, as if the registry had none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct
from packaging.version import Version

from modpkg.core.bounds import RELATED_RECORDS, RELATED_TENSORS, RELATED_VERSIONS
from modpkg.core.digests import blob_path, parse_digest
from modpkg.core.errors import ModpkgError, PackError
from modpkg.core.names import parse_requirement, parse_version
from modpkg.core.records import IndexLine, ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tensors import TensorIdentity, identity_of
from modpkg.core.tree import BlobTree
from modpkg.manifest.schema import Manifest
from modpkg.registry.place import Place, registry_at
from modpkg.registry.reader import Registry
from modpkg.release.places import chain_of, entries_by_identity, labelled_entries
from modpkg.release.tensors import TensorReader
from modpkg.release.verify import check_record


class Relatives(Struct, frozen=True):
    """What a release is related to."""

    name: str
    version: Version
    origins: Sequence[tuple[str, Version]] = ()
    """Releases that it was made from."""
    required: Sequence[str] = ()
    """Names of which it needs some release."""


def relatives_of_project(manifest: Manifest, name: str, version: Version) -> Relatives:
    """Return what a module is related to, before it is built."""
    against = manifest.module.against if manifest.module is not None else None
    origins = [(origin.name, origin.version) for origin in manifest.origins]
    if against is not None and against.name is not None:
        origins.append((against.name, against.version))
    required = [dependency.name for dependency in manifest.dependencies]
    return Relatives(name, version, origins, required)


def relatives_of_release(record: ReleaseRecord) -> Relatives:
    """Return what a built release is related to."""
    origins = [
        (origin.name, parse_version(origin.version)) for origin in record.provenance.built_from
    ]
    required = [str(parse_requirement(text).name) for text in record.requires]
    return Relatives(record.name, parse_version(record.version), origins, required)


class RelatedTensors:
    """The tensors of a place that a release's relatives have (`modpkg.release.known`)."""

    def __init__(self, place: Place, relatives: Relatives, cache: BlobTree | None = None) -> None:
        """``cache`` is where records are kept."""
        self._place = place
        self._relatives = relatives
        self._registry = registry_at(place, cache)
        self._reader = _RangeReader(self._registry, self._existing)
        self._sizes: dict[str, int | None] = {}

    def find(self, identity: TensorIdentity) -> TensorEntry | None:
        return next(self._places(identity), None)

    def holds(self, entry: TensorEntry) -> bool:
        """Return whether a relative has this tensor in this very place."""
        return entry in self._places(identity_of(entry))

    def _places(self, identity: TensorIdentity) -> Iterator[TensorEntry]:
        """Yield the places of a tensor, whose packs are there, the shortest chain first."""
        for _, _, entry in self._entries.get(identity, ()):
            if self._is_whole(entry.pack):
                yield entry

    def _is_whole(self, pack: str) -> bool:
        if pack not in self._sizes:
            self._sizes[pack] = self._place.size(blob_path(parse_digest(pack)))
        return self._sizes[pack] == self._packs[pack]

    def _existing(self, identity: TensorIdentity) -> TensorEntry:
        entry = self.find(identity)
        if entry is None:
            raise AssertionError(f"{identity.digest} was found before")
        return entry

    def size(self, pack: str) -> int:
        return self._packs[pack]

    def read(self, entry: TensorEntry, what: str) -> memoryview:
        return self._reader.read(entry, what)

    def earlier(
        self, provides: str | None, keys: Mapping[str, TensorIdentity]
    ) -> Mapping[str, TensorEntry]:
        """Return the tensors of the newest lower version, as of a folder's `KnownTensors`.

        If there is none: of the relative with the same interface that shares most tensors.
        """
        own = self._relatives
        lower = [
            (parse_version(line.version), record.tensors)
            for line, record in self._records
            if line.name == own.name and parse_version(line.version) < own.version
        ]
        if lower:
            return max(lower, key=lambda pair: pair[0])[1]
        wanted = set(keys.values())
        ranked = [
            (
                len(wanted & {identity_of(entry) for entry in record.tensors.values()}),
                (line.published, line.name, line.release),
                record.tensors,
            )
            for line, record in self._records
            if provides is not None and line.provides == provides
        ]
        return max(ranked, key=lambda each: each[:2])[2] if ranked else {}

    @cached_property
    def _records(self) -> list[tuple[IndexLine, ReleaseRecord]]:
        """The relatives, with their records; damaged ones are nobody's."""
        found, tensors = [], 0
        for line in self._lines():
            try:
                record = self._registry.record(line)
                check_record(record)
            except ModpkgError:
                continue
            found.append((line, record))
            tensors += len(record.tensors)
            if len(found) == RELATED_RECORDS or tensors > RELATED_TENSORS:
                break
        return found

    def _lines(self) -> Iterator[IndexLine]:
        """Yield the relatives' index lines, each once, the nearest first."""
        own, seen = self._relatives, set[str]()
        named = {version for name, version in own.origins if name == own.name}
        lines = _newest(self._index(own.name))
        lower = [line for line in lines if parse_version(line.version) <= own.version]
        groups: list[Iterable[IndexLine]] = [
            lower[: RELATED_RECORDS // 2],
            *(
                [line for line in self._index(name) if parse_version(line.version) == version]
                for name, version in own.origins
                if name != own.name
            ),
            [line for line in lines if parse_version(line.version) in named],
            *(_newest(self._index(name))[:RELATED_VERSIONS] for name in own.required),
            lines,
        ]
        for line in (line for group in groups for line in group):
            if line.release not in seen:
                seen.add(line.release)
                yield line

    def _index(self, name: str) -> list[IndexLine]:
        try:
            return self._registry.index(name)
        except ModpkgError:
            return []

    @cached_property
    def _packs(self) -> dict[str, int]:
        return {pack: size for _, record in self._records for pack, size in record.packs.items()}

    @cached_property
    def _entries(self) -> dict[TensorIdentity, list[tuple[int, bytes, TensorEntry]]]:
        """The places of each tensor: the length of its chain, its text, and itself; sorted."""
        found: dict[TensorIdentity, dict[bytes, tuple[int, bytes, TensorEntry]]] = {}
        for _, record in self._records:
            find = entries_by_identity(record).get
            for _, entry in labelled_entries(record):
                text, depth = canonical_json(entry), len(chain_of(entry, find))
                places = found.setdefault(identity_of(entry), {})
                places[text] = min(places.get(text, (depth, text, entry)), (depth, text, entry))
        return {
            key: sorted(places.values(), key=lambda place: place[:2])
            for key, places in found.items()
        }


def _newest(lines: list[IndexLine]) -> list[IndexLine]:
    return sorted(lines, key=lambda line: parse_version(line.version), reverse=True)


class _RangeReader(TensorReader):
    """Reads tensors from a registry by the ranges of packs that they are in."""

    def __init__(self, registry: Registry, find: Callable[[TensorIdentity], TensorEntry]) -> None:
        super().__init__(lambda digest: Path(blob_path(digest)), find)
        self._registry = registry

    def _stored(self, entry: TensorEntry, what: str) -> memoryview:
        pack, stop = parse_digest(entry.pack), entry.offset + entry.length
        data = b"".join(self._registry.stream(pack, what, entry.offset, stop))
        if len(data) != entry.length:
            raise PackError("M201", path=blob_path(pack), reason=f"it ends before {what}")
        return memoryview(data)
