"""Weighted sums in float32 first, with proven error bounds.

Where fine-tunes are close to the base, as nearly all of their values are, float32 rounds to the
same bfloat16 or float16 as float64, except for values whose float32 is next to a tie, and takes
half the time. The following holds for a value b of the base and its fine-tunes x_i, all of the same
such dtype with f fraction bits, of which M is the largest magnitude; all values for which a
condition does not hold are computed in float64, see `modpkg.compose.narrow_floats`.

With u = 2⁻²⁴ and Higham's γ_k = k·u / (1 − k·u) (Accuracy and Stability of Numerical Algorithms,
2002, section 3.1), a sum of k rounded products is within γ_(k+1) of Σ |c_i v_i|.

- A weighted sum X = Σ c_i x_i of base and fine-tunes is off by at most γ_k · Σ |c_i| · M. That is
  so many units in the last place of X as k · Σ |c_i| · 2ʲ, if M <= 2ʲ |X|: only where values cancel
  each other is X smaller.
- A sum b + Σ c_i d_i of differences d_i = x_i − b, not all of which need to be there, with
  Σ |c_i d_i| <= max |d_i| <= 2 M, is off by at most γ_k · 2 M in the same way. If no value is
  smaller than 2^(f − 22) M, all are integer multiples of a number of which no d_i has more than 24
  bits, so that the d_i are exact in float32, and so are comparisons with thresholds.
- If all factors are short (`_short`), each x_i has the sign of b and is at most n · 2^f
  representable values away from it, and b is not near the ends of its range, then
  2⁻ⁿ |b| <= |x_i| <= 2ⁿ |b|, and d_i is an integer multiple of 2^(e − n − f), where e is the
  exponent of b, of at most 2n + f + 1 bits. Products and their sums are as short: float32 and
  float64 are both exact and round to the same value, ties included.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.bitmap import Bitmap
from modpkg.compose.reducers.stream import draws_at
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]


class ThresholdCut(NamedTuple):
    """Which of consecutive elements are dropped: those whose magnitude is below a threshold."""

    threshold: float
    draws: int | None = None
    """Of those equal to the threshold, the ones whose draw is not below this are dropped too."""
    stream: int = 0
    """What the draws are of, see `modpkg.compose.reducers.stream.draws_at`."""
    first: int = 0
    """The first element's flat index in the tensor."""
    kept: Bitmap | None = None
    """The elements of the tensor that are not dropped, if it is known which they are."""
    mask: Mask | None = None
    """The same of these elements alone."""


Cuts = Sequence[ThresholdCut]
"""One for each step."""

CutsOf = Callable[[Any, int], Cuts | None]
"""``cuts(measured, first)``: the cuts of the elements from flat index ``first`` on; None if
thresholds alone do not describe what was measured."""


class NarrowFloat(NamedTuple):
    """A 16-bit float dtype that a result is rounded to."""

    fraction: int
    """Fraction bits: f."""
    exact: int
    """n if all factors are short: 2n + f + 1 is at most 14."""
    cancelled: int
    """j, see above. A larger one puts more results next to a tie, and a smaller one takes more for
    too small."""


NARROW = {"BF16": NarrowFloat(7, 3, 4), "F16": NarrowFloat(10, 1, 2)}


class WeightedMean(NamedTuple):
    """A weighted mean of base and fine-tunes, see `modpkg.compose.weighted_means`."""

    shares: Array32
    """The factors, none negative."""
    ulps: int
    """Largest error of a mean of values of one sign, in units of float32's last place; 0: it is
    exact, as far as `steps` go."""
    steps: int
    """Largest distance between the first value and any other, in representable bfloat16."""


class KeptPair(NamedTuple):
    """What two values become that are both kept, see `modpkg.compose.kept_values`."""

    mean: WeightedMean
    """Of the two, where they differ from the base in the same direction."""
    votes: tuple[float, float]
    """What their differences are multiplied with otherwise: the larger product is taken."""
    slack: float
    """Products that differ by no more than this share of their sum may be equal; 0: they are exact.
    """


