"""Plans what to fetch so that all modules of a lock are in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import RecordError
from modpkg.core.ranges import Span, left_of, length
from modpkg.core.records import RESTORE, ReleaseRecord, TensorEntry, canonical_json
from modpkg.core.tensors import byte_length, type_of
from modpkg.registry.fetch_pool import fetch_pool
from modpkg.registry.reader import Registry
from modpkg.release.places import labelled_entries
from modpkg.release.unpacking import unbacked
from modpkg.release.verify import check_record
from modpkg.resolve.lock import LockedModule
from modpkg.store.grouping import groups_of
from modpkg.store.packs import lay_out
from modpkg.store.store import Store, TensorLocation, alignments
from modpkg.transfer.staging import PACK, SPOOL, PackFetch, disk_usage, written_spans

if TYPE_CHECKING:
    from concurrent.futures import Executor

_ALIGNED = 64


class FileFetch(Struct, frozen=True):
    """One missing file."""

    digest: Digest
    size: int
    what: str
    module: str
    registry: Registry


class TensorFetch(Struct, frozen=True, kw_only=True):
    """One missing tensor."""

    entry: TensorEntry
    what: str
    module: str
    """The module that it is fetched for."""
    label: str
    """The module with its version."""
    registry: Registry
    staging: str
    """Name of the unfinished pack that it is written to."""
    payload: tuple[int, Span]
    """File and span of the unfinished pack that the fetched bytes are written to."""
    final: tuple[int, Span]
    """File and span of the decoded bytes: the same, if it is not encoded."""


class TransferPlan(Struct, frozen=True, kw_only=True):
    """What to fetch, and what the store has already."""

    records: dict[str, ReleaseRecord]
    """By module name, the release record of every locked module."""
    files: tuple[FileFetch, ...]
    tensors: tuple[TensorFetch, ...]
    """Each after the one that it is decoded on."""
    packs: tuple[PackFetch, ...]
    places: dict[str, TensorLocation]
    """By digest, the location of every tensor of every module, in the store or once fetched."""
    bases: dict[str, TensorLocation]
    """By digest, the locations of tensors in the store that missing ones are decoded on."""
    fetch: dict[str, int]
    """By module, bytes to fetch, without those in unfinished packs."""
    here: int
    """Bytes of files and tensors that are here already, including unfinished packs."""
    disk: int
    """Bytes of disk space that fetching takes."""

    @property
    def needed(self) -> bool:
        """Whether anything is missing."""
        return bool(self.files or self.tensors)

    @property
    def missing(self) -> int:
        """Bytes to fetch."""
        return sum(self.fetch.values())

    def missing_of(self, module: str) -> int:
        """Bytes to fetch for one module."""
        return self.fetch.get(module, 0)


def prefetch_records(
    modules: Sequence[LockedModule], registries: Mapping[str, Registry], pool: Executor
) -> None:
    """Begin to fetch the release records that are not in the store; `plan_transfer` takes them."""
    for module in modules:
        registries[module.name].prefetch_blob(module.release, _what(module), pool)


def plan_transfer(
    modules: Sequence[LockedModule], registries: Mapping[str, Registry], store: Store
) -> TransferPlan:
    """Read the release records, from the store or else the registry, and plan what to fetch.

    Raises:
        IntegrityError, RecordError: A record is damaged, missing, or not of the locked module.
        InstallError: A record is not in the store, and ``--offline`` forbids fetching it.
        RegistryUnreachable, NotFound: The registry of a record that is not in the store cannot be
            read, or does not exist.
    """
    with fetch_pool() as pool:
        prefetch_records(modules, registries, pool)
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
        disk += max(0, sum(pack.sizes) - disk_usage(folder, pack.staging))
    done = {pack.staging: written_spans(folder, pack.staging, pack.sizes) for pack in planner.packs}
    for tensor in planner.tensors:
        area, span = tensor.payload
        left = length(left_of(span, done[tensor.staging][area]))
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
    """A missing tensor that has no location yet."""

    entry: TensorEntry
    what: str
    source: str
    """The module whose release it is fetched from."""
    owner: tuple[str, str]
    """The module, and its group of tensors, whose pack it is stored in, or whose spool."""
    in_pack: bool


class _TensorPlanner:
    """Lists missing tensors in an order in which they can be decoded, and assigns locations."""

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
        self._owners: dict[str, tuple[str, str]] = {}
        """By digest of a missing tensor, the first module that has it under a name, and its group
        there (see `modpkg.store.grouping`)."""
        self._names: dict[str, str] = {}
        """By digest of a missing tensor, that name."""
        self._kinds: dict[str, tuple[str, tuple[int, ...]]] = {}
        for name, record in records.items():
            groups = groups_of(
                record.kind, {name: byte_length(entry) for name, entry in record.tensors.items()}
            )
            for tensor, entry in record.tensors.items():
                if entry.digest in self.places:
                    continue
                self._owners.setdefault(entry.digest, (name, groups[tensor]))
                self._names.setdefault(entry.digest, tensor)
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
        for owner in dict.fromkeys(wanted.owner for wanted in self._listed.values()):
            self._place(owner)
        self._check_unpacking()
        order = {digest: number for number, digest in enumerate(self._listed)}
        self.tensors.sort(key=lambda tensor: order[tensor.entry.digest])

    def _check_unpacking(self) -> None:
        """Refuse what would fill the disk from next to nothing, before a byte is reserved."""
        for name, record in self._records.items():
            wanted = [item for item in self._listed.values() if item.source == name]
            sizes = unbacked(item.entry for item in wanted)
            if not sizes:
                continue
            largest = max(wanted, key=lambda item: sizes[item.entry.digest])
            what = f"{largest.what} of {record.name} {record.version}"
            self._registries[name].allowance.spend("unpacked", sizes.total(), what)

    def _list(self, digest: str, source: tuple[str, str]) -> None:
        """List a tensor after the one that it is decoded on; `check_record` limits the chain."""
        if digest in self._listed:
            return
        what, entry = self._entries[source[0]][digest]
        base = entry.encoding.base if entry.encoding is not None else None
        if base is not None and base not in self.bases:
            self._list(base, source)
        owner = self._owners.get(digest)
        self._listed[digest] = _Wanted(entry, what, source[0], owner or source, owner is not None)

    def _place(self, owner: tuple[str, str]) -> None:
        """Lay out the pack and the spool of one group of a module's tensors."""
        own = [wanted for wanted in self._listed.values() if wanted.owner == owner]
        packed = {self._names[w.entry.digest]: w.entry.digest for w in own if w.in_pack}
        kinds = {name: self._kinds[digest] for name, digest in packed.items()}
        layout = lay_out(kinds, packed)
        payloads: dict[str, tuple[int, Span]] = {}
        finals: dict[str, tuple[int, Span]] = {}
        end = 0

        def spooled(size: int) -> tuple[int, Span]:
            nonlocal end
            start = end
            end += size + -size % _ALIGNED
            return SPOOL, (start, start + size)

        spool_contents: list[Any] = []
        for wanted in own:
            entry = wanted.entry
            digest = entry.digest
            if wanted.in_pack:
                place = layout.places[digest]
                finals[digest] = PACK, (place.offset, place.offset + place.length)
                self.places[digest] = TensorLocation(layout.name, place.offset, place.length)
            else:
                finals[digest] = spooled(byte_length(entry))
            payloads[digest] = finals[digest] if entry.encoding is None else spooled(entry.length)
            if payloads[digest][0] == SPOOL:
                spool_contents.append([entry, wanted.in_pack])
        staging = layout.name
        if spool_contents:  # another spool needs other unfinished files, of the same pack
            staging += "-" + hashlib.sha256(canonical_json(spool_contents)).hexdigest()[:16]
        self.packs.append(PackFetch(staging=staging, layout=layout, spool=end))
        for wanted in own:
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


def _what(module: LockedModule) -> str:
    return f"the release record of {module.name} {module.version}"


def _record(module: LockedModule, registry: Registry, store: Store) -> ReleaseRecord:
    """Return a locked module's release record, which is in the store then."""
    what = _what(module)
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
            remedy=RESTORE,
        )
    check_record(record)
    return record
