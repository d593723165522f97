"""NaN and infinity in tensors as they lie in a file; numpy is imported only to look."""

from __future__ import annotations

from pathlib import Path

from modpkg.core.packs import DTYPE_BYTES

_BLOCK = 1 << 20
NOT_FINITE = {
    "F64": 0x7FF0_0000_0000_0000,
    "F32": 0x7F80_0000,
    "BF16": 0x7F80,
    "F16": 0x7C00,
    "F8_E5M2": 0x7C,
    "F8_E4M3": 0x7F,
}
"""By dtype, the least bits, without the sign, of what is not finite: infinity's, or a NaN's."""


def count_not_finite(path: Path, offset: int, length: int, dtype: str) -> int:
    """Return how many values of a tensor are NaN or infinite; 0 for dtypes that have neither."""
    mask = NOT_FINITE.get(dtype)
    if mask is None:
        return 0
    import numpy as np

    count, left = 0, length
    kind = np.dtype(f"<u{DTYPE_BYTES[dtype]}")
    # Without the sign, what is not finite is not below the mask.
    limit, sign = kind.type(mask), kind.type((1 << (8 * kind.itemsize - 1)) - 1)
    with open(path, "rb") as file:
        file.seek(offset)
        while left and (data := file.read(min(left, _BLOCK))):
            bits = np.frombuffer(data, kind) & sign
            if bits.max() >= limit:
                count += int(np.count_nonzero(bits >= limit))
            left -= len(data)
    return count
