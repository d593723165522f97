"""Encodings of tensors: exact for every dtype and size, and a typed error for anything else."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings

from modpkg.core.bounds import DELTA_WINDOW_BYTES
from modpkg.core.dtypes import DTYPE_BYTES
from modpkg.core.errors import ReleaseError
from modpkg.core.records import METHODS
from modpkg.deltas import decode, encode
from modpkg.deltas.frame import write_frame
from modpkg.deltas.planes import BLOCK, split_planes
from modpkg.deltas.sparse import BLOCK as SPARSE_BLOCK
from modpkg.deltas.sparse import count_changes, split_changes
from tests.raising import raises

EDGES = [0, 1, 2, 3, 7, 255]
EDGES += [edge + step for edge in (SPARSE_BLOCK, BLOCK, 2 * BLOCK) for step in (-1, 0, 1)]


def written(method: str, new: bytes, old: bytes, width: int) -> bytes:
    """Return one method's payload, whether or not it would be chosen."""
    one, other = memoryview(new), memoryview(old)
    if method == "sparse":
        content = list(split_changes(one, other, width))
        return write_frame(content, sum(map(len, content)))
    return write_frame(
        split_planes(one, other if method == "difference" else None, width), len(new)
    )


def read(method: str, payload: bytes, old: bytes, length: int, dtype: str) -> bytes:
    """Return the decoded bytes, and check that nothing beyond them was written."""
    room = bytearray(b"\xa5" * (length + 16))
    out = memoryview(room)[8 : 8 + length]
    base = None if method == "planes" else memoryview(old)
    try:
        decode(method, payload, base, out, dtype, "tensor 't'")
    finally:
        assert room[:8] == room[8 + length :] == b"\xa5" * 8
    return bytes(out)


def pair(count: int, width: int, seed: int, share: float) -> tuple[bytes, bytes]:
    """Return a tensor's bytes and a changed copy."""
    rng = np.random.default_rng(seed)
    old = rng.integers(0, 256, count * width, np.uint8)
    new = old.reshape(-1, width).copy()
    changed = rng.random(count) < share
    new[changed] = rng.integers(0, 256, (int(changed.sum()), width), np.uint8)
    return new.tobytes(), old.tobytes()


@settings(deadline=None, max_examples=60)
@given(
    method=st.sampled_from(METHODS),
    dtype=st.sampled_from(sorted(DTYPE_BYTES)),
    count=st.one_of(st.sampled_from([0, 1, 3, BLOCK + 1]), st.integers(0, 3000)),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.0001, 0.01, 0.3, 1.0]),
)
def test_encoding_round_trips(method: str, dtype: str, count: int, seed: int, share: float) -> None:
    new, old = pair(count, DTYPE_BYTES[dtype], seed, share)
    payload = written(method, new, old, DTYPE_BYTES[dtype])
    assert payload == written(method, new, old, DTYPE_BYTES[dtype])
    assert read(method, payload, old, len(new), dtype) == new


@settings(deadline=None, max_examples=50)
@given(
    dtype=st.sampled_from(sorted(DTYPE_BYTES)),
    count=st.integers(0, 4000),
    seed=st.integers(0, 2**32 - 1),
    share=st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0]),
    alone=st.booleans(),
)
def test_the_chosen_encoding_is_smaller_and_round_trips(
    dtype: str, count: int, seed: int, share: float, alone: bool
) -> None:
    new, old = pair(count, DTYPE_BYTES[dtype], seed, share)
    earlier = None if alone else memoryview(old)
    chosen = encode(memoryview(new), earlier, dtype)
    assert chosen == encode(memoryview(new), earlier, dtype)
    if chosen is None:
        return
    method, payload = chosen
    assert len(payload) <= 0.9 * len(new)
    assert alone <= (method == "planes")
    assert read(method, payload, old, len(new), dtype) == new


@pytest.mark.parametrize("count", EDGES)
@pytest.mark.parametrize("method", METHODS)
def test_the_edges_of_blocks(method: str, count: int) -> None:
    new, old = pair(count, 2, count, 0.02)
    assert read(method, written(method, new, old, 2), old, len(new), "BF16") == new


