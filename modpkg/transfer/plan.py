"""What has to be fetched before a lock's modules are all on this machine."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import RecordError
from modpkg.core.records import ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tensors import byte_length, type_of
from modpkg.registry.reader import Registry
from modpkg.release.places import labelled_entries
from modpkg.release.verify import check_record
from modpkg.resolve.lock import LockedModule
from modpkg.store.packs import lay_out
from modpkg.store.store import Store, TensorLocation, alignments
from modpkg.transfer.ranges import Span, length, subtract
from modpkg.transfer.staging import PACK, SPOOL, PackFetch, allocated, written

_ALIGNED = 64


class FileFetch(Struct, frozen=True):
    """One file that is missing."""

    digest: Digest
    size: int
    what: str
    module: str
    registry: Registry


class TensorFetch(Struct, frozen=True, kw_only=True):
    """One tensor that is missing."""

    entry: TensorEntry
    what: str
    module: str
    """That it is fetched for."""
    label: str
    """The module with its version."""
    registry: Registry
    staging: str
    """Name of the unfinished pack that it goes through."""
    payload: tuple[int, Span]
    """Where the fetched bytes go: which of the unfinished pack's files, and where in it."""
    final: tuple[int, Span]
    """Where its own bytes are in the end: the same place, when they need no decoding."""


class TransferPlan(Struct, frozen=True, kw_only=True):
    """What to fetch, and what is here already."""

    records: dict[str, ReleaseRecord]
    """By module name, the release record of every locked module."""
    files: tuple[FileFetch, ...]
    tensors: tuple[TensorFetch, ...]
    """Each comes after the one that it is decoded on."""
    packs: tuple[PackFetch, ...]
    places: dict[str, TensorLocation]
    """By digest, where every tensor of every module lies, or will lie."""
    bases: dict[str, TensorLocation]
    """By digest, where tensors lie that fetched ones are decoded on, for those that are here."""
    fetch: dict[str, int]
    """By module, bytes to fetch for it; none that an interrupted fetch has left here."""
    here: int
    """Bytes of the lock's files and tensors that are here, unfinished packs among them."""
    disk: int
    """Bytes that fetching will take on the disk."""

    @property
    def needed(self) -> bool:
        """Say whether anything is missing."""
        return bool(self.files or self.tensors)

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(self.fetch.values())

    def missing_of(self, module: str) -> int:
        """Bytes to fetch for one module."""
        return self.fetch.get(module, 0)


def plan_transfer(
    modules: Sequence[LockedModule], registries: Mapping[str, Registry], store: Store
) -> TransferPlan:
    """Read the release records (from the store, else the registry) and list what is missing.

    Raises:
        IntegrityError, RecordError: a record is not what the lock names.
        InstallError, RegistryUnreachable, NotFound: a record is not here and not to be had.
    """
    records = {m.name: _record(m, registries[m.name], store) for m in modules}
    fetch: dict[str, int] = {}
    here: dict[str, int] = {}
    files: dict[Digest, FileFetch] = {}
    for module in modules:
        for path, file in records[module.name].files.items():
            digest = parse_digest(file.digest)
            if store.size_of(digest) == file.size:
                here[digest] = file.size
            elif digest not in files:
                what = f"{path} of {module.name} {module.version}"
                registry = registries[module.name]
                files[digest] = FileFetch(digest, file.size, what, module.name, registry)
                fetch[module.name] = fetch.get(module.name, 0) + file.size
    planner = _TensorPlanner(records, registries, store)
    planner.run()
    disk = sum(file.size for file in files.values())
    folder = store.root / "partial"
    resumed = 0
    for pack in planner.packs:
        disk += max(0, sum(pack.sizes) - allocated(folder, pack.staging))
    done = {pack.staging: written(folder, pack.staging, pack.sizes) for pack in planner.packs}
    for tensor in planner.tensors:
        area, span = tensor.payload
        left = length(subtract([span], done[tensor.staging][area]))
        resumed += span[1] - span[0] - left
        fetch[tensor.module] = fetch.get(tensor.module, 0) + left
    return TransferPlan(
        records=records,
        files=tuple(files.values()),
        tensors=tuple(planner.tensors),
        packs=tuple(planner.packs),
        places=planner.places,
        bases=planner.bases,
        fetch=fetch,
        here=sum(here.values()) + planner.here + resumed,
        disk=disk,
    )


class _Wanted(Struct, frozen=True):
    """A missing tensor before it has a place."""

    entry: TensorEntry
    what: str
    source: str
    """The module whose record tells where it is fetched from."""
    owner: str
    """The module whose pack it goes into, or is fetched beside."""
    kept: bool


