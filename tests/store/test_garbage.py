"""What a collection may remove, as laws over small stores that never were."""

from __future__ import annotations

import hashlib
import itertools
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modpkg.core import system_processes
from modpkg.core.digests import Digest, digest_bytes
from modpkg.core.files import write_atomically
from modpkg.core.records import (
    FileEntry,
    Provenance,
    ReleaseRecord,
    TensorEntry,
    canonical_json,
)
from modpkg.store.contents import StoreContents, StoreItem, scan_store
from modpkg.store.garbage import (
    AGE,
    DAY,
    STALE,
    Garbage,
    clear,
    collect_garbage,
    collect_over,
    find_garbage,
    remove_garbage,
)
from modpkg.store.gc_roots import GcRoots
from modpkg.store.packs import lay_out
from modpkg.store.store import Store

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
        indexes={
            Path(f"i{n}"): StoreItem(draw(sizes), draw(moments))
            for n in range(draw(st.integers(0, 2)))
        },
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
            (contents.indexes, garbage.indexes),
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


@pytest.mark.parametrize(
    ("used", "removed"), [(NOW, False), (NOW - AGE, False), (NOW - AGE - 1, True), (1.0, True)]
)
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
    used = {"oldest": 1.0, "old": NOW - STALE - 1, "new": NOW - STALE}
    paths = {Path(name): StoreItem(7, moment) for name, moment in used.items()}
    contents = StoreContents(releases={}, packs={}, blobs={}, composed={}, partial=paths)
    assert collected(contents).partial == (Path("oldest"), Path("old"))


def test_default_ages() -> None:
    assert (DAY, AGE, STALE) == (86_400, 2_592_000, 604_800)


def pack(number: int) -> str:
    return named("pack", number)[7:]


def test_pack_goes_with_the_last_release_that_uses_any_of_its_tensors() -> None:
    """Releases 0 and 1 share tensor 0; pack 1 has tensor 1 too, which only release 1 has."""
    old, new = NOW - AGE - 1, NOW
    records = {named("release", 0): record([0], []), named("release", 1): record([0, 1], [])}
    packs_of: dict[str, set[str]] = {
        named("tensor", 0): {pack(0), pack(1)},
        named("tensor", 1): {pack(1), "lost"},
    }

    def found(used: tuple[float, float]) -> Garbage:
        contents = StoreContents(
            releases={named("release", n): used[n] for n in range(2)},
            packs={pack(0): StoreItem(100, old), pack(1): StoreItem(10, old)},
            blobs={},
            composed={},
            partial={},
        )
        return find_garbage(contents, NOTHING, records, packs_of, now=NOW)

    assert (found((new, new)).packs, found((new, new)).freed) == ((), 0)
    assert (found((old, new)).packs, found((old, new)).freed) == ((), 0)
    assert (found((new, old)).packs, found((new, old)).freed) == ((), 0)
    assert found((old, old)).packs == tuple(sorted((pack(0), pack(1))))
    assert (found((old, old)).freed, found((old, old)).left) == (110, 0)


def test_tensor_that_only_one_pack_of_two_needs_frees_the_other() -> None:
    records = {named("release", 0): record([0, 1], []), named("release", 1): record([1], [])}
    packs_of: dict[str, set[str]] = {named("tensor", n): {pack(n)} for n in range(2)}
    contents = StoreContents(
        releases={named("release", 0): NOW - AGE - 1, named("release", 1): NOW},
        packs={pack(n): StoreItem(10 + n, NOW) for n in range(3)},
        blobs={},
        composed={},
        partial={},
    )
    garbage = find_garbage(contents, NOTHING, records, packs_of, now=NOW)
    assert garbage.packs == tuple(sorted((pack(0), pack(2))))  # nothing ever used pack 2
    assert (garbage.freed, garbage.left) == (22, 11)