def test_nan_and_signed_zero_round_trip() -> None:
    quiet, signalling = 0x7FC00001, 0x7F800001
    old = struct.pack("<4I", 0, quiet, signalling, 0x3F800000)
    new = struct.pack("<4I", 0x80000000, quiet, quiet, 0x3F800000)
    assert count_changes(memoryview(new), memoryview(old), 4) == 2
    for method in METHODS:
        assert read(method, written(method, new, old, 4), old, 16, "F32") == new


def bf16(values: np.ndarray) -> np.ndarray:
    return (values.astype("<f4").view("<u4") >> 16).astype("<u2")


def test_the_method_follows_the_kind_of_change() -> None:
    rng = np.random.default_rng(0)
    old = bf16(rng.normal(0, 0.02, 50_000))
    few = old.copy()
    few[::500] = bf16(rng.normal(0, 0.02, 100))
    little = (old + (rng.random(old.size) < 0.3)).astype("<u2")
    other = bf16(rng.normal(0, 0.02, old.size))
    noise = rng.integers(0, 2**16, old.size, np.uint16)
    chosen = {}
    for name, new in {"few": few, "little": little, "other": other, "noise": noise}.items():
        found = encode(new.view(np.uint8).data, old.view(np.uint8).data, "BF16")
        chosen[name] = found and found[0]
    assert chosen == {"few": "sparse", "little": "difference", "other": "planes", "noise": None}


@pytest.mark.parametrize("size", [0, 2, 4])
def test_small_tensors_stay_plain(size: int) -> None:
    assert encode(memoryview(bytes(size)), memoryview(bytes(size)), "BF16") is None


# What comes from outside ---------------------------------------------------------------------


def refused(method: str, payload: bytes, length: int = 4096, dtype: str = "BF16") -> str:
    with raises("M212", match="tensor 't' cannot be decoded") as caught:
        read(method, payload, bytes(length), length, dtype)
    return str(caught.value)


def zstd(content: bytes, **options: int | bool) -> bytes:
    settings = zstandard.ZstdCompressionParameters.from_level(3, **options)
    return zstandard.ZstdCompressor(compression_params=settings).compress(content)


