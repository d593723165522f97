"""What a collection may remove, as laws over small stores that never were."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.records import FileEntry, Provenance, ReleaseRecord, TensorEntry
from modpkg.store.contents import StoreContents, StoreItem
from modpkg.store.garbage import AGE, DAY, STALE, Garbage, find_garbage
from modpkg.store.gc_roots import GcRoots

NOW = 1_000 * DAY


def named(kind: str, number: int) -> Digest:
    return digest_bytes(f"{kind} {number}".encode())


def record(tensors: list[int], files: list[int]) -> ReleaseRecord:
    pack = named("registry's pack", 0)
    return ReleaseRecord(
        name="m",
        version="1",
        kind="base",
        license="MIT",
        manifest={},
        files={f"f{n}": FileEntry(named("file", n), 1) for n in files},
        tensors={f"t{n}": TensorEntry("U8", [1], named("tensor", n), pack, 0, 1) for n in tensors},
        provenance=Provenance(built_with="a test"),
    )


Drawn = tuple[StoreContents, GcRoots, dict[Digest, ReleaseRecord], dict[str, set[str]]]
NOTHING = GcRoots(frozenset(), frozenset())


@st.composite
def stores(draw: st.DrawFn) -> Drawn:
    """Draw releases over shared tensors and files, tensors over packs, and what is needed."""
    some = st.lists(st.integers(0, 7), max_size=4)
    records = {
        named("release", n): record(draw(some), draw(some)) for n in range(draw(st.integers(0, 5)))
    }
    moments = st.floats(NOW - 90 * DAY, NOW + 9 * DAY)
    sizes = st.integers(0, 1000)

    def items(kind: str, most: int) -> dict[Digest, StoreItem]:
        return {
            named(kind, n): StoreItem(draw(sizes), draw(moments))
            for n in range(draw(st.integers(0, most)))
        }

    packs = {digest[7:]: item for digest, item in items("pack", 4).items()}
    packs_of = {
        named("tensor", n): set(draw(st.sets(st.sampled_from(sorted(packs)))) if packs else ())
        for n in range(8)
    }
    contents = StoreContents(
        releases={digest: draw(moments) for digest in records if draw(st.booleans())},
        packs=packs,
        blobs=items("file", 8) | {digest: StoreItem(10, draw(moments)) for digest in records},
        composed=items("composed", 3),
        tested=items("tested", 3),
        partial={
            Path(f"p{n}"): StoreItem(5, draw(moments)) for n in range(draw(st.integers(0, 2)))
        },
    )
    needed = draw(st.sets(st.sampled_from(sorted(records)))) if records else set()
    composed = sorted(contents.composed)
    kept = draw(st.sets(st.sampled_from(composed))) if composed else set()
    return contents, GcRoots(frozenset(needed), frozenset(kept)), records, packs_of


caps = st.one_of(st.none(), st.integers(0, 5000))


@given(stores(), caps)
def test_kept_entries_are_complete(store: Drawn, max_size: int | None) -> None:
    contents, roots, records, packs_of = store
    garbage = find_garbage(contents, roots, records, packs_of, now=NOW, max_size=max_size)
    assert not set(garbage.releases) & roots.releases
    assert not set(garbage.composed) & roots.composed
    for digest, item in records.items():
        if digest in roots.releases or digest in set(contents.releases) - set(garbage.releases):
            assert digest not in garbage.blobs
            for entry in item.tensors.values():
                assert not packs_of[entry.digest] & set(garbage.packs)
            assert not {file.digest for file in item.files.values()} & set(garbage.blobs)


@given(stores(), caps)
def test_the_account_of_bytes_is_right(store: Drawn, max_size: int | None) -> None:
    contents, roots, records, packs_of = store
    garbage = find_garbage(contents, roots, records, packs_of, now=NOW, max_size=max_size)
    assert garbage.freed == sum(
        kind[name].size
        for kind, names in (
            (contents.packs, garbage.packs),
            (contents.blobs, garbage.blobs),
            (contents.composed, garbage.composed),
            (contents.tested, garbage.tested),
            (contents.partial, garbage.partial),
        )
        for name in names  # type: ignore[attr-defined]
    )
    assert garbage.left == contents.size - garbage.freed


@given(stores(), st.integers(0, 5000))
def test_over_the_cap_all_removable_entries_go(store: Drawn, max_size: int) -> None:
    contents, roots, records, packs_of = store
    garbage = find_garbage(contents, roots, records, packs_of, now=NOW, max_size=max_size)
    if garbage.left > max_size:
        assert set(garbage.tested) == contents.tested.keys()
        gone = set(garbage.releases) | set(garbage.composed)
        there = {digest for digest in contents.releases if digest in records}
        assert (there | contents.composed.keys()) - gone <= roots.releases | roots.composed


def collected(contents: StoreContents, roots: GcRoots = NOTHING, **how: float) -> Garbage:
    records = {named("release", n): record([n], [n]) for n in range(3)}
    packs_of = {named("tensor", n): {named("pack", n)[7:]} for n in range(3)}
    return find_garbage(contents, roots, records, packs_of, now=NOW, **how)  # type: ignore[arg-type]


def three(*used: float) -> StoreContents:
    """Return a store with three releases of a pack of 100 bytes and a file of 10 each."""
    return StoreContents(
        releases={named("release", n): used[n] for n in range(3)},
        packs={named("pack", n)[7:]: StoreItem(100, NOW) for n in range(3)},
        blobs={named("file", n): StoreItem(10, NOW) for n in range(3)},
        composed={},
        partial={},
    )


def test_the_least_recently_used_goes_first() -> None:
    contents = three(NOW - 2 * DAY, NOW - 3 * DAY, NOW - 1 * DAY)
    assert collected(contents).releases == ()
    once = collected(contents, max_size=250)
    assert (once.releases, once.freed) == ((named("release", 1),), 110)
    assert set(collected(contents, max_size=115).releases) == {named("release", n) for n in (0, 1)}
    roots = GcRoots(frozenset({named("release", 1)}), frozenset())
    assert collected(contents, roots, max_size=250).releases == (named("release", 0),)


def test_age_counts_from_the_last_use_and_a_wrong_clock_frees_nothing_early() -> None:
    contents = three(NOW - AGE - DAY, NOW - AGE + DAY, NOW + 1000 * DAY)
    assert collected(contents).releases == (named("release", 0),)


@pytest.mark.parametrize(
    ("early", "late"), [*itertools.permutations(("release", "composed", "tested"), 2)]
)
def test_a_last_use_in_the_future_counts_as_now(early: str, late: str) -> None:
    """Both were used now, so that the digests decide: the lower one is removed first."""
    digests = {late: Digest("sha256:" + "0" * 64), early: Digest("sha256:" + "1" * 64)}
    used = {early: NOW, late: NOW + 1000 * DAY}
    items = {kind: {digests[kind]: StoreItem(100, used[kind])} for kind in used}
    release = digests.get("release")
    contents = StoreContents(
        releases={} if release is None else {release: used["release"]},
        packs={} if release is None else {named("pack", 0)[7:]: StoreItem(100, NOW)},
        blobs={},
        composed=items.get("composed", {}),
        tested=items.get("tested", {}),
        partial={},
    )
    records = {} if release is None else {release: record([0], [0])}
    packs_of = {named("tensor", 0): {named("pack", 0)[7:]}}
    garbage = find_garbage(contents, NOTHING, records, packs_of, now=NOW, max_size=100)
    assert {*garbage.releases, *garbage.composed, *garbage.tested} == {digests[late]}


@pytest.mark.parametrize(("used", "removed"), [(NOW - AGE, False), (NOW - AGE - 1, True)])
def test_entries_older_than_the_limit_are_removed(used: float, removed: bool) -> None:
    item, digest = StoreItem(7, used), named("other", 0)
    contents = StoreContents(
        releases={named("release", 0): used},
        packs={},
        blobs={digest: item},
        composed={digest: item},
        tested={named("tested", 0): item},
        partial={},
    )
    garbage = collected(contents)
    expected = (
        (named("release", 0),),
        (digest,),
        (digest,),
        (named("tested", 0),),
    )
    found = (garbage.releases, garbage.blobs, garbage.composed, garbage.tested)
    assert found == (expected if removed else ((),) * 4)


def test_a_store_of_exactly_the_limit_is_kept() -> None:
    contents = three(NOW - 1 * DAY, NOW - 2 * DAY, NOW - 3 * DAY)
    assert collected(contents, max_size=330).freed == 0
    assert collected(contents, max_size=329).releases == (named("release", 2),)


def test_unfinished_packs_go_when_they_are_stale() -> None:
    paths = {Path("old"): StoreItem(7, NOW - STALE - 1), Path("new"): StoreItem(7, NOW - STALE)}
    contents = StoreContents(releases={}, packs={}, blobs={}, composed={}, partial=paths)
    assert collected(contents).partial == (Path("old"),)