def test_blobs_go_with_the_last_release_that_uses_them_whatever_their_age() -> None:
    """Files, the release record itself, the interface and what is expected of others."""
    record_0 = record([], [0, 1])
    record_0 = msgspec.structs.replace(
        record_0, provides=named("interface", 0), expects={"base": named("interface", 1)}
    )
    records = {named("release", 0): record_0, named("release", 1): record([], [1])}
    sizes = {
        named("file", 0): 1,
        named("file", 1): 2,
        named("release", 0): 4,
        named("release", 1): 8,
        named("interface", 0): 16,
        named("interface", 1): 32,
    }

    def found(first: float, second: float) -> Garbage:
        contents = StoreContents(
            releases={named("release", 0): first, named("release", 1): second},
            packs={},
            blobs={digest: StoreItem(size, NOW) for digest, size in sizes.items()},
            composed={},
            partial={},
        )
        return find_garbage(contents, NOTHING, records, {}, now=NOW)

    old = NOW - AGE - 1
    assert found(NOW, NOW).blobs == ()
    one = found(old, NOW)
    assert {sizes[digest] for digest in one.blobs} == {1, 4, 16, 32}
    assert (one.freed, one.left) == (53, 10)
    assert {sizes[digest] for digest in found(NOW, old).blobs} == {8}
    both = found(old, old)
    assert (set(both.blobs), both.freed, both.left) == (set(sizes), 63, 0)


def test_file_with_the_bytes_of_an_expected_interface_is_kept_with_its_release() -> None:
    one = msgspec.structs.replace(record([], [0]), expects={"base": named("file", 0)})
    contents = StoreContents(
        releases={named("release", 0): NOW},
        packs={},
        blobs={named("file", 0): StoreItem(1, 1.0)},
        composed={},
        partial={},
    )
    records = {named("release", 0): one}
    assert find_garbage(contents, NOTHING, records, {}, now=NOW).blobs == ()


@pytest.mark.parametrize("there", [True, False])
def test_root_keeps_what_it_needs_though_it_was_not_checked(there: bool) -> None:
    old = NOW - AGE - 1
    contents = StoreContents(
        releases={named("release", 0): old} if there else {},
        packs={pack(0): StoreItem(10, old)},
        blobs={named("file", 0): StoreItem(1, old), named("release", 0): StoreItem(2, old)},
        composed={},
        partial={},
    )
    roots = GcRoots(frozenset({named("release", 0)}), frozenset())
    assert collected(contents, roots).freed == 0
    lost = collected(contents)
    assert (lost.releases != (), lost.freed, lost.left) == (there, 13, 0)


def test_release_without_a_record_is_kept() -> None:
    contents = StoreContents(
        releases={named("release", 9): 0.0}, packs={}, blobs={}, composed={}, partial={}
    )
    assert collected(contents, max_size=0).releases == ()


def test_removing_stops_as_soon_as_the_store_is_small_enough() -> None:
    """Results count like releases; what is removed for its age counts first."""
    composed = {named("composed", n): StoreItem(100, NOW - n * DAY) for n in range(3)}
    tested = {named("tested", n): StoreItem(10, NOW - (5 + n) * DAY) for n in range(3)}
    contents = StoreContents(
        releases={},
        packs={},
        blobs={named("file", 5): StoreItem(7, NOW - AGE - 1)},
        composed=composed,
        tested=tested,
        partial={Path("old"): StoreItem(3, NOW - STALE - 1)},
    )
    assert contents.size == 340
    assert collected(contents, max_size=330).tested == ()
    assert collected(contents, max_size=329).tested == (named("tested", 2),)
    some = collected(contents, max_size=300)
    assert (set(some.tested), some.composed, some.left) == (set(tested), (), 300)
    more = collected(contents, max_size=299)
    assert (set(more.tested), more.composed) == (set(tested), (named("composed", 2),))
    assert (more.freed, more.left) == (140, 200)
    roots = GcRoots(frozenset(), frozenset({named("composed", 2)}))
    assert collected(contents, roots, max_size=299).composed == (named("composed", 1),)


# In a store ------------------------------------------------------------------------------------


