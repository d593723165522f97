"""Weighted sums in float32 first, with proven error bounds.

Where fine-tunes are close to the base, as nearly all of their values are, float32 rounds to the
same bfloat16 or float16 as float64, except for values whose float32 is next to a tie, and takes
half the time. The following holds for a value b of the base and its fine-tunes x_i, all of the same
such dtype with f fraction bits and of the same sign, each x_i at most n · 2^f representable values
away from b, so that 2⁻ⁿ |b| <= |x_i| <= 2ⁿ |b|, and b not near the ends of its range; all other
values are computed in float64, see `modpkg.compose.narrow_floats`. Then d_i = x_i − b is an integer
multiple of 2^(e − n − f), where e is the exponent of b, has at most 2n + f + 1 bits, and is exact
in float32.

With u = 2⁻²⁴ and Higham's γ_k = k·u / (1 − k·u) (Accuracy and Stability of Numerical Algorithms,
2002, section 3.1), a sum of k rounded products is within γ_(k+1) of Σ |c_i d_i|.

- If all factors are short (`_short`), so are the products and their sums: float32 and float64 are
  both exact and round to the same value, ties included.
- If the result is between b and the x_i, |result| >= 2⁻ⁿ |b|, and Σ |c_i d_i| <= 2ⁿ |b|.
- Otherwise the x_i must be so close that |Σ c_i d_i| <= |b| / 2 <= |result|.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]


class ThresholdRun(NamedTuple):
    """Elements [start, stop), of which magnitudes below ``threshold`` are dropped."""

    start: int
    stop: int
    threshold: float


Runs = Sequence[Sequence[ThresholdRun]]
"""For each step, consecutive runs."""

RunsOf = Callable[[Any, int, int], Runs | None]
"""``runs(measured, first, count)``: the runs of ``count`` elements from flat index ``first`` on;
None if thresholds alone do not describe what was measured."""


class NarrowFloat(NamedTuple):
    """A 16-bit float dtype that a result is rounded to."""

    fraction: int
    """Fraction bits: f."""
    exact: int
    """n if all factors are short: 2n + f + 1 is at most 14."""
    between: int
    """n if the result is between b and the x_i. A larger n puts more results next to a tie, and
    leaves fewer x_i out of range."""


NARROW = {"BF16": NarrowFloat(7, 3, 2), "F16": NarrowFloat(10, 1, 1)}


class SinglePrecision(NamedTuple):
    """A method in float32."""

    steps: int
    """Largest distance between an x_i and b, in representable values of the dtype."""
    ulps: int
    """Largest error against float64, in units of float32's last place; 0: exact."""
    reduce: Callable[[Array32, list[Array32], Runs, Mask], Array32]
    """``reduce(base, deltas, runs, doubt)``: flat float32 arrays, all overwritten. Returns the
    result, and sets ``doubt`` where it may be off by more than ``ulps``."""
    runs: RunsOf = lambda *_: ()


_PARTS, _MOST = 64, 256
"""Short factors are multiples of 1 / `_PARTS` that sum to at most `_MOST` of these."""
_MAGNITUDE = (1 << 31) - 1
"""The bits of a float32 without its sign."""
_LEAST = 2.0**-20
"""Smallest weight; with it no product of `disjoint_merge` underflows in float32."""


def _short(*factors: Fraction) -> bool:
    """Return whether products with 14-bit d_i, and all their sums, have at most 24 bits."""
    multiples = all((factor * _PARTS).denominator == 1 for factor in factors)
    return multiples and sum(abs(factor * _PARTS) for factor in factors) <= _MOST


def weighted_sum(
    narrow: NarrowFloat, weights: Sequence[float], divisor: float = 1.0, factor: float = 1.0
) -> SinglePrecision | None:
    """Return base + factor · Σ weights_i · d_i / divisor."""
    if not all(map(math.isfinite, (*weights, divisor, factor))) or not divisor:
        return None
    plain = [Fraction(weight) for weight in weights]
    divided = [weight / Fraction(divisor) for weight in plain]
    factors = [Fraction(factor) * each for each in divided]
    reach = sum(abs(each) for each in factors)
    rounded = len(weights) + 6  # factors, products, sums, and the error of float64 itself
    if _short(*plain) and _short(*divided) and _short(*factors):
        steps, ulps = narrow.exact << narrow.fraction, 0
    elif min(factors) >= 0 and reach <= 1:
        steps, ulps = narrow.between << narrow.fraction, rounded << 2 * narrow.between
    else:
        # |d_i| <= steps · 2^(1 − f) · |b|
        steps, ulps = int((1 << narrow.fraction - 2) / max(reach, 1)), 2 * rounded
        if not steps:
            return None
    singles = [np.float32(float(each)) for each in factors]

    def reduce(base: Array32, deltas: list[Array32], _: Runs, doubt: Mask) -> Array32:
        for delta, each in zip(deltas, singles, strict=True):
            delta *= each
        for delta in deltas[1:]:
            deltas[0] += delta
        base += deltas[0]
        return base

    return SinglePrecision(steps, ulps, reduce)