class SinglePrecision(NamedTuple):
    """A method in float32."""

    ulps: int
    """Largest error against float64, in units of float32's last place; 0: exact."""
    reduce: Callable[[Array32, list[Array32], Cuts, Mask], Array32]
    """``reduce(base, others, cuts, doubt)``: flat float32 arrays, all overwritten; the others are
    deltas, unless it is ``of_values``. Returns the result, and sets ``doubt`` where comparisons may
    have another outcome."""
    cuts: CutsOf = lambda *_: ()
    steps: int = 0
    """Largest distance between an x_i and b, in representable values of the dtype, if it is exact.
    """
    cancelled: int = 0
    """j, if it is not."""
    of_values: bool = False
    """Whether `reduce` gets the fine-tunes themselves."""
    alone: bool = False
    """Whether an element has a fine-tune's value where that is the only one that is kept."""
    pair: KeptPair | None = None
    """What two fine-tunes of bfloat16 that are both kept become, if it is `alone`."""
    mean: WeightedMean | None = None
    """What it is of bfloat16 too, faster."""


_PARTS, _MOST = 64, 256
"""Short factors are multiples of 1 / `_PARTS` that sum to at most `_MOST` of these."""
_MOST_REACH = 8
"""Largest Σ |c_i|."""
_MARGIN = Fraction(33, 32)
"""Covers that 1 / (1 − k·u) and X's own rounding are not 1, and products that underflow."""
SAME_RANGE = 1 << 11
"""If two bfloat16 differ in no bit from this one on, they have the same sign, and exponents that
differ in their last four bits."""
_MAGNITUDE = (1 << 31) - 1
"""The bits of a float32 without its sign."""
_LEAST = 2.0**-20
"""Smallest weight; with it no product of `disjoint_merge` underflows in float32."""
_HUGE = 2.0**126
"""Its product with a weighted delta that is not 0 is larger than any weight."""


def _short(*factors: Fraction) -> bool:
    """Return whether products with 14-bit d_i, and all their sums, have at most 24 bits."""
    multiples = all((factor * _PARTS).denominator == 1 for factor in factors)
    return multiples and sum(abs(factor * _PARTS) for factor in factors) <= _MOST


@functools.lru_cache(maxsize=64)  # most tensors of a model have the same weights
def weighted_sum(
    narrow: NarrowFloat,
    weights: tuple[float, ...],
    divisor: Fraction | float = 1.0,
    factor: float = 1.0,
) -> SinglePrecision | None:
    """Return base + factor · Σ weights_i · d_i / divisor."""
    if not all(map(math.isfinite, (*weights, divisor, factor))) or not divisor:
        return None
    plain = [Fraction(weight) for weight in weights]
    divided = [weight / Fraction(divisor) for weight in plain]
    factors = [Fraction(factor) * each for each in divided]
    mean = _mean_of([1 - sum(factors, Fraction(0)), *factors])
    if _short(*plain) and _short(*divided) and _short(*factors):
        singles = [np.float32(float(each)) for each in factors]

        def add(base: Array32, deltas: list[Array32], _: Cuts, doubt: Mask) -> Array32:
            for delta, each in zip(deltas, singles, strict=True):
                delta *= each
            for delta in deltas[1:]:
                deltas[0] += delta
            base += deltas[0]
            return base

        return SinglePrecision(0, add, steps=narrow.exact << narrow.fraction, mean=mean)
    factors.insert(0, 1 - sum(factors, Fraction(0)))
    reach = sum(map(abs, factors), Fraction(0))
    if reach > _MOST_REACH:
        return None
    shares = [np.float32(float(each)) for each in factors]

    def mix(base: Array32, others: list[Array32], _: Cuts, doubt: Mask) -> Array32:
        base *= shares[0]
        for other, share in zip(others, shares[1:], strict=True):
            other *= share
            base += other
        return base

    rounded = len(weights) + 8  # factors, products, sums, and the error of float64 itself
    ulps = math.ceil(rounded * reach * 2**narrow.cancelled * _MARGIN)
    return SinglePrecision(ulps, mix, cancelled=narrow.cancelled, of_values=True, mean=mean)