class _TensorPlanner:
    """Which tensors are missing, in an order in which they can be decoded, and where they go."""

    def __init__(
        self, records: Mapping[str, ReleaseRecord], registries: Mapping[str, Registry], store: Store
    ) -> None:
        self._records = records
        self._registries = registries
        self._store = store
        self.tensors: list[TensorFetch] = []
        self.packs: list[PackFetch] = []
        self._entries = {
            name: {entry.digest: (what, entry) for what, entry in labelled_entries(record)}
            for name, record in records.items()
        }
        wanted = alignments(*records.values())
        self.places = store.find(wanted)
        self._owners: dict[str, str] = {}
        """By digest of a missing tensor, the first module that has it under a name."""
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, record in records.items():
            for entry in record.tensors.values():
                if entry.digest in self.places:
                    continue
                self._owners.setdefault(entry.digest, name)
                if DTYPE_BYTES[entry.dtype] == wanted[entry.digest]:
                    kind = type_of(entry)
                    self._kinds[entry.digest] = min(kind, self._kinds.get(entry.digest, kind))
        bases = {
            entry.encoding.base: 1
            for entries in self._entries.values()
            for _, entry in entries.values()
            if entry.digest not in self.places
            and entry.encoding is not None
            and entry.encoding.base is not None
        }
        self.bases = store.find(bases)
        self.here = sum(place.length for place in self.places.values())
        self._listed: dict[str, _Wanted] = {}

    def run(self) -> None:
        for digest, owner in self._owners.items():
            self._list(digest, owner)
        for name in self._records:
            if any(wanted.owner == name for wanted in self._listed.values()):
                self._place(name)
        order = {digest: number for number, digest in enumerate(self._listed)}
        self.tensors.sort(key=lambda tensor: order[tensor.entry.digest])

    def _list(self, digest: str, source: str) -> None:
        """List a tensor, after the one that it is decoded on; `check_record` bounds the chain."""
        if digest in self._listed:
            return
        what, entry = self._entries[source][digest]
        base = entry.encoding.base if entry.encoding is not None else None
        if base is not None and base not in self.bases:
            self._list(base, source)
        owner = self._owners.get(digest)
        self._listed[digest] = _Wanted(entry, what, source, owner or source, owner is not None)

    def _place(self, name: str) -> None:
        """Lay out the pack of one module, and the spool beside it."""
        mine = [wanted for wanted in self._listed.values() if wanted.owner == name]
        layout = lay_out({w.entry.digest: self._kinds[w.entry.digest] for w in mine if w.kept})
        payloads: dict[str, tuple[int, Span]] = {}
        finals: dict[str, tuple[int, Span]] = {}
        end = 0

        def spooled(size: int) -> tuple[int, Span]:
            nonlocal end
            start = end
            end += size + -size % _ALIGNED
            return SPOOL, (start, start + size)

        account: list[Any] = []
        for wanted in mine:
            entry = wanted.entry
            digest = entry.digest
            if wanted.kept:
                place = layout.places[digest]
                finals[digest] = PACK, (place.offset, place.offset + place.length)
                self.places[digest] = TensorLocation(layout.name, place.offset, place.length)
            else:
                finals[digest] = spooled(byte_length(entry))
            payloads[digest] = finals[digest] if entry.encoding is None else spooled(entry.length)
            if payloads[digest][0] == SPOOL:
                account.append([entry, wanted.kept])
        staging = layout.name
        if account:  # another spool makes other unfinished files, of the same pack
            staging += "-" + hashlib.sha256(canonical_json(account)).hexdigest()[:16]
        self.packs.append(PackFetch(staging=staging, layout=layout, spool=end))
        for wanted in mine:
            record = self._records[wanted.source]
            label = f"{record.name} {record.version}"
            self.tensors.append(
                TensorFetch(
                    entry=wanted.entry,
                    what=f"{wanted.what} of {label}",
                    module=wanted.source,
                    label=label,
                    registry=self._registries[wanted.source],
                    staging=staging,
                    payload=payloads[wanted.entry.digest],
                    final=finals[wanted.entry.digest],
                )
            )


def _record(module: LockedModule, registry: Registry, store: Store) -> ReleaseRecord:
    """Return a locked module's release record, which is in the store then."""
    what = f"the release record of {module.name} {module.version}"
    record = registry.release(module.release, what)
    digest = parse_digest(module.release)
    if not store.blobs.has(digest):
        store.blobs.add(registry.blob(digest, what))
    if (record.name, record.version, record.kind) != (module.name, module.version, module.kind):
        raise RecordError(
            "M209",
            what=what,
            kind="release record",
            reason=f"it is of {record.name} {record.version} ({record.kind})",
        )
    check_record(record)
    return record