def filled(root: Path, *, used: float, releases: int = 2) -> Store:
    """Return a store with one of each kind of entry, and releases that share nothing."""
    store = Store(root)
    root.mkdir()
    for number in range(releases):
        data = bytes([number]) * 8
        tensor = "sha256:" + hashlib.sha256(data).hexdigest()
        layout = lay_out({tensor: ("U8", (8,))})
        staged = root / "staged"
        staged.write_bytes(layout.header + data)
        store.add_pack(staged, layout)
        file = store.blobs.add(f"file {number}".encode())
        one = ReleaseRecord(
            name=f"m{number}",
            version="1",
            kind="base",
            license="MIT",
            manifest={},
            files={"f.txt": FileEntry(file, 6)},
            tensors={"t": TensorEntry("U8", [8], Digest(tensor), named("pack", 0), 0, 8)},
            provenance=Provenance(built_with="a test"),
        )
        store.mark_checked(store.blobs.add(canonical_json(one)))
    hexadecimal = named("result", 0)[7:]
    write_atomically(root / "composed" / hexadecimal[:2] / hexadecimal / "model", b"composed")
    write_atomically(root / "tested" / hexadecimal[:2] / hexadecimal, b"tested")
    write_atomically(root / "partial" / "file", b"partial")
    write_atomically(root / "partial" / "folder" / "file", b"partial")
    for folder, _, names in os.walk(root):
        for name in names:
            os.utime(Path(folder) / name, (used, used))
    return store


def files(store: Store) -> set[str]:
    """Return the kinds of entries of which there is any file."""
    paths = (path.relative_to(store.root) for path in store.root.rglob("*") if path.is_file())
    return {path.parts[0] for path in paths} - {"tensors.sqlite", "lock", "tensors.lock"}


KINDS = {"blobs", "checked", "composed", "packs", "partial", "tested"}


def unwarned(text: str) -> None:
    raise AssertionError(text)


def test_what_killed_exports_and_imports_left_beside_the_store(home: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    name = f".tmp-chat-{system_processes.process_space()}-{process.pid}-01234567"
    folders = [home / "exports" / name, home / "hub" / "hub.example" / name]

    def leave() -> None:
        for folder in folders:
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"half")

    store = Store(tmp_path / "store")
    leave()
    garbage = collect_garbage(store, now=NOW, warn=unwarned)
    assert (garbage.freed, [folder.exists() for folder in folders]) == (8, [False, False])
    leave()
    clear(store)
    assert not any(folder.exists() for folder in folders)


def test_collection_removes_everything_old_in_a_safe_order(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW - AGE - DAY)
    size = scan_store(store).size
    points: list[tuple[str, set[str]]] = []

    def checkpoint(point: str) -> None:
        points.append((point, files(store)))

    dry = collect_garbage(store, now=NOW, warn=unwarned, dry_run=True, checkpoint=checkpoint)
    assert (points, files(store)) == ([], KINDS)
    garbage = collect_garbage(store, now=NOW, warn=unwarned, checkpoint=checkpoint)
    assert garbage == dry
    assert (garbage.freed, garbage.left) == (size, 0)
    counts = [len(kind) for kind in (garbage.releases, garbage.packs, garbage.blobs)]
    assert counts == [2, 2, 4]
    assert [len(garbage.composed), len(garbage.tested), len(garbage.partial)] == [1, 1, 2]
    assert points == [
        ("forgotten", KINDS - {"checked"}),
        ("composed removed", {"blobs", "packs", "partial"}),
        ("index forgotten", {"blobs", "packs", "partial"}),
        ("packs removed", {"blobs", "partial"}),
        ("blobs removed", set()),
    ]
    assert store.index.packs() == {}
    assert not (store.root / "partial" / "folder").exists()


def test_collection_keeps_what_was_used_lately(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW - DAY)
    packs = store.index.packs()
    assert len(packs) == 2
    assert collect_garbage(store, now=NOW, warn=unwarned).freed == 0
    assert collect_garbage(store, now=NOW, age=DAY, warn=unwarned).freed == 0
    assert (files(store), store.index.packs()) == (KINDS, packs)
    assert collect_garbage(store, now=NOW, age=DAY - 1, warn=unwarned).left == 14  # partial files
    assert files(store) == {"partial"}


