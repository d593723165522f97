"""Which tensors a build carries, refers to, and writes as changes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from modpkg.core.bounds import DELTA_CHAIN
from modpkg.core.digests import digest_bytes, parse_digest
from modpkg.core.packs import read_pack_header
from modpkg.core.records import IndexLine
from modpkg.core.regular_file import CutShort
from modpkg.core.tree import BlobTree
from modpkg.deltas.choose import encode
from modpkg.registry.lookup import TensorLookup
from modpkg.registry.reader import Registry
from modpkg.registry.writer import RegistryWriter
from modpkg.release import pack_writer
from modpkg.release.known import Holdings
from modpkg.release.places import chain_of, entries_by_identity, sources_of
from modpkg.release.tensors import TensorReader
from modpkg.release.verify import check_encoded, verify_release
from registry_spec.check import check
from tests.changing import (
    Numbers,
    a_little,
    build_for,
    here_and_there,
    numbers,
    publish_to,
    record_of,
    write,
)
from tests.conftest import safetensors_bytes
from tests.modules import write_module
from tests.raising import raises

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def check_reads(registry: Path, line: IndexLine, tensors: Numbers) -> None:
    """Check that a published release's tensors come back, from the registry alone."""
    record = record_of(registry, line)
    verify_release(record, BlobTree(registry).path)
    reader = TensorReader(BlobTree(registry).path, entries_by_identity(record).__getitem__)
    assert record.tensors.keys() == tensors.keys()
    for name, entry in record.tensors.items():
        assert bytes(reader.read(entry, name)) == tensors[name].tobytes()


