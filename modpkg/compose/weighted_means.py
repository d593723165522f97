"""Weighted means of bfloat16, where all values of an element have the same sign.

Nothing cancels there. With k products of factors c_i >= 0, float32 is off from X = Σ c_i x_i by at
most γ_(k+1) · |X|, see `modpkg.compose.reducers.single`: a few units of its last place, so that one
element in thousands is next to a tie. If all factors are short, and exponents not far apart, each
product and sum has at most 24 bits, and float32 is exact, ties included.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modpkg.compose.arrays import Stored, in_single
from modpkg.compose.reducers.single import WeightedMean


def weighted_mean(
    mean: WeightedMean,
    models: Sequence[Stored],
    wide: NDArray[np.float32],
    result: NDArray[np.uint16],
    bounds: tuple[int, int],
) -> NDArray[np.bool_]:
    """Compute the bits of means, and return where they are in doubt.

    Args:
        mean: What to compute.
        models: Base and fine-tunes as stored, flat.
        wide: float32 [models, elements], overwritten.
        result: The bits; of any value where they are in doubt.
        bounds: Bits of the smallest and the largest magnitude of results that are not in doubt.
    """
    for own, stored in zip(wide, models, strict=True):
        in_single(stored, out=own)
    doubt = mean_of_wide(mean, wide, result)
    doubt |= too_far(mean, models)
    out_of_bounds(result, bounds, doubt)
    return doubt


def mean_of_wide(
    mean: WeightedMean, wide: NDArray[np.float32], result: NDArray[np.uint16]
) -> NDArray[np.bool_]:
    """Compute the bits of means of values that are not apart, and return which are next to a tie.

    Args:
        mean: What to compute.
        wide: The values: float32 [models, elements].
        result: Gets the bits.
    """
    bits: Any = np.dot(mean.shares, wide).view(np.uint32)
    doubt: NDArray[np.bool_]
    if mean.ulps:
        bits += np.uint32((1 << 15) + mean.ulps)
        np.copyto(result, bits, casting="unsafe")  # the distance to the tie, from -ulps on
        doubt = result <= np.uint16(2 * mean.ulps)
        bits >>= np.uint32(16)
    else:
        odd = bits >> np.uint32(16)
        odd &= np.uint32(1)
        odd += np.uint32((1 << 15) - 1)
        bits += odd  # ties go to even
        bits >>= np.uint32(16)
        doubt = np.zeros(result.shape, np.bool_)
    np.copyto(result, bits, casting="unsafe")
    return doubt


def too_far(mean: WeightedMean, models: Sequence[Stored]) -> NDArray[np.bool_]:
    """Return where values have different signs, or are over `WeightedMean.steps` from the first."""
    far: NDArray[np.bool_]
    if mean.ulps:
        far = apart(models) >= np.uint16(1 << 15)
        return far
    # The other sign is farther away than the steps, even where the difference wraps around, but
    # beside 0 and infinity, where a result is out of bounds.
    base, *others = (stored.view(np.uint16) for stored in models)
    least = base - np.uint16(mean.steps)
    most = others[0] - least
    for other in others[1:]:
        np.maximum(most, other - least, out=most)
    far = most > np.uint16(2 * mean.steps)
    return far


def apart(models: Sequence[Stored]) -> NDArray[np.uint16]:
    """Return in which bits any model's values differ from those of the first one."""
    base, *others = (stored.view(np.uint16) for stored in models)
    found: NDArray[np.uint16] = base ^ others[0]
    for other in others[1:]:
        found |= base ^ other
    return found


def out_of_bounds(
    result: NDArray[np.uint16], bounds: tuple[int, int], doubt: NDArray[np.bool_]
) -> None:
    """Set ``doubt`` where a magnitude is smaller or larger than those of some bits."""
    doubled = result + result  # without the sign
    least, most = (2 * bound for bound in bounds)
    if doubled.size and not least <= int(doubled.min()) <= int(doubled.max()) <= most:
        doubled -= np.uint16(least)  # smaller ones become large
        doubt |= doubled > np.uint16(most - least)
