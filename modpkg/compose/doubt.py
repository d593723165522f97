"""Which float64 approximations may round to another value than the number that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from modpkg.compose.arrays import Array
from modpkg.compose.rounding import rounded


def doubtful(values: Array, bound: Any, dtype: str) -> Any:
    """Return a mask: True where a number within ``bound`` of a value may round to another float.

    Rounding is monotone, so all numbers between two that round to the same float round to it. This
    holds beside the subnormal numbers and the largest one too. Zeros of either sign are different
    floats; a value with a bound of 0 is the number itself, and never in doubt.

    Args:
        values: float64; a value that is not finite is in doubt.
        bound: Non-negative float64, a number or broadcasting with ``values``.
        dtype: F64, F32, F16 or BF16.
    """
    with np.errstate(all="ignore"):
        low = rounded(np.nextafter(values - bound, -np.inf), dtype)
        high = rounded(np.nextafter(values + bound, np.inf), dtype)
    width = low.dtype.itemsize
    mask = low.view(f"u{width}") != high.view(f"u{width}")
    mask &= np.not_equal(bound, 0)
    mask |= ~np.isfinite(values)
    mask |= ~np.isfinite(bound)
    return mask


def doubtful_places(values: Array, bound: Any, dtype: str) -> Any:
    """Return the flat indices where `doubtful` is true; most are told apart fast.

    ``bound`` is a number, or an array of the values' shape.
    """
    flat, bounds = values.reshape(-1), np.asarray(bound).reshape(-1)
    most = float(bounds.max(initial=0.0))
    if not np.isfinite(most):
        return np.arange(flat.size)
    where = _near_ties(flat, most, dtype)
    return where[doubtful(flat[where], bounds[where] if bounds.size > 1 else most, dtype)]


_NEAR = {"BF16": (0xFFFF, 0x8000), "F16": (0x0FFF, 0)}
"""Low bits of a float32 that may be a tie, and their value at one; see `rounding`."""


def _near_ties(flat: Array, bound: float, dtype: str) -> Any:
    """Return where values are near a tie, or so small that ``bound`` spans many floats."""
    if dtype == "F64":
        return np.arange(flat.size)
    with np.errstate(all="ignore"):
        if dtype == "F32":
            # a bound of up to 2^15 units of float64's last place, of normal numbers
            return _candidates(
                flat.view(np.uint64), (1 << 29) - 1, 1 << 28, 1 << 16, bound * 2.0**38
            )
        # a float32 is off by half a unit of its last place, and the bound is at most as much again
        mask, tie = _NEAR[dtype]
        return _candidates(flat.astype(np.float32).view(np.uint32), mask, tie, 2, bound * 2.0**26)


def _candidates(bits: Any, mask: int, tie: int, width: int, least: float) -> Any:
    """Return where the low bits are within ``width`` of a tie, or the float is below ``least``."""
    kind = bits.dtype.type
    float_kind, top = (np.float32, 0x7F800000) if kind is np.uint32 else (np.float64, 0x7FF0 << 48)
    low = bits + kind((width - tie) % (mask + 1))
    low &= kind(mask)
    near = low <= kind(2 * width)
    smallest = 2.0**-100 if kind is np.uint32 else 2.0**-125
    first = np.array([max(least, smallest)], float_kind).view(kind)[0]
    if first >= top:
        return np.arange(bits.size)
    size = np.bitwise_and(bits, kind((1 << 8 * bits.itemsize - 1) - 1), out=low)
    size -= first  # smaller ones wrap around, and become large
    near |= size >= kind(top - int(first))
    return np.flatnonzero(near)
