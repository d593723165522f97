"""Byte planes: first bytes of all elements, then all second bytes …, block by block.

The bytes of a float differ in kind: sign and exponent repeat, the mantissa hardly does. Together,
each kind packs to what it holds. Rearranging so: https://arxiv.org/abs/2411.05239.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from modpkg.deltas.frame import FrameReader

BLOCK = 1 << 17
"""Elements to a block: a plane of one is as long as the longest block of zstd."""


def split_planes(new: memoryview, old: memoryview | None, width: int) -> Iterator[bytes]:
    """Yield the planes of ``new``, or of its exclusive or with ``old``, block by block."""
    import numpy as np

    step = BLOCK * width
    for start in range(0, len(new), step):
        block = np.frombuffer(new[start : start + step], np.uint8)
        if old is not None:
            block = block ^ np.frombuffer(old[start : start + step], np.uint8)
        yield block.reshape(-1, width).T.tobytes()


def join_planes(reader: FrameReader, old: memoryview | None, out: memoryview, width: int) -> None:
    """Fill ``out`` with the tensor whose planes ``reader`` gives; undo the exclusive or.

    Raises:
        BadEncoding: the frame does not hold them.
    """
    import numpy as np

    step = BLOCK * width
    room = np.empty(min(step, len(out)), np.uint8)
    for start in range(0, len(out), step):
        block = np.frombuffer(out[start : start + step], np.uint8)
        planes = room[: len(block)]
        reader.fill(planes.data)
        merge_planes(planes.reshape(width, -1), block)
        if old is not None:
            np.bitwise_xor(block, np.frombuffer(old[start : start + step], np.uint8), out=block)


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
