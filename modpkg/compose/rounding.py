"""Rounding float64 once, correctly, to the dtype of the result.

Going through float32 would round twice: a value just above a tie can become the tie and then round
the wrong way. Here every element becomes the value nearest to the float64, ties to even.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modpkg.compose.arrays import STORED, Array, Stored
from modpkg.core.dtypes import LEAST_NONFINITE

# The second rounding is wrong only at a tie of the narrow dtype. In float32 a tie has these low
# bits; float16 has further ties where it is subnormal, all of which end in twelve zero bits.
_LOW_BITS = {"BF16": (0xFFFF, 0x8000), "F16": (0x0FFF, 0)}
_NAN = 0x7FC0


def rounded(values: Array, dtype: str) -> Stored:
    """Return ``values`` rounded once to F64, F32, F16 or BF16, as stored in a pack.

    >>> [hex(bits) for bits in rounded(np.array([1.0, 1.00390625, 1.00390626]), "BF16")]
    ['0x3f80', '0x3f80', '0x3f81']
    """
    with np.errstate(over="ignore", invalid="ignore"):  # overflow becomes infinity
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
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)  # half a unit in the last place, ties to even
    bits >>= 16
    narrow = bits.astype(np.uint16)
    if missing is not None:
        narrow[missing] = _NAN
    return narrow


def _round_to_odd(bits: Any, single: Any, values: Array, where: Any) -> None:
    """Move inexact float32 off the tie, to the neighbour on the side of the float64 value.

    That neighbour is odd, and rounding it again is correct (round to odd): Boldo & Melquiond 2008,
    https://hal.inria.fr/inria-00080427. ``bits`` is ``single`` viewed as integers, which sort by
    magnitude. All arrays are flat.
    """
    nearest, true = np.abs(single[where]).astype(np.float64), np.abs(values[where])
    bits[where] += (true > nearest).astype(np.uint32)
    bits[where] -= (true < nearest).astype(np.uint32)


def magnitude_bits(stored: Stored) -> Any:
    """Return stored floats as unsigned integers that sort by magnitude."""
    width = stored.dtype.itemsize
    bits = stored.view(f"u{width}")
    return bits & bits.dtype.type((1 << (8 * width - 1)) - 1)


def all_finite(stored: Stored, dtype: str) -> bool:
    """Return whether stored values have neither NaN nor infinity."""
    return bool(magnitude_bits(stored).max(initial=0) < LEAST_NONFINITE[dtype])


def is_finite(stored: Stored, dtype: str) -> Any:
    """Return a mask of the stored values that are neither NaN nor infinity."""
    return magnitude_bits(stored) < LEAST_NONFINITE[dtype]