def _mean_of(factors: Sequence[Fraction]) -> WeightedMean | None:
    """Return a weighted mean; None if it has negative factors, or ones that may underflow."""
    if any(factor and factor < _LEAST for factor in factors):
        return None
    shares = np.array([float(factor) for factor in factors], np.float32)
    if _short(*factors):
        # Multiples of 2^-p: sums are below 2^(e+1), and multiples of 2^(e' - 7 - p), if e is the
        # largest and e' the smallest exponent of values. They have 24 bits if e - e' <= 16 - p.
        bits = max(factor.denominator.bit_length() - 1 for factor in factors)
        return WeightedMean(shares, 0, (16 - bits) // 2 << 7)
    rounded = len(factors) + 4  # factors twice, products, sums, and the error of float64 itself
    return WeightedMean(shares, math.ceil(rounded * _MARGIN), 0)


@functools.lru_cache(maxsize=64)
def disjoint_merge(
    narrow: NarrowFloat,
    weights: tuple[float, ...],
    cuts: CutsOf,
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
    slack = np.float32(0 if exact or votes != "weighted" else (count + 3) * 2.0**-22)
    singles = [np.float32(weight) for weight in weights]

    def reduce(base: Array32, deltas: list[Array32], trimmed: Cuts, doubt: Mask) -> Array32:
        # By the bits of floats, as signed integers: masks of booleans would have to be converted.
        mask = np.empty(base.shape, np.int32)
        for delta, cut, weight in zip(deltas, trimmed, singles, strict=True):
            bits = delta.view(np.int32)
            if cut.mask is not None:
                bits *= cut.mask
            elif cut.kept is not None:
                bits &= cut.kept.all_bits(cut.first, base.size)
            elif cut.threshold > 0:
                np.bitwise_and(bits, np.int32(_MAGNITUDE), out=mask)
                least = _round_up(cut.threshold)
                np.subtract(least.view(np.int32) - np.int32(1), mask, out=mask)
                if cut.draws is not None and least == cut.threshold:
                    mask[_lost(cut, mask)] = 0
                mask >>= np.int32(31)  # all bits of those that are kept
                bits &= mask
            if votes == "weighted" and weight != 1:
                delta *= weight
        vote = deltas[0] + deltas[1] if count > 1 else deltas[0].copy()
        for delta in deltas[2:]:
            vote += delta
        sign = np.bitwise_and(vote.view(np.int32), np.int32(-(1 << 31)), out=mask)
        divisor: Any = None
        total: Any = None
        share = np.empty_like(base)
        for delta, weight in zip(deltas, singles, strict=True):
            bits = delta.view(np.int32)
            bits ^= sign  # values of the elected sign become positive
            np.maximum(delta, _filled(0.0, base.size), out=delta)
            if divide:
                each = weight if divide == "weights" else np.float32(1)
                np.multiply(delta, np.float32(_HUGE), out=share)
                np.minimum(share, _filled(float(each), base.size), out=share)
                if divisor is None:
                    divisor, share = share, np.empty_like(base)
                else:
                    divisor += share
            if votes != "weighted" and weight != 1:
                delta *= weight
            total = delta if total is None else np.add(total, delta, out=total)
        if slack:
            # |vote| is the sum of the agreeing values less that of the others
            np.absolute(vote, out=vote)
            doubt |= vote < np.multiply(total, slack, out=share)
        if divisor is not None:
            divisor += np.float32(1e-30)  # where it is 0, so is the total
            total /= divisor
        if factor != 1.0:
            total *= np.float32(factor)
        signed = total.view(np.int32)
        signed ^= sign
        base += total
        return base

    ones = divide == "weights" or all(weight == 1 for weight in weights)
    alone = ones and factor == 1.0
    pair = _pair_of(plain, votes) if alone and divide and count == 2 else None
    if exact:
        steps = narrow.exact << narrow.fraction
        return SinglePrecision(0, reduce, cuts, steps=steps, alone=alone, pair=pair)
    cancelled = narrow.cancelled - 1
    ulps = math.ceil((2 * count + 8) * 2 ** (cancelled + 1) * _MARGIN)
    return SinglePrecision(ulps, reduce, cuts, cancelled=cancelled, alone=alone, pair=pair)


def _pair_of(weights: Sequence[Fraction], votes: str) -> KeptPair | None:
    """Return what two values become whose weights are positive, and divide their sum."""
    mean = _mean_of([weight / sum(weights) for weight in weights])
    if mean is None:
        return None
    voting = weights if votes == "weighted" and weights[0] != weights[1] else [Fraction(1)] * 2
    slack = 0.0 if all(map(_power_of_two, voting)) else 5 * 2.0**-22
    return KeptPair(mean, (float(voting[0]), float(voting[1])), slack)


def _lost(cut: ThresholdCut, under: NDArray[np.int32]) -> Any:
    """Return the indices of elements that are equal to a threshold, and dropped.

    ``under`` is by how much the bits of an element are smaller than those below the threshold.
    """
    equal = np.flatnonzero(under == np.int32(-1))
    return equal[draws_at(cut.stream, equal + cut.first) >= np.uint64(cut.draws or 0)]


@functools.lru_cache(maxsize=16)
def _filled(value: float, size: int) -> Array32:
    """Return so many equal numbers: numpy compares arrays five times as fast as with a number."""
    return np.full(size, value, np.float32)


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
