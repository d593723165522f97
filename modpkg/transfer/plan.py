"""What has to be fetched before a lock's modules are all on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from modpkg.digests import Digest, parse_digest
from modpkg.errors import BadRecord, ModpkgError
from modpkg.lock import LockedModule
from modpkg.records import ReleaseRecord, decode_record
from modpkg.registry.reader import Registry
from modpkg.release.verify import check_record
from modpkg.store.store import Store


class Fetch(Struct, frozen=True):
    """One blob that is missing."""

    digest: Digest
    size: int
    what: str
    module: str
    registry: Registry


class TransferPlan(Struct, frozen=True):
    """What to fetch, and what is here already."""

    records: dict[str, ReleaseRecord]
    """By module name, the release record of every locked module."""
    fetches: tuple[Fetch, ...]
    here: int
    """Bytes of the lock's blobs that the store has."""

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(fetch.size for fetch in self.fetches)

    def missing_of(self, module: str) -> int:
        """Bytes to fetch for one module."""
        return sum(fetch.size for fetch in self.fetches if fetch.module == module)


def plan_transfer(
    modules: Sequence[LockedModule], registries: Mapping[str, Registry], store: Store
) -> TransferPlan:
    """Read the release records (from the store, else the registry) and list missing blobs.

    Raises:
        DigestMismatch, BadRecord, BlobMissing: a record is not what the lock names.
        Offline, RegistryUnreachable, RegistryMissing: a record is not here and not to be had.
    """
    records: dict[str, ReleaseRecord] = {}
    fetches: dict[Digest, Fetch] = {}
    here: dict[Digest, int] = {}
    for module in modules:
        registry = registries[module.name]
        record = _record(module, registry, store)
        records[module.name] = record
        blobs = [(pack, size, "weights") for pack, size in record.packs.items()]
        blobs += [(entry.digest, entry.size, path) for path, entry in record.files.items()]
        for text, size, what in blobs:
            digest = parse_digest(text)
            if store.size_of(digest) == size:
                here[digest] = size
            elif digest not in fetches:
                label = f"{what} of {module.name} {module.version}"
                fetches[digest] = Fetch(digest, size, label, module.name, registry)
    return TransferPlan(records=records, fetches=tuple(fetches.values()), here=sum(here.values()))


def _record(module: LockedModule, registry: Registry, store: Store) -> ReleaseRecord:
    what = f"the release record of {module.name} {module.version}"
    try:
        record = store.record(module.release, what)
    except ModpkgError:
        store.blobs.path(parse_digest(module.release)).unlink(missing_ok=True)
        store.forget_checked(module.release)
        record = None
    if record is None:
        data = registry.blob(parse_digest(module.release), what)
        store.blobs.add(data)
        record = decode_record(data, ReleaseRecord, what)
    if (record.name, record.version, record.kind) != (module.name, module.version, module.kind):
        raise BadRecord(
            what=what,
            kind="release record",
            reason=f"it is of {record.name} {record.version} ({record.kind})",
        )
    check_record(record)
    return record
