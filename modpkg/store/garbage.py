"""Garbage: what no known project needs, freed by age and by a cap on the store's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from modpkg.core.digests import Digest, parse_digest
from modpkg.core.errors import ModpkgError
from modpkg.core.files import remove_tree
from modpkg.core.records import ReleaseRecord
from modpkg.store.contents import COMPOSED, TESTED, Contents, contents_of
from modpkg.store.needs import Needs, needs_of
from modpkg.store.store import Store

DAY = 86400.0
AGE = 30 * DAY
"""Seconds after its last use that a release stays, unless a person says otherwise."""
STALE = 7 * DAY
"""Seconds after which an unfinished pack is not gone on with."""


class Garbage(Struct, frozen=True, kw_only=True):
    """What is to be removed."""

    releases: tuple[Digest, ...]
    packs: tuple[str, ...]
    blobs: tuple[Digest, ...]
    composed: tuple[Digest, ...]
    partial: tuple[Path, ...]
    freed: int
    """Bytes of it."""
    left: int
    """Bytes that stay."""
    tested: tuple[Digest, ...] = ()


def find_garbage(
    contents: Contents,
    needs: Needs,
    records: Mapping[Digest, ReleaseRecord],
    packs_of: Mapping[str, Collection[str]],
    *,
    now: float,
    age: float = AGE,
    max_size: int | None = None,
) -> Garbage:
    """Work out what to remove; nothing that ``needs`` names, or that a kept release has, is.

    First goes what was not used for ``age`` seconds; then, while the rest is over ``max_size``,
    what was not used the longest. A time of last use in the future (a clock that was wrong)
    counts as now. ``packs_of`` says by digest which packs a tensor is in.
    """
    used: dict[Digest, float] = {}
    for digest, moment in contents.releases.items():
        if digest in records and digest not in needs.releases:
            used[digest] = min(moment, now)
    for digest, item in contents.composed.items():
        if digest not in needs.composed:
            used[digest] = min(item.used, now)
    used |= {digest: min(item.used, now) for digest, item in contents.tested.items()}
    live = _Live(contents, packs_of)
    for digest, record in records.items():
        if digest in contents.releases or digest in needs.releases:
            live.count(digest, record, 1)
    gone: set[Digest] = set()
    partial = [path for path, item in contents.partial.items() if now - item.used > STALE]
    unused = _unreachable(contents, live, now, age)
    freed = sum(contents.partial[path].size for path in partial)
    freed += sum(contents.blobs[digest].size for digest in unused) + live.unused_packs()
    for digest in sorted(used, key=lambda digest: (used[digest], digest)):
        old = now - used[digest] > age
        over = max_size is not None and contents.size - freed > max_size
        if not old and not over:
            continue
        gone.add(digest)
        if digest in contents.composed:
            freed += contents.composed[digest].size
        if digest in contents.tested:
            freed += contents.tested[digest].size
        if digest in contents.releases:
            freed += live.count(digest, records[digest], -1)
    releases = sorted(digest for digest in gone if digest in contents.releases)
    blobs = {*unused, *(digest for digest in live.dropped if not live.blobs[digest])}
    return Garbage(
        releases=tuple(releases),
        packs=tuple(sorted(name for name in contents.packs if not live.packs[name])),
        blobs=tuple(sorted(blobs)),
        composed=tuple(sorted(digest for digest in gone if digest in contents.composed)),
        partial=tuple(partial),
        freed=freed,
        left=contents.size - freed,
        tested=tuple(sorted(digest for digest in gone if digest in contents.tested)),
    )


class _Live:
    """How many releases that stay use each tensor, pack and blob."""

    def __init__(self, contents: Contents, packs_of: Mapping[str, Collection[str]]) -> None:
        self._contents = contents
        self._packs_of = packs_of
        self._tensors: Counter[str] = Counter()
        self.packs: Counter[str] = Counter()
        """By name, how many tensors in it are used."""
        self.blobs: Counter[Digest] = Counter()
        self.dropped: set[Digest] = set()
        """Blobs here that a release that goes had."""

    def count(self, release: Digest, record: ReleaseRecord, by: int) -> int:
        """Count a release in or out, and return the bytes that nothing uses any more."""
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

    def unused_packs(self) -> int:
        """Return the bytes of packs that no release uses."""
        packs = self._contents.packs
        return sum(item.size for name, item in packs.items() if not self.packs[name])


def _blobs_of(release: Digest, record: ReleaseRecord) -> set[Digest]:
    texts = {entry.digest for entry in record.files.values()} | set(record.expects.values())
    if record.provides is not None:
        texts.add(record.provides)
    return {release, *map(parse_digest, texts)}


def _unreachable(contents: Contents, live: _Live, now: float, age: float) -> list[Digest]:
    """Return old blobs of no installed release: records and interfaces that resolving read."""
    return [
        digest
        for digest, item in contents.blobs.items()
        if not live.blobs[digest] and now - min(item.used, now) > age
    ]


def _records(store: Store, releases: Iterable[str]) -> dict[Digest, ReleaseRecord]:
    """Return the records of releases that are here and sound."""
    found = {}
    for text in releases:
        digest = parse_digest(text)
        try:
            record = store.record(digest, f"the release record {digest}")
        except ModpkgError:
            continue  # damaged: it is fetched again when it is needed
        if record is not None:
            found[digest] = record
    return found


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
    """Find garbage and remove it; see `find_garbage`. Waits until nobody else uses the store."""
    with store.used(alone=True):
        contents = contents_of(store)
        needs = needs_of(store, warn)
        records = _records(store, {*contents.releases, *needs.releases})
        digests = {e.digest for record in records.values() for e in record.tensors.values()}
        garbage = find_garbage(
            contents,
            needs,
            records,
            store.index.packs_with(digests),
            now=now,
            age=age,
            max_size=max_size,
        )
        if not dry_run:
            remove_garbage(store, garbage, checkpoint)
            store.projects.forget_gone()
    return garbage


def collect_over(store: Store, max_size: int, *, now: float, warn: Callable[[str], None]) -> None:
    """Find and remove garbage if the store is over ``max_size`` bytes."""
    if contents_of(store).size > max_size:
        collect_garbage(store, now=now, max_size=max_size, warn=warn)


def clear(store: Store) -> None:
    """Remove everything but what is known of projects; the caller holds the store alone."""
    for path in store.root.iterdir():
        if path.name not in _KEPT:
            if path.is_dir():
                remove_tree(path)
            else:
                path.unlink(missing_ok=True)


_KEPT = ("lock", "tensors.lock", "projects")
"""Locks are held by open file: a new file of the same name would be another lock."""


def remove_garbage(
    store: Store, garbage: Garbage, checkpoint: Callable[[str], None] = lambda point: None
) -> None:
    """Remove what was found; the caller holds the store alone.

    A release is forgotten before anything of it goes: what a kill leaves behind is either whole or
    not known, and the next collection finds it.
    """
    for release in garbage.releases:
        store.forget_checked(release)
    checkpoint("forgotten")
    for digest in garbage.composed:
        remove_tree(store.root / COMPOSED / digest[7:9] / digest[7:])
    for digest in garbage.tested:
        (store.root / TESTED / digest[7:9] / digest[7:]).unlink(missing_ok=True)
    checkpoint("composed removed")
    store.index.forget(garbage.packs)
    checkpoint("index forgotten")
    for name in garbage.packs:
        store.packs.remove(name)
    checkpoint("packs removed")
    for digest in garbage.blobs:
        store.blobs.path(digest).unlink(missing_ok=True)
    for path in garbage.partial:
        if path.is_dir():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    checkpoint("blobs removed")
