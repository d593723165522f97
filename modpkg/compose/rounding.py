"""Rounding float64 once, correctly, to the dtype of the result.

A way through float32 rounds twice: a value just above a tie can become the tie, and then go the
wrong way. Here every element becomes the value that is nearest to the float64, ties to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modpkg.compose.arrays import STORED, Array, Stored
from modpkg.core.dtypes import LEAST_NONFINITE

# A second rounding can only go wrong at a tie of the narrow dtype. In float32 a tie has these low
# bits; float16 has further ties where it is subnormal, and all of them end in twelve zeros.
_LOW_BITS = {"BF16": (0xFFFF, 0x8000), "F16": (0x0FFF, 0)}
_NAN = 0x7FC0


def rounded(values: Array, dtype: str) -> Stored:
    """Return ``values`` rounded once to F64, F32, F16 or BF16, as they lie in a pack.

    >>> [hex(bits) for bits in rounded(np.array([1.0, 1.00390625, 1.00390626]), "BF16")]
    ['0x3f80', '0x3f80', '0x3f81']
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is infinite
        if dtype not in _LOW_BITS:
            return values.astype(STORED[dtype])
        single = values.astype(np.float32)
        bits = single.view(np.uint32)
        mask, tie = _LOW_BITS[dtype]
        suspects = np.flatnonzero((bits & np.uint32(mask)) == tie)
        if suspects.size:
            _round_to_odd(bits.reshape(-1), single.reshape(-1), values.reshape(-1), suspects)
        if dtype == "F16":
            return single.astype(np.float16)
        missing = np.isnan(single) if np.isnan(single.max(initial=0)) else None
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)  # half of the last place, ties to even
    bits >>= 16
    found = bits.astype(np.uint16)
    if missing is not None:
        found[missing] = _NAN
    return found


def _round_to_odd(bits: Any, single: Any, values: Array, where: Any) -> None:
    """Move inexact float32 off the tie, to the neighbour on the side of the true value.

    That neighbour is odd, and rounding an odd one again is harmless: Boldo & Melquiond 2008,
    https://hal.inria.fr/inria-00080427. ``bits`` is ``single`` as integers: it grows with
    magnitude. All are flat.
    """
    nearest, true = np.abs(single[where]).astype(np.float64), np.abs(values[where])
    bits[where] += (true > nearest).astype(np.uint32)
    bits[where] -= (true < nearest).astype(np.uint32)


def magnitude_bits(stored: Stored) -> Any:
    """Return floats as unsigned integers that grow with their magnitude."""
    width = stored.dtype.itemsize
    bits = stored.view(f"u{width}")
    return bits & bits.dtype.type((1 << (8 * width - 1)) - 1)


def all_finite(stored: Stored, dtype: str) -> bool:
    """Say whether there is neither NaN nor infinity in what lies in a pack."""
    return bool(magnitude_bits(stored).max(initial=0) < LEAST_NONFINITE[dtype])


def is_finite(stored: Stored, dtype: str) -> Any:
    """Return where what lies in a pack is neither NaN nor infinity."""
    return magnitude_bits(stored) < LEAST_NONFINITE[dtype]
