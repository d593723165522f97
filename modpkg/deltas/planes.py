"""Byte planes: first bytes of all elements, then all second bytes …, block by block.

The bytes of a float differ in kind: sign and exponent repeat, the mantissa hardly does. Together,
each kind packs to what it holds. Rearranging so: https://arxiv.org/abs/2411.05239.

A difference is that of the elements' bits as whole numbers: floats of one sign lie in the order of
their bits, so that training, which moves numbers a little, makes it small. A bias of half a byte in
all bytes but the last keeps small differences of both signs from carrying into the higher planes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modpkg.deltas.frame import FrameReader

BLOCK = 1 << 17
"""Elements to a block: a plane of one is as long as the longest block of zstd."""


def split_planes(new: memoryview, old: memoryview | None, width: int) -> Iterator[bytes]:
    """Yield the planes of ``new``, or of its difference from ``old``, block by block."""
    import numpy as np

    step = BLOCK * width
    kind = f"<u{width}"
    for start in range(0, len(new), step):
        block = np.frombuffer(new[start : start + step], kind)
        if old is not None:
            block = difference(block, np.frombuffer(old[start : start + step], kind), width)
        yield block.view(np.uint8).reshape(-1, width).T.tobytes()


def bias(width: int) -> int:
    """Return the bias of elements of so many bytes.

    >>> f"{bias(1):#x} {bias(2):#x} {bias(4):#x}"
    '0x80 0x80 0x808080'
    """
    return int.from_bytes(b"\x80" * max(1, width - 1), "little")


def difference(new: Any, old: Any, width: int) -> Any:
    """Return ``new - old + bias`` of arrays of unsigned numbers, modulo 2 to the bits they have."""
    return new - old + bias(width)


def add_difference(found: Any, old: Any, width: int) -> None:
    """Turn differences, in place, into what they are the differences of."""
    import numpy as np

    np.add(found, old, out=found)
    np.subtract(found, bias(width), out=found)


def join_planes(reader: FrameReader, old: memoryview | None, out: memoryview, width: int) -> None:
    """Fill ``out`` with the tensor whose planes ``reader`` gives; undo the difference.

    Raises:
        ReleaseError: the frame does not hold them.
    """
    import numpy as np

    step = BLOCK * width
    kind = f"<u{width}"
    room = np.empty(min(step, len(out)), np.uint8)
    for start in range(0, len(out), step):
        block = np.frombuffer(out[start : start + step], np.uint8)
        planes = room[: len(block)]
        reader.fill(planes.data)
        merge_planes(planes.reshape(width, -1), block)
        if old is not None:
            add_difference(block.view(kind), np.frombuffer(old[start : start + step], kind), width)


def merge_planes(planes: Any, out: Any) -> None:
    """Write the elements whose byte planes are the rows of ``planes`` into ``out``.

    Two planes at a time, as 16-bit numbers: three times as fast as byte by byte.
    """
    import numpy as np

    width, count = planes.shape
    if width == 1:
        out[...] = planes[0]
        return
    pairs = out.view("<u2").reshape(count, width // 2)
    for pair in range(width // 2):
        merged = planes[2 * pair + 1].astype("<u2")
        np.left_shift(merged, 8, out=merged)
        np.bitwise_or(merged, planes[2 * pair], out=pairs[:, pair])