def test_a_first_release_is_one_plain_pack(registry: Path, tmp_path: Path) -> None:
    first = numbers(*NAMES)
    publish_to(registry, numbers("z", seed=9), "other")
    built = build_for(write(tmp_path / "m", first), registry)
    (pack,) = built.record.packs
    held = read_pack_header(BlobTree(tmp_path / "m" / "dist").path(parse_digest(pack)))
    assert {name: place.dtype for name, place in held.items()} == dict.fromkeys(NAMES, "BF16")
    assert sources_of(built.record) == {}
    assert (built.tally.tensors, built.tally.unchanged, built.tally.changes) == (4, 0, 0)
    assert built.tally.bytes == sum(value.nbytes for value in first.values())
    assert built.tally.new_bytes == built.record.packs[pack]


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let packs be as large as two of the tensors."""
    monkeypatch.setattr(pack_writer, "PACK_BYTES", 5 * numbers("a")["a"].nbytes // 2)


@pytest.mark.usefixtures("small_packs")
def test_a_large_release_is_several_packs(registry: Path, tmp_path: Path) -> None:
    first = numbers("a", "b", "c", "d", "e") | numbers("f", count=20_000)
    line = publish_to(registry, first)
    record = record_of(registry, line)
    packs: dict[str, set[str]] = {}
    for name, entry in record.tensors.items():
        packs.setdefault(entry.pack, set()).add(name)
    assert sorted(packs.values(), key=min) == [{"a", "b"}, {"c", "d"}, {"e"}, {"f"}]
    assert packs.keys() == record.packs.keys()
    check_reads(registry, line, first)
    built = build_for(write(tmp_path / "again", first), tmp_path / "other")
    assert built.record.packs == record.packs
    second = here_and_there(a_little(first, "b"), "f") | numbers("g", "h", "i", seed=3)
    check_reads(registry, publish_to(registry, second, version="1.1"), second)
    assert check(str(registry)).problems == []


@pytest.mark.usefixtures("small_packs")
def test_packs_that_turn_out_to_be_known_in_part_are_written_again(registry: Path) -> None:
    """A new name with other names of tensors has no earlier release, but shares some tensors."""
    first = numbers(*NAMES)
    one = record_of(registry, publish_to(registry, first))
    second = numbers("p", "q", "r", "s", seed=8) | {"t": first["b"], "u": first["d"]}
    second |= {"v": second["p"]}
    line = publish_to(registry, second, "n")
    two = record_of(registry, line)
    assert [two.tensors[new] for new in "tu"] == [one.tensors[old] for old in "bd"]
    assert two.tensors["v"] == two.tensors["p"]
    assert len(two.packs.keys() - one.packs.keys()) == 2
    check_reads(registry, line, second)


@pytest.mark.parametrize("encoded", [True, False])
def test_a_file_that_is_changed_while_it_is_read_is_refused(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: bool
) -> None:
    """It was hashed to look it up, and has other bytes when it is written or encoded."""
    first = numbers("a", "b")
    publish_to(registry, first)
    second = here_and_there(first, "b") if encoded else first | numbers("b", seed=4)
    folder = write(tmp_path / "m", second, version="1.1")
    weights = folder / "model.safetensors"

    def changing(self: Holdings, *arguments: object) -> object:
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
        return bases(self, *arguments)  # type: ignore[arg-type]

    bases = Holdings.bases
    monkeypatch.setattr(Holdings, "bases", changing)
    with raises("M859", match="'b'"):
        build_for(folder, registry)
    assert not (folder / "dist").exists()


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
@pytest.mark.parametrize("change", ["bytes", "bytes and not their time", "another file", "removed"])
def test_a_file_that_is_changed_during_a_first_build_is_refused(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, change: str
) -> None:
    """No digest was computed before: what is written could be half of each version."""
    folder = write(tmp_path / "m", numbers("a", "b"))
    changed, old = folder / file, tmp_path / "old"
    os.utime(changed, (1_600_000_000, 1_600_000_000))
    copy = pack_writer.copy_hashed

    def changing(*arguments: Any, **options: Any) -> int:
        if not old.exists():
            old.write_bytes(changed.read_bytes())
            if change == "removed":
                changed.unlink()
            elif change == "another file":
                shutil.copy(changed, folder / "copy")
                (folder / "copy").replace(changed)
            else:
                changed.write_bytes(old.read_bytes()[:-1] + b" ")
            if change == "bytes and not their time":
                os.utime(changed, (1_600_000_000, 1_600_000_000))
        return copy(*arguments, **options)

    monkeypatch.setattr(pack_writer, "copy_hashed", changing)
    with raises("M859", match=f"{file} was changed while the build read it"):
        build_for(folder, registry)
    assert not (folder / "dist").exists()
    shutil.copy(old, changed)
    assert build_for(folder, registry).record.packs


def test_a_file_that_ends_early_stops_the_build(
    registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "m", numbers("a", "b"))
    monkeypatch.setattr(pack_writer, "copy_hashed", lambda *arguments, **_: arguments[2] - 1)
    with pytest.raises(CutShort):
        build_for(folder, registry)
    assert not (folder / "dist").exists()


def test_an_update_contains_only_changes(registry: Path) -> None:
    first = numbers(*NAMES)
    second = here_and_there(a_little(first, "b"), "c") | {"e": numbers("e", seed=5)["e"]}
    one = publish_to(registry, first)
    two = publish_to(registry, second, version="1.1")
    record = record_of(registry, two)
    methods = {name: entry.encoding for name, entry in record.tensors.items()}
    assert methods["a"] is methods["d"] is methods["e"] is None
    assert methods["b"] is not None
    assert methods["b"].method == "difference"
    assert methods["c"] is not None
    assert methods["c"].method == "sparse"
    old = record_of(registry, one).tensors
    assert record.tensors["a"] == old["a"]
    assert sources_of(record) == {old[name].digest: old[name] for name in "bc"}
    assert len(record.packs) == 2
    assert two.size < 0.7 * one.size
    check_reads(registry, two, second)


def test_no_deltas_writes_changed_tensors_plain(registry: Path) -> None:
    first = numbers(*NAMES)
    publish_to(registry, first)
    line = publish_to(registry, a_little(first, "b"), version="1.1", deltas=False)
    record = record_of(registry, line)
    assert [entry.encoding for entry in record.tensors.values()] == [None] * 4
    assert len(record.packs) == 2
    check_reads(registry, line, a_little(first, "b"))


def test_chains_end_at_four_and_restart_at_the_first(registry: Path) -> None:
    tensors, depths = numbers("a"), []
    for version in range(DELTA_CHAIN + 3):
        if version:
            tensors = here_and_there(tensors, "a", seed=version)
        line = publish_to(registry, tensors, version=f"1.{version}")
        record = record_of(registry, line)
        depths.append(len(chain_of(record.tensors["a"], entries_by_identity(record).get)))
        check_reads(registry, line, tensors)
    assert depths == [0, 1, 2, 3, 4, 1, 2]


def test_a_tensor_that_came_back_is_referred_to(registry: Path) -> None:
    first = numbers(*NAMES)
    one = publish_to(registry, first)
    publish_to(registry, a_little(first, "a"), version="1.1")
    back = publish_to(registry, first, version="1.2")
    assert record_of(registry, back).tensors == record_of(registry, one).tensors
    assert sources_of(record_of(registry, back)) == {}


def test_a_fork_is_encoded_on_the_release_that_it_is_nearest_to(registry: Path) -> None:
    mine, theirs = numbers(*NAMES), numbers(*NAMES, seed=7)
    publish_to(registry, mine, "mine")
    publish_to(registry, theirs, "theirs")
    fork = here_and_there(mine, "b")
    record = record_of(registry, publish_to(registry, fork, "fork"))
    assert record.tensors["b"].encoding is not None
    assert record.tensors["b"].encoding.base == digest_bytes(mine["b"].tobytes())


def test_the_same_project_and_registry_give_the_same_bytes(registry: Path, tmp_path: Path) -> None:
    first = numbers(*NAMES)
    publish_to(registry, first)
    publish_to(registry, a_little(first, "a"), "fork")
    folder = write(tmp_path / "m", here_and_there(a_little(first, "a"), "b"), version="1.1")
    once = build_for(folder, registry).line
    (registry / "lookup" / "tensors.sqlite").unlink()
    assert build_for(folder, registry).line == once


def test_equal_tensors_are_written_once(tmp_path: Path, registry: Path) -> None:
    zeros = {"a": ("F32", [4], bytes(16)), "b": ("F32", [4], bytes(16))}
    kinds = {"c": ("F32", [2, 2], bytes(16)), "d": ("I32", [4], bytes(16))}
    files = {"model.safetensors": safetensors_bytes(zeros | kinds)}
    record = build_for(
        write_module(tmp_path / "m", "m", "1.0", "base", files=files), registry
    ).record
    assert record.tensors["a"] == record.tensors["b"]
    assert len({(entry.pack, entry.offset) for entry in record.tensors.values()}) == 3
    verify_release(record, BlobTree(tmp_path / "m" / "dist").path)


def kinds_of(values: Numbers, **others: tuple[str, list[int], bytes]) -> bytes:
    plain = {name: ("BF16", [len(v)], v.tobytes()) for name, v in values.items()}
    return safetensors_bytes(plain | others)


def test_bytes_with_two_types_are_never_encoded(tmp_path: Path, registry: Path) -> None:
    """A digest alone says how a tensor is decoded, so such ones are plain in one record."""
    first = numbers("a")
    second = here_and_there(first, "a")
    raw = second["a"].tobytes()

    def publish(version: str, weights: bytes) -> IndexLine:
        folder = write_module(
            tmp_path / version, "m", version, "base", files={"model.safetensors": weights}
        )
        built = build_for(folder, registry)
        return RegistryWriter(registry).publish(Registry(str(folder / "dist")), built.line)

    publish("1.0", kinds_of(first))
    encoded = record_of(registry, publish("1.1", kinds_of(second)))
    assert encoded.tensors["a"].encoding is not None
    # The encoded tensor's bytes, and those of its base, under another type too
    for version, other in (("1.2", raw), ("1.3", first["a"].tobytes())):
        line = publish(version, kinds_of(second, t=("U16", [len(other) // 2], other)))
        record = record_of(registry, line)
        assert [entry.encoding for entry in record.tensors.values()] == [None, None]


def test_empty_tensors_are_packed_like_others(registry: Path, tmp_path: Path) -> None:
    empty = {"a": ("F32", [0], b""), "b": ("F32", [0, 3], b""), "c": ("U8", [0], b"")}
    files = {"model.safetensors": safetensors_bytes(empty)}
    folder = write_module(tmp_path / "m", "m", "1.0", "base", files=files)
    built = build_for(folder, registry)
    line = RegistryWriter(registry).publish(Registry(str(folder / "dist")), built.line)
    verify_release(record_of(registry, line), BlobTree(registry).path)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["little", "few", "other", "swap", "back"]),
        st.sampled_from(NAMES),
        st.sampled_from(["m", "m", "fork"]),
        st.booleans(),
    ),
    min_size=1,
    max_size=7,
)


@settings(max_examples=12)
@given(steps=STEPS)
def test_every_release_of_any_history_is_restored(
    steps: list[tuple[str, str, str, bool]],
) -> None:
    """From its own record and the registry's packs, whichever way its tensors changed."""
    with tempfile.TemporaryDirectory() as temporary:
        registry = Path(temporary) / "registry"
        history = [numbers(*NAMES, count=2000)]
        publish_to(registry, history[0])
        for at, (how, name, module, deltas) in enumerate(steps, 1):
            old = history[-1]
            new = {
                "little": a_little(old, name, seed=at),
                "few": here_and_there(old, name, seed=at),
                "other": old | numbers(name, seed=at, count=2000),
                "swap": old | {name: old["a"], "a": old[name]},
                "back": history[at // 2],
            }[how]
            line = publish_to(registry, new, module, f"1.{at}", deltas=deltas)
            check_reads(registry, line, new)
            history.append(new)
        assert check(str(registry)).problems == []


def test_a_damaged_earlier_tensor_stops_the_build(registry: Path, tmp_path: Path) -> None:
    first = numbers("a", "b")
    entry = record_of(registry, publish_to(registry, first)).tensors["a"]
    pack = BlobTree(registry).path(parse_digest(entry.pack))
    data = bytearray(pack.read_bytes())
    data[entry.offset] ^= 1
    pack.chmod(0o644)
    pack.write_bytes(data)
    folder = write(tmp_path / "m", here_and_there(first, "a"), version="1.1")
    with raises("M305", match="the earlier tensor 'a'"):
        build_for(folder, registry)
    assert not (folder / "dist").exists()


@pytest.mark.parametrize("name", ["b", "c"])
def test_a_payload_that_was_tampered_with_is_not_published(
    registry: Path, tmp_path: Path, name: str
) -> None:
    """Wherever behind the frame's header; the pack may be a liar's, whose digest holds."""
    first = numbers(*NAMES)
    publish_to(registry, first)
    folder = write(tmp_path / "m", here_and_there(a_little(first, "b"), "c"), version="1.1")
    record = build_for(folder, registry).record
    trees = [BlobTree(folder / "dist"), BlobTree(registry)]
    entry = record.tensors[name]
    here = BlobTree(folder / "dist").path(parse_digest(entry.pack))
    data = here.read_bytes()
    here.chmod(0o644)
    for place in range(entry.offset + 9, entry.offset + entry.length, 41):
        damaged = bytearray(data)
        damaged[place] ^= 0x10
        here.write_bytes(damaged)
        with raises("M212", "M305", match=f"tensor '{name}'"):
            check_encoded(record, lambda pack: next(t.path(pack) for t in trees if t.has(pack)))


def test_tensors_that_hardly_shrink_stay_plain(registry: Path) -> None:
    first = numbers("a")
    noise = {"a": np.random.default_rng(3).integers(0, 2**16, len(first["a"])).astype("<u2")}
    assert encode(noise["a"].view("u1").data, first["a"].view("u1").data, "BF16") is None
    publish_to(registry, first)
    record = record_of(registry, publish_to(registry, noise, version="1.1"))
    assert record.tensors["a"].encoding is None
    assert sources_of(record) == {}


def test_tensors_of_a_yanked_release_can_still_be_referred_to(registry: Path) -> None:
    first = numbers(*NAMES)
    publish_to(registry, first)
    RegistryWriter(registry).yank("m", "1.0", "wrong labels")
    line = publish_to(registry, here_and_there(first, "a"), version="1.1")
    check_reads(registry, line, here_and_there(first, "a"))
    lookup = TensorLookup(registry)
    assert all(lookup.holds(entry) for entry in record_of(registry, line).tensors.values())
