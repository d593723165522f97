"""Garbage collection: removes what no known project needs, by age and by a limit on the size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core import system
from modpkg.core.digests import Digest, digest_bytes, parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.files import remove_tree
from modpkg.core.leftovers import TEMPORARY, discard
from modpkg.core.records import ReleaseRecord
from modpkg.core.system_folders import open_folder
from modpkg.store.contents import COMPOSED, TESTED, StoreContents, left_over, scan_store
from modpkg.store.gc_roots import GcRoots, gc_roots
from modpkg.store.store import FILES, FOLDERS, Store

DAY = 86400.0
AGE = 30 * DAY
"""Seconds since its last use after which a release is removed, by default."""
STALE = 7 * DAY
"""Seconds after which an unfinished pack is not resumed."""


class Garbage(Struct, frozen=True, kw_only=True):
    """What is to be removed."""

    releases: tuple[Digest, ...]
    packs: tuple[str, ...]
    blobs: tuple[Digest, ...]
    composed: tuple[Digest, ...]
    partial: tuple[Path, ...]
    freed: int
    """Bytes that are removed."""
    left: int
    """Bytes that stay."""
    tested: tuple[Digest, ...] = ()
    indexes: tuple[Path, ...] = ()
    """Files of remote registries: read again when they are needed."""
    left_over: tuple[Path, ...] = ()
    """What killed commands have left."""


def find_garbage(
    contents: StoreContents,
    roots: GcRoots,
    records: Mapping[Digest, ReleaseRecord],
    packs_of: Mapping[str, Collection[str]],
    *,
    now: float,
    age: float = AGE,
    max_size: int | None = None,
) -> Garbage:
    """Return what to remove: nothing that a root, or a release that stays, needs.

    First what was not used for ``age`` seconds is removed; then, while the rest is larger than
    ``max_size`` bytes, the least recently used. A time of last use in the future, from a wrong
    clock, counts as ``now``. ``packs_of`` has by digest the packs that a tensor is in.
    """
    last_use: dict[Digest, float] = {}
    for digest, moment in contents.releases.items():
        if digest in records and digest not in roots.releases:
            last_use[digest] = min(moment, now)
    for digest, item in contents.composed.items():
        if digest not in roots.composed:
            last_use[digest] = min(item.used, now)
    last_use |= {digest: min(item.used, now) for digest, item in contents.tested.items()}
    indexes = {digest_bytes(str(path).encode()): path for path in contents.indexes}
    last_use |= {key: min(contents.indexes[path].used, now) for key, path in indexes.items()}
    counts = _ReferenceCounts(contents, packs_of)
    for digest, record in records.items():
        if digest in contents.releases or digest in roots.releases:
            counts.add(digest, record, 1)
    removed: set[Digest] = set()
    partial = [path for path, item in contents.partial.items() if now - item.used > STALE]
    left = tuple(contents.left)
    unreferenced = [
        digest
        for digest, item in contents.blobs.items()
        if not counts.blobs[digest] and now - item.used > age
    ]
    freed = sum(contents.partial[path].size for path in partial)
    freed += sum(item.size for item in contents.left.values())
    freed += sum(contents.blobs[digest].size for digest in unreferenced)
    freed += counts.unreferenced_packs()
    for digest in sorted(last_use, key=lambda digest: (last_use[digest], digest)):
        too_old = now - last_use[digest] > age
        too_large = max_size is not None and contents.size - freed > max_size
        if not too_old and not too_large:
            continue
        removed.add(digest)
        if digest in indexes:
            freed += contents.indexes[indexes[digest]].size
        if digest in contents.composed:
            freed += contents.composed[digest].size
        if digest in contents.tested:
            freed += contents.tested[digest].size
        if digest in contents.releases:
            freed += counts.add(digest, records[digest], -1)
    dropped = {digest for digest in counts.dropped if not counts.blobs[digest]}
    return Garbage(
        releases=tuple(sorted(removed & contents.releases.keys())),
        packs=tuple(sorted(name for name in contents.packs if not counts.packs[name])),
        blobs=tuple(sorted({*unreferenced, *dropped})),
        composed=tuple(sorted(removed & contents.composed.keys())),
        partial=tuple(partial),
        left_over=left,
        freed=freed,
        left=contents.size - freed,
        tested=tuple(sorted(removed & contents.tested.keys())),
        indexes=tuple(sorted(indexes[digest] for digest in removed & indexes.keys())),
    )


class _ReferenceCounts:
    """How many of the releases that stay use each tensor, pack and blob."""

    def __init__(self, contents: StoreContents, packs_of: Mapping[str, Collection[str]]) -> None:
        self._contents = contents
        self._packs_of = packs_of
        self._tensors: Counter[str] = Counter()
        self.packs: Counter[str] = Counter()
        """By name, how many of its tensors are used."""
        self.blobs: Counter[Digest] = Counter()
        self.dropped: set[Digest] = set()
        """Blobs of releases that are removed."""

    def add(self, release: Digest, record: ReleaseRecord, by: int) -> int:
        """Count a release in (1) or out (-1), and return the bytes that are unused then."""
        freed = 0
        for digest in {entry.digest for entry in record.tensors.values()}:
            before = self._tensors[digest]
            self._tensors[digest] += by
            if (before == 0) != (self._tensors[digest] == 0):
                for name in self._packs_of.get(digest, ()):
                    self.packs[name] += by
                    if not self.packs[name] and name in self._contents.packs:
                        freed += self._contents.packs[name].size
        for digest in _blobs_of(release, record):
            self.blobs[digest] += by
            if digest in self._contents.blobs and by < 0:
                self.dropped.add(digest)
                freed += 0 if self.blobs[digest] else self._contents.blobs[digest].size
        return freed

    def unreferenced_packs(self) -> int:
        """Return the bytes of packs that no release uses."""
        packs = self._contents.packs
        return sum(item.size for name, item in packs.items() if not self.packs[name])


def _blobs_of(release: Digest, record: ReleaseRecord) -> set[Digest]:
    texts = {entry.digest for entry in record.files.values()} | set(record.expects.values())
    if record.provides is not None:
        texts.add(record.provides)
    return {release, *map(parse_digest, texts)}


def _records(store: Store, releases: Iterable[str]) -> dict[Digest, ReleaseRecord]:
    """Return the records of releases that are in the store and undamaged."""
    records = {}
    for text in releases:
        digest = parse_digest(text)
        try:
            record = store.record(digest, f"the release record {digest}")
        except ModpkgError:
            continue  # damaged: fetched again when it is needed
        if record is not None:
            records[digest] = record
    return records


def collect_garbage(
    store: Store,
    *,
    now: float,
    age: float = AGE,
    max_size: int | None = None,
    warn: Callable[[str], None],
    dry_run: bool = False,
    checkpoint: Callable[[str], None] = lambda point: None,
) -> Garbage:
    """Remove garbage and return it; see `find_garbage`. Waits for other users of the store."""
    with store.lock(exclusive=not dry_run):
        contents = scan_store(store)
        roots = gc_roots(store, warn)
        records = _records(store, {*contents.releases, *roots.releases})
        digests = {e.digest for record in records.values() for e in record.tensors.values()}
        garbage = find_garbage(
            contents,
            roots,
            records,
            store.index.packs_with(digests),
            now=now,
            age=age,
            max_size=max_size,
        )
        if not dry_run:
            remove_garbage(store, garbage, checkpoint)
            store.projects.prune()
    return garbage


def collect_over(store: Store, max_size: int, *, now: float, warn: Callable[[str], None]) -> None:
    """Find and remove garbage if the store is over ``max_size`` bytes."""
    if scan_store(store).size > max_size:
        collect_garbage(store, now=now, max_size=max_size, warn=warn)


def clear(store: Store) -> None:
    """Remove everything but the known projects; the caller has locked the store exclusively.

    Locks stay: one belongs to the open file, and another file of its name would be another lock.
    What is not the store's is left.
    """
    removed = {*FOLDERS, *FILES} - {"projects"}
    with open_folder(store.root, follow=True) as root:
        for name in root.names():
            if name in removed or name.startswith(TEMPORARY):
                root.remove(name)
    for path in left_over():
        discard(path)


def remove_garbage(
    store: Store, garbage: Garbage, checkpoint: Callable[[str], None] = lambda point: None
) -> None:
    """Remove garbage; the caller has locked the store exclusively.

    The mark of a release is removed first: what is left after a kill is either complete, or garbage
    that the next collection finds.
    """
    for release in garbage.releases:
        store.forget_checked(release)
    checkpoint("forgotten")
    for digest in garbage.composed:
        remove_tree(store.root / COMPOSED / digest[7:9] / digest[7:])
    for digest in garbage.tested:
        system.remove_file(store.root / TESTED / digest[7:9] / digest[7:])
    checkpoint("composed removed")
    store.index.remove_packs(garbage.packs)
    checkpoint("index forgotten")
    for name in garbage.packs:
        store.packs.remove(name)
    checkpoint("packs removed")
    for digest in garbage.blobs:
        system.remove_file(store.blobs.path(digest))
    for path in garbage.indexes:
        system.remove_file(path)
    for path in garbage.left_over:
        discard(path)
    for path in garbage.partial:
        if path.is_dir():
            remove_tree(path)
        else:
            system.remove_file(path)
    checkpoint("blobs removed")