def changes(count: int, gaps: list[int], values: bytes = b"") -> bytes:
    """Return the content of a sparse frame of one block."""
    low = bytes(gap % 256 for gap in gaps)
    high = bytes(gap // 256 for gap in gaps)
    return count.to_bytes(4, "little") + low + high + values


@settings(deadline=None, max_examples=80)
@given(method=st.sampled_from(METHODS), payload=st.binary(max_size=200), framed=st.booleans())
def test_any_bytes_are_refused_or_decoded(method: str, payload: bytes, framed: bool) -> None:
    """Also random content in a valid frame: it decodes to something, or the error is typed."""
    length = len(payload) if framed and method != "sparse" else 64
    try:
        read(method, zstd(payload) if framed else payload, bytes(length), length, "U8")
    except ReleaseError:
        pass
    else:
        assert framed


@settings(deadline=None, max_examples=80)
@given(
    method=st.sampled_from(METHODS),
    cut=st.integers(0, 2**20),
    flip=st.integers(1, 255),
    how=st.sampled_from(["cut", "flip", "more"]),
)
def test_a_damaged_payload_is_refused_or_decodes_to_as_many_bytes(
    method: str, cut: int, flip: int, how: str
) -> None:
    new, old = pair(70_000, 2, 5, 0.05)
    payload = written(method, new, old, 2)
    place = cut % len(payload)
    if how == "flip":
        damaged = bytearray(payload)
        damaged[place] ^= flip
        try:
            read(method, bytes(damaged), old, len(new), "BF16")
        except ReleaseError:
            pass
        return
    damaged = bytearray(payload[:place] if how == "cut" else payload + bytes([flip]))
    with raises("M212"):
        read(method, bytes(damaged), old, len(new), "BF16")


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_is_refused_by_its_stated_size(method: str) -> None:
    assert "does not contain" in refused(method, zstd(bytes(10**8)))


def test_a_bomb_with_a_wrong_size_stops_at_that_size() -> None:
    """A frame with more content than its header states: zstd or the number of blocks stops it."""
    payload = bytearray(zstd(bytes(1 << 20), write_content_size=True))
    at = payload.index((1 << 20).to_bytes(4, "little"))
    payload[at : at + 4] = (4096).to_bytes(4, "little")
    refused("difference", bytes(payload))
    payload[at : at + 4] = (1 << 21).to_bytes(4, "little")
    refused("difference", bytes(payload), length=1 << 21)


def test_a_frame_of_empty_blocks_ends_early() -> None:
    payload = zstd(bytes(4096))
    header = payload[: zstandard.frame_header_size(payload)]
    assert "blocks" in refused("planes", header + bytes(3 * 10**6))


@pytest.mark.parametrize(
    ("payload", "sentence"),
    [
        (b"", "does not begin with a zstd frame"),
        (b"\x28\xb5\x2f\xfd", "invalid header"),
        (b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd", "does not begin with a zstd frame"),
        (zstd(bytes(4096), write_content_size=False), "does not contain"),
        (zstd(bytes(4095)), "does not contain"),
        (zstd(bytes(4096)) * 2, "frame ends after"),
        (zstd(bytes(4096)) + b"\0", "frame ends after"),
        (zstd(bytes(4096))[:-1], "truncated"),
    ],
)
def test_a_payload_is_exactly_one_frame_of_the_right_size(payload: bytes, sentence: str) -> None:
    assert sentence in refused("difference", payload)


def test_a_wide_window_is_refused() -> None:
    size = 4 * DELTA_WINDOW_BYTES
    payload = zstd(bytes(size), window_log=24)
    assert zstandard.get_frame_parameters(payload).window_size == 2 * DELTA_WINDOW_BYTES
    assert "window" in refused("planes", payload, length=size)
    payload = zstd(bytes(size), window_log=23, write_checksum=True)
    assert read("planes", payload, b"", size, "U8") == bytes(size)


def test_a_dictionary_is_refused() -> None:
    words = zstandard.ZstdCompressionDict(
        bytes(range(256)) * 40, dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    payload = bytearray(zstandard.ZstdCompressor(dict_data=words).compress(bytes(4096)))
    payload[4] |= 1  # the header says that one byte of a dictionary's number follows
    payload[5:5] = b"\x07" if payload[4] & 0x20 else b""
    assert "dictionary" in refused("planes", bytes(payload))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (changes(4, [0, 0, 0, 0], bytes(8)), None),
        (changes(1, [3], bytes(2)), None),
        (changes(1, [4], bytes(2)), "beyond the tensor's end"),
        (changes(2, [2, 1], bytes(4)), "beyond the tensor's end"),
        (changes(1, [65535], bytes(2)), "beyond the tensor's end"),
        (changes(5, [0] * 5, bytes(10))[:20], "changes 5 of 4"),
        (changes(2**32 - 1, []), "changes 4294967295 of 4"),
        (changes(2, [0, 0], bytes(3)), "less content"),
        (changes(0, [0], b""), "more content"),
        (changes(1, [0], bytes(3)), "more content"),
    ],
)
def test_changes_stay_inside_the_tensor(content: bytes, sentence: str | None) -> None:
    if sentence is None:
        assert read("sparse", zstd(content), b"\1" * 8, 8, "BF16") != b"\1" * 8
    else:
        assert sentence in refused("sparse", zstd(content), length=8)


def test_methods_and_earlier_tensors_must_match() -> None:
    payload, out = zstd(bytes(8)), memoryview(bytearray(8))
    for method, base in [
        ("planes", bytes(8)),
        ("difference", None),
        ("sparse", None),
        ("new", bytes(8)),
    ]:
        with raises("M212", match="its method is"):
            decode(method, payload, base and memoryview(base), out, "F32", "tensor 't'")
    with raises("M212", match="its length differs"):
        decode("difference", payload, memoryview(bytes(4)), out, "F32", "tensor 't'")
    with raises("M212", match="its length differs"):
        decode("planes", payload, None, out[:7], "F32", "tensor 't'")


def test_decoding_memory_is_bounded_by_blocks() -> None:
    import tracemalloc

    length = 64 << 20
    payload = write_frame([bytes(1 << 20)] * 64, length)
    out, base = memoryview(bytearray(length)), memoryview(bytes(length))
    tracemalloc.start()
    decode("difference", payload, base, out, "F64", "tensor 't'")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
