"""Packs: what safetensors writes we read, what we write safetensors reads, and attacks fail."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modpkg.core.dtypes import DTYPE_BYTES, bits_of
from modpkg.core.errors import PackError
from modpkg.core.packs import pack_chunks, pack_header, read_pack_header
from tests.raising import raises


def file_of(folder: Path, header: object, data: bytes = b"", claim: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = folder / "weights.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if claim is None else claim) + text + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


ATTACKS: dict[str, tuple[object, bytes, int | None, str]] = {
    "a header that claims 100 GB": ({}, b"", 100 * 2**30, "claims to be 107374182400 bytes"),
    "a header longer than the file": ({}, b"", 5000, "claims 5000 bytes"),
    "a header that is no JSON": (b"{", b"", None, "malformed"),
    "a header that is a list": ([], b"", None, "malformed"),
    "deep nesting": (b'{"a":' + b"[" * 100_000, b"", None, "malformed"),
    "bytes that are no UTF-8": (b'{"\xff": 1}', b"", None, "malformed"),
    "data without a tensor": ({}, b"1234", None, "4 bytes follow"),
    "a tensor past the end": ({"a": entry("F32", [2], 0, 8)}, b"1234", None, "take 8 bytes"),
    "a hole": ({"a": entry("U8", [1], 1, 2)}, b"12", None, "leaves a gap"),
    "overlap": (
        {"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)},
        b"123",
        None,
        "leaves a gap or overlaps",
    ),
    "negative extent": ({"a": entry("U8", [-1], 0, 0)}, b"", None, "has shape"),
    "a shape that overflows": (
        {"a": entry("F32", [2**62, 2**62, 2**62], 0, 4)},
        b"1234",
        None,
        "does not match its shape",
    ),
    "a thousand dimensions": ({"a": entry("U8", [1] * 1000, 0, 1)}, b"1", None, "has shape"),
    "offsets backwards": ({"a": entry("U8", [1], 1, 0)}, b"1", None, "gap"),
    "an unknown dtype": ({"a": entry("PYOBJ", [1], 0, 8)}, b"12345678", None, "unknown dtype"),
    "an unknown key": (
        {"a": {**entry("U8", [1], 0, 1), "code": "x"}},
        b"1",
        None,
        "malformed",
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_in_a_sentence(attack: str, tmp_path: Path) -> None:
    header, data, claim, sentence = ATTACKS[attack]
    with raises("M201", match=sentence):
        read_pack_header(file_of(tmp_path, header, data, claim))


def test_a_header_may_begin_like_a_pickle(tmp_path: Path) -> None:
    """Its length's first byte is 0x80 for one of 32 lengths that other tools write."""
    text = json.dumps({"a": entry("U8", [1], 0, 1)}).encode().ljust(0x180)
    assert list(read_pack_header(file_of(tmp_path, text, b"1"))) == ["a"]


def test_a_pickle_is_named_as_such(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps({"a": [1.0] * 100}))
    with raises("M201", match="pickle"):
        read_pack_header(path)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"")
    with raises("M201", match="shorter than 8 bytes"):
        read_pack_header(path)


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_pack_or_a_sentence(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    try:
        read_pack_header(path)
    except PackError:
        pass


tensors = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(
        st.sampled_from(sorted(set(DTYPE_BYTES) - {"F8_E8M0", "C64"})),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
    ).filter(lambda kind: bits_of(*kind) % 8 == 0),
    max_size=5,
)


@given(tensors)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_safetensors_reads_our_packs(
    tmp_path: Path, table: dict[str, tuple[str, tuple[int, ...]]]
) -> None:
    from safetensors import deserialize

    _, places = pack_header(table)
    data = {name: bytes(range(256))[:1] * place.length for name, place in places.items()}
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"".join(pack_chunks(table, {n: [d] for n, d in data.items()})))
    theirs = dict(deserialize(path.read_bytes()))
    assert {n: (t["dtype"], tuple(t["shape"])) for n, t in theirs.items()} == table
    assert {n: bytes(t["data"]) for n, t in theirs.items()} == data
    ours = read_pack_header(path)
    assert ours == places
    for place in ours.values():
        assert place.offset % DTYPE_BYTES[place.dtype] == 0


def test_a_header_as_long_as_a_pickle_begins_is_read(tmp_path: Path) -> None:
    """640 bytes are written ``80 02``, the first bytes of a pickle."""
    place = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    filler = "x" * (640 - len(json.dumps({"__metadata__": {"a": ""}, "t": place})))
    path = file_of(tmp_path, {"__metadata__": {"a": filler}, "t": place}, b"\0" * 4)
    assert path.read_bytes()[:2] == b"\x80\x02"
    assert list(read_pack_header(path)) == ["t"]