def disjoint_merge(
    narrow: NarrowFloat,
    weights: Sequence[float],
    runs: RunsOf,
    *,
    votes: str = "weighted",
    divide: str = "",
    factor: float = 1.0,
) -> SinglePrecision | None:
    """Return base + factor · `sparsified.disjoint_merge` of the trimmed deltas."""
    count = len(weights)
    in_range = all(_LEAST <= weight <= 1 / _LEAST for weight in weights) and _LEAST <= factor <= 1
    if not in_range or votes not in ("weighted", "total"):
        return None
    between = {"weights": True, "count": max(weights) <= 1, "": sum(weights) <= 1}
    if not between[divide]:
        return None
    plain = [Fraction(weight) for weight in weights]
    exact = factor == 1.0 and _short(*plain) and _divisors_are_powers_of_two(plain, divide)
    # |b| times this exceeds the error of Σ weight_i · d_i, as |d_i| <= 4 |b|.
    slack = 0.0
    if not exact and votes == "weighted":
        slack = (count + 2) * 2.0**-21 * max(1.0, math.fsum(weights))
    singles = [np.float32(weight) for weight in weights]

    def reduce(base: Array32, deltas: list[Array32], trimmed: Runs, doubt: Mask) -> Array32:
        # By the bits of floats, as signed integers: masks of booleans would have to be converted.
        mask, scratch = np.empty(base.shape, np.int32), np.empty_like(base)
        for delta, thresholds, weight in zip(deltas, trimmed, singles, strict=True):
            bits = delta.view(np.int32)
            if any(run.threshold > 0 for run in thresholds):
                np.bitwise_and(bits, np.int32(_MAGNITUDE), out=mask)
                for start, stop, threshold in thresholds:
                    below = _round_up(threshold).view(np.int32) - np.int32(1)
                    np.subtract(below, mask[start:stop], out=mask[start:stop])
                mask >>= np.int32(31)  # all bits of those that are kept
                bits &= mask
            if votes == "weighted" and weight != 1:
                delta *= weight
        vote = deltas[0] + deltas[1] if count > 1 else deltas[0].copy()
        for delta in deltas[2:]:
            vote += delta
        sign = vote.view(np.int32) & np.int32(-(1 << 31))
        divisor: Any = None
        total: Any = None
        for delta, weight in zip(deltas, singles, strict=True):
            bits = delta.view(np.int32)
            bits ^= sign  # values of the elected sign become positive
            np.maximum(bits, np.int32(0), out=bits)
            if divide:
                each = weight if divide == "weights" else np.float32(1)
                share = np.negative(bits)
                share >>= np.int32(31)
                share &= each.view(np.int32)
                divisor = _added(divisor, share.view(np.float32))
            if votes != "weighted" and weight != 1:
                delta *= weight
            total = _added(total, delta)
        if slack:
            np.absolute(vote, out=vote)
            np.absolute(base, out=scratch)
            scratch *= np.float32(slack)
            near = vote <= scratch
            near &= total > np.float32(0)
            doubt |= near
        if divisor is not None:
            np.maximum(divisor, np.float32(1e-30), out=divisor)  # where it is 0, so is the total
            total /= divisor
        if factor != 1.0:
            total *= np.float32(factor)
        signed = total.view(np.int32)
        signed ^= sign
        base += total
        return base

    binades = narrow.exact if exact else narrow.between
    ulps = 0 if exact else (2 * count + 8) << 2 * narrow.between
    return SinglePrecision(binades << narrow.fraction, ulps, reduce, runs)


def _added(total: Any, more: Array32) -> Any:
    """Return a sum, in place of its first part if there is one."""
    return more if total is None else np.add(total, more, out=total)


def _divisors_are_powers_of_two(weights: Sequence[Fraction], divide: str) -> bool:
    """Return whether every divisor that can occur is a power of two."""
    count = len(weights)
    if divide == "count":
        return count <= 2
    if divide == "weights":
        some = (itertools.combinations(weights, size) for size in range(1, count + 1))
        sums = (sum(each) for each in itertools.chain.from_iterable(some))
        return count <= 4 and all(_power_of_two(each) for each in sums)
    return True


def _power_of_two(value: Fraction | int) -> bool:
    value = Fraction(value)
    return value.numerator.bit_count() == 1 and value.denominator.bit_count() == 1


def _round_up(value: float) -> Any:
    """Return the smallest float32 >= ``value``."""
    single = np.float32(value)
    return single if float(single) >= value else np.nextafter(single, np.float32(math.inf))
