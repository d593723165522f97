"""Counting NaN and infinity in tensors of a file; imports numpy only when called."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.dtypes import DTYPE_BYTES, LEAST_NONFINITE
from modpkg.core.lazy_numpy import np
from modpkg.core.regular_file import open_file

_BLOCK = 1 << 20


def count_nonfinite(path: Path, offset: int, length: int, dtype: str) -> int:
    """Return how many values of a tensor are NaN or infinite; 0 for dtypes that have neither."""
    mask = LEAST_NONFINITE.get(dtype)
    if mask is None:
        return 0
    count, left = 0, length
    kind = np.dtype(f"<u{DTYPE_BYTES[dtype]}")
    # Without the sign, non-finite values are at or above the mask.
    limit, sign = kind.type(mask), kind.type((1 << (8 * kind.itemsize - 1)) - 1)
    with open_file(path) as file:
        file.seek(offset)
        while left and (data := file.read(min(left, _BLOCK))):
            bits = np.frombuffer(data, kind) & sign
            if bits.max() >= limit:
                count += int(np.count_nonzero(bits >= limit))
            left -= len(data)
    return count