def test_collection_skips_damaged_records(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW - DAY, releases=8)
    damaged, *good = sorted(scan_store(store).releases)
    path = store.blobs.path(damaged)
    path.chmod(0o644)
    path.write_bytes(b"damaged")
    store.mark_checked(named("release", 9))  # its record is gone
    garbage = collect_garbage(store, now=NOW, max_size=0, warn=unwarned)
    assert garbage.releases == tuple(good)
    assert len(garbage.packs) == 8


def test_nobody_else_uses_the_store_during_a_collection(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    store = filled(tmp_path / "store", used=NOW - AGE - DAY)
    refused = []

    def checkpoint(point: str) -> None:
        with (store.root / "lock").open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        refused.append(point)

    collect_garbage(store, now=NOW, warn=unwarned, checkpoint=checkpoint)
    assert len(refused) == 5


def test_collection_forgets_projects_that_are_gone(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW)
    store.projects.register(tmp_path / "gone" / "modpkg.lock", tmp_path / "gone" / "environment")
    collect_garbage(store, now=NOW, warn=unwarned, dry_run=True)
    assert len(store.projects.known()) == 1
    collect_garbage(store, now=NOW, warn=unwarned)
    assert store.projects.known() == {}


def test_store_over_its_limit_is_collected_and_one_at_it_is_not(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW - 40 * DAY)
    size = scan_store(store).size
    collect_over(store, size, now=NOW, warn=unwarned)
    collect_over(store, size + 1, now=NOW, warn=unwarned)
    assert scan_store(store).size == size
    recent = filled(tmp_path / "recent", used=NOW)
    collect_over(recent, size - 1, now=NOW, warn=unwarned)
    assert 0 < scan_store(recent).size < size
    collect_over(recent, 14, now=NOW, warn=unwarned)
    assert files(recent) == {"partial"}


def test_clearing_keeps_locks_projects_and_what_is_not_the_stores(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW)
    store.projects.register(tmp_path / "modpkg.lock", tmp_path / "environment")
    for name in ("lock", "tensors.lock", "other"):
        (store.root / name).write_bytes(b"")
    clear(store)
    assert sorted(path.name for path in store.root.iterdir()) == [
        "lock",
        "other",
        "projects",
        "tensors.lock",
    ]
    assert len(store.projects.known()) == 1


def test_removal_of_what_is_gone_already_is_no_error(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW - AGE - DAY)
    garbage = collect_garbage(store, now=NOW, warn=unwarned, dry_run=True)
    remove_garbage(store, garbage)
    remove_garbage(store, garbage)
    assert files(store) == set()


def test_index_files_of_remote_registries_are_counted_and_freed(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    old, new = (store.root / f"index-cache/site/index/{name}.jsonl" for name in ("old", "new"))
    for path in (old, new):
        write_atomically(path, b"x" * 1000)
    os.utime(old, (NOW - 90 * DAY, NOW - 90 * DAY))
    os.utime(new, (NOW, NOW))
    assert scan_store(store).size == 2000
    garbage = collect_garbage(store, now=NOW, warn=print)
    assert (garbage.indexes, garbage.freed, old.exists(), new.exists()) == (
        (old,),
        1000,
        False,
        True,
    )
    collect_garbage(store, now=NOW, max_size=0, warn=print)
    assert not new.exists()


def test_what_killed_commands_left_is_counted_and_collected(tmp_path: Path) -> None:
    store = filled(tmp_path / "store", used=NOW)
    before = scan_store(store)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    mark = f"{system_processes.process_space()}-{process.pid}-01234567"
    composed = next(store.root.glob("composed/*/*"))
    places = (store.root, store.root / "packs", store.root / "partial", composed)
    left = [place / f".tmp-x-{mark}" for place in places]
    for path in left[:-1]:
        path.write_bytes(b"12345")
    left[-1].mkdir()
    (left[-1] / "file").write_bytes(b"12345")
    contents = scan_store(store)
    assert sorted(contents.left) == sorted(left)
    assert contents.size == before.size + 20
    assert contents.composed == before.composed
    collect_garbage(store, now=NOW, warn=unwarned, dry_run=True)
    assert all(path.exists() for path in left)
    garbage = collect_garbage(store, now=NOW, warn=unwarned)
    assert garbage.freed >= 20
    assert not any(path.exists() for path in left)
    assert scan_store(store).left == {}
