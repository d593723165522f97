"""Which float64 approximations may round to another value than the number that they stand for."""

from __future__ import annotations

from typing import Any

import numpy as np

from modpkg.compose.arrays import Array
from modpkg.compose.rounding import rounded

UNIT = 2.0**-53
"""The unit roundoff of float64: a rounded sum or product is off by at most this much of itself."""
LEAST = 2.0**-1074
"""Where a product underflows, it is off by at most half of this instead."""


def gamma(count: int) -> float:
    """Return Higham's γ_count = count · u / (1 − count · u), rounded up.

    Factors (1 + δ_i) with |δ_i| <= u multiply to 1 + θ with |θ| <= γ, for any order of operations,
    and with fused ones: Accuracy and Stability of Numerical Algorithms, 2002, lemma 3.1.
    """
    return count * UNIT / (1 - count * UNIT) * (1 + 4 * UNIT)


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
