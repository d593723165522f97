"""Sparse deltas: the elements that differ from the earlier tensor, and their differences.

Per block of 65 536 elements: the number of changed elements (4 bytes), then the gap before each as
two byte planes (the number of unchanged elements since the previous one, or since the start of the
block), then their differences (see `planes`) as byte planes. Gaps can encode neither duplicate nor
decreasing positions.
"""

from __future__ import annotations

from collections.abc import Iterator

from modpkg.core.lazy_numpy import np
from modpkg.deltas.blocks import TensorBytes
from modpkg.deltas.frame import FrameReader
from modpkg.deltas.planes import add_difference, difference, merge_planes

BLOCK = 1 << 16
"""Elements per block: a gap then fits into 16 bits."""
COUNT_BYTES = 4
GAP_BYTES = 2


def split_changes(new: memoryview, old: memoryview, width: int) -> Iterator[bytes]:
    """Yield the uncompressed content of a sparse frame, block by block."""
    step = BLOCK * width
    kind = f"<u{width}"
    for start in range(0, len(new), step):
        block = np.frombuffer(new[start : start + step], kind)
        before = np.frombuffer(old[start : start + step], kind)
        places = np.flatnonzero(block != before)
        gaps = (np.diff(places, prepend=-1) - 1).astype("<u2")
        yield len(places).to_bytes(COUNT_BYTES, "little")
        yield gaps.view(np.uint8).reshape(-1, GAP_BYTES).T.tobytes()
        moved = difference(block[places], before[places], width)
        yield moved.view(np.uint8).reshape(-1, width).T.tobytes()


def count_changes(new: memoryview, old: memoryview, width: int) -> int:
    """Return how many elements differ bitwise: -0.0 is not 0.0, and a NaN equals itself."""
    step = BLOCK * width
    kind = f"<u{width}"
    return sum(
        int(
            np.count_nonzero(
                np.frombuffer(new[start : start + step], kind)
                != np.frombuffer(old[start : start + step], kind)
            )
        )
        for start in range(0, len(new), step)
    )


def content_bounds(length: int, width: int) -> tuple[int, int]:
    """Return the minimum and maximum size in bytes of a sparse frame's content."""
    counts = -(-length // (BLOCK * width)) * COUNT_BYTES
    return counts, counts + length // width * (GAP_BYTES + width)


def apply_changes(
    reader: FrameReader, old: TensorBytes, out: TensorBytes, width: int
) -> Iterator[memoryview]:
    """Fill ``out`` with ``old`` plus the changes in ``reader``.

    Yields each block when it is filled.

    Raises:
        ReleaseError: A position is outside of its block, or the frame's content is invalid.
    """
    step = BLOCK * width
    kind = f"<u{width}"
    count_bytes = bytearray(COUNT_BYTES)
    for start in range(0, len(out), step):
        filled = out[start : start + step]
        block = np.frombuffer(filled, kind)
        block[...] = np.frombuffer(old[start : start + step], kind)
        reader.fill(memoryview(count_bytes))
        count = int.from_bytes(count_bytes, "little")
        if count > len(block):
            raise reader.refused(f"it changes {count} of {len(block)} elements")
        if not count:
            yield filled
            continue
        planes = np.empty((GAP_BYTES + width, count), np.uint8)
        reader.fill(planes.reshape(-1).data)
        gaps = np.empty(count * GAP_BYTES, np.uint8)
        merge_planes(planes[:GAP_BYTES], gaps)
        places = np.cumsum(gaps.view("<u2"), dtype=np.int64) + np.arange(count)
        if places[-1] >= len(block):
            raise reader.refused("it changes an element beyond the tensor's end")
        moved = np.empty(count * width, np.uint8)
        merge_planes(planes[GAP_BYTES:], moved)
        add_difference(moved.view(kind), block[places], width)
        block[places] = moved.view(kind)
        yield filled
