"""Byte ranges: every byte is requested once, and written to its place."""

from __future__ import annotations

import itertools
import struct
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from modpkg.core.ranges import Segment, left_of, length, merge, pieces_of, split, subtract
from modpkg.transfer.staging import written_spans

spans = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda pair: (pair[0], sum(pair))),
    max_size=8,
)


def members(parts: list[tuple[int, int]]) -> set[int]:
    return {byte for start, stop in parts for byte in range(start, stop)}


@given(spans, st.integers(0, 10))
def test_merging_keeps_every_byte_and_adds_only_small_gaps(parts: list, gap: int) -> None:
    merged = merge(parts, gap)
    assert members(parts) <= members(merged)
    assert all(left[1] + gap < right[0] for left, right in itertools.pairwise(merged))
    added = members(merged) - members(parts)
    assert all(not added.issuperset(range(byte, byte + gap + 1)) for byte in added)


@given(spans, spans)
def test_subtracting_is_set_difference(parts: list, done: list) -> None:
    left = subtract(parts, done)
    assert members(left) == members(parts) - members(done)
    assert left == sorted(left)
    assert length(left) == len(members(left))
    for part in parts:
        assert left_of(part, merge(done)) == subtract([part], done)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(0, 9)), max_size=12))
def test_a_journal_is_read_in_its_order(entries: list[tuple[bool, int, int]]) -> None:
    written: set[int] = set()
    for is_discard, start, count in entries:
        part = set(range(start, start + count))
        written = written - part if is_discard else written | part
    data = b"".join(struct.pack("<QQQ", 2 * d + 1, start, count) for d, start, count in entries)
    with tempfile.TemporaryDirectory() as name:
        for suffix, content in ((".pack", b""), (".spool", bytes(30)), (".journal", data)):
            (Path(name) / f"p{suffix}").write_bytes(content)
        packed, spooled = written_spans(Path(name), "p", (0, 30))
    assert (packed, members(spooled)) == ([], written)
    assert spooled == merge(spooled)


@given(spans, st.integers(1, 9))
def test_splitting_keeps_order_and_bounds(parts: list, size: int) -> None:
    merged = merge(parts)
    cut = list(split(merged, size))
    assert members(cut) == members(merged)
    assert all(0 < stop - start <= size for start, stop in cut)
    assert merge(cut) == merged


segments = st.lists(
    st.builds(
        lambda start, size, target, position: Segment(start, start + size, target, position),
        st.integers(0, 60),
        st.integers(0, 25),
        st.integers(0, 1),
        st.integers(0, 100),
    ),
    max_size=8,
)


@given(segments, st.integers(0, 10), st.integers(1, 30))
def test_pieces_write_every_byte_to_its_offset(parts: list, gap: int, size: int) -> None:
    def writes(segment: Segment) -> list[tuple[int, int, int]]:
        shift = segment.position - segment.start
        return [(byte, segment.target, byte + shift) for byte in range(segment.start, segment.stop)]

    pieces = pieces_of(parts, gap, size)
    wanted = sorted(write for segment in parts for write in writes(segment))
    brought = sorted(write for _, inside in pieces for part in inside for write in writes(part))
    assert brought == wanted
    for (start, stop), inside in pieces:
        assert 0 < stop - start <= size
        assert all(start <= part.start < part.stop <= stop for part in inside)
    asked = [byte for span, _ in pieces for byte in range(*span)]
    assert len(asked) == len(set(asked))


def test_the_whole_pack_is_one_range_when_most_is_wanted() -> None:
    parts = [Segment(100 * n, 100 * n + 90, 0, 90 * n) for n in range(50)]
    assert [span for span, _ in pieces_of(parts, 64, 1 << 20)] == [(0, 4990)]
    assert len(pieces_of(parts, 5, 1 << 20)) == 50
