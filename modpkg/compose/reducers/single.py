"""float32 first: how far it can be trusted, for methods of sums.

Where fine-tunes are near the base, as nearly all of their values are, float32 rounds to the same
bfloat16 or float16 as float64 does, but for values whose float32 lies next to a tie: in half the
time. What follows holds for a value of the base b and its fine-tunes x_i, all of one such dtype of
f bits of fraction, and of one sign, each x_i at most n · 2^f steps of it away, so that
2⁻ⁿ |b| <= |x_i| <= 2ⁿ |b|, and b not near the ends of its range; all others are left to float64,
see `modpkg.compose.narrow_floats`. Then d_i = x_i − b is a whole multiple of 2^(e − n − f), e the
exponent of b, of at most 2n + f + 1 bits, and float32 has it exactly.

With u = 2⁻²⁴ and Higham's γ_k = k·u / (1 − k·u) (Accuracy and Stability of Numerical Algorithms,
2002, section 3.1), a sum of k rounded products is within γ_(k+1) of Σ |c_i d_i|.

- Where all factors are short (`_short`), so are the products and their sums: float32 and float64
  both have what the formula says, and round it to the same, ties too.
- Where the result lies between b and the x_i, |result| >= 2⁻ⁿ |b|, and Σ |c_i d_i| <= 2ⁿ |b|.
- Where it need not, the x_i have to be so near that |Σ c_i d_i| <= |b| / 2 <= |result|.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.numbers import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array32 = NDArray[np.float32]
    Mask = NDArray[np.bool_]


class Piece(NamedTuple):
    """Elements from ``start`` to before ``stop``, of which magnitudes from ``least`` on count."""

    start: int
    stop: int
    least: float


Pieces = Sequence[Sequence[Piece]]
"""For each step, `Piece` after `Piece`."""

PiecesOf = Callable[[Any, int, int], Pieces | None]
"""Of what was measured, for so many elements from a first on; None where pieces do not say all."""


class NarrowFloat(NamedTuple):
    """A dtype that a result is rounded to."""

    fraction: int
    """Bits of its fraction: f."""
    exact: int
    """n where all factors are short: 2n + f + 1 is at most 14."""
    between: int
    """n where the result lies between b and the x_i: the greater, the more results are next to
    a tie, and the fewer x_i far away."""


NARROW = {"BF16": NarrowFloat(7, 3, 2), "F16": NarrowFloat(10, 1, 1)}


class SinglePrecision(NamedTuple):
    """A method in float32."""

    steps: int
    """How far an x_i may lie from b, in steps of its dtype."""
    ulps: int
    """How far from float64's a result may be, in units of float32's last place; 0: it is exact."""
    reduce: Callable[[Array32, list[Array32], Pieces, Mask], Array32]
    """``reduce(base, deltas, pieces, doubt)``: float32, flat, all to be overwritten. Returns the
    result, and sets ``doubt`` where it is not what ``ulps`` says."""
    pieces: PiecesOf = lambda *_: ()


_PARTS, _MOST = 64, 256
"""Short factors are multiples of 1 / `_PARTS`, and `_MOST` of these in all."""
_LEAST = 2.0**-20
"""A weight with which no product of `elected` is too small for float32."""


def _short(*factors: Fraction) -> bool:
    """Say whether products with d_i of 14 bits, and all their sums, have at most 24 bits."""
    fine = all((factor * _PARTS).denominator == 1 for factor in factors)
    return fine and sum(abs(factor * _PARTS) for factor in factors) <= _MOST


def weighted(
    narrow: NarrowFloat, weights: Sequence[float], divisor: float = 1.0, factor: float = 1.0
) -> SinglePrecision | None:
    """Return base + factor · Σ weights_i · d_i / divisor."""
    if not all(map(math.isfinite, (*weights, divisor, factor))) or not divisor:
        return None
    plain = [Fraction(weight) for weight in weights]
    divided = [weight / Fraction(divisor) for weight in plain]
    factors = [Fraction(factor) * each for each in divided]
    reach = sum(abs(each) for each in factors)
    rounded = len(weights) + 6  # factors, products, sums, and what float64 itself may be off
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

    def reduce(base: Array32, deltas: list[Array32], _: Pieces, doubt: Mask) -> Array32:
        for delta, each in zip(deltas, singles, strict=True):
            delta *= each
        for delta in deltas[1:]:
            deltas[0] += delta
        base += deltas[0]
        return base

    return SinglePrecision(steps, ulps, reduce)


def elected(
    narrow: NarrowFloat,
    weights: Sequence[float],
    pieces: PiecesOf,
    *,
    votes: str = "weighted",
    divide: str = "",
    factor: float = 1.0,
) -> SinglePrecision | None:
    """Return what `modpkg.compose.reducers.sparsified.elected` adds to the base, trimmed first."""
    count = len(weights)
    fine = all(_LEAST <= weight <= 1 / _LEAST for weight in weights) and _LEAST <= factor <= 1
    if not fine or votes not in ("weighted", "total"):
        return None
    between = {"weights": True, "count": max(weights) <= 1, "": sum(weights) <= 1}
    if not between[divide]:
        return None
    plain = [Fraction(weight) for weight in weights]
    exact = factor == 1.0 and _short(*plain) and _halves(plain, divide)
    # |b| times this is more than Σ weight_i · d_i may be off: 4 |b| are all that d_i can be.
    slack = 0.0
    if not exact and votes == "weighted":
        slack = (count + 2) * 2.0**-21 * max(1.0, math.fsum(weights))
    singles = [np.float32(weight) for weight in weights]

    def reduce(base: Array32, deltas: list[Array32], trimmed: Pieces, doubt: Mask) -> Array32:
        zeros = np.zeros_like(base)
        scratch, below, found = np.empty_like(base), np.zeros_like(base), zeros
        kept = np.empty(base.shape, np.bool_)
        for delta, parts, weight in zip(deltas, trimmed, singles, strict=True):
            if any(part.least > 0 for part in parts):
                np.absolute(delta, out=scratch)
                for start, stop, least in parts:
                    np.greater_equal(scratch[start:stop], _upwards(least), out=kept[start:stop])
                delta *= kept
            if votes == "weighted" and weight != 1:
                delta *= weight
        balance = deltas[0] + deltas[1] if count > 1 else deltas[0].copy()
        for delta in deltas[2:]:
            balance += delta
        sign = balance.view(np.int32) & np.int32(-(1 << 31))
        for delta, weight in zip(deltas, singles, strict=True):
            chosen = delta.view(np.int32)
            chosen ^= sign
            np.maximum(delta, zeros, out=delta)
            if divide:
                np.greater(delta, zeros, out=kept)
                np.multiply(kept, weight if divide == "weights" else np.float32(1), out=scratch)
                below += scratch
            if votes != "weighted" and weight != 1:
                delta *= weight
            found = delta if found is zeros else np.add(found, delta, out=found)
        if slack:
            np.absolute(balance, out=balance)
            np.absolute(base, out=scratch)
            scratch *= np.float32(slack)
            np.less_equal(balance, scratch, out=kept)
            kept &= found > zeros
            doubt |= kept
        if divide:
            np.maximum(below, np.float32(1e-30), out=below)  # where it is 0, nothing is divided
            found /= below
        if factor != 1.0:
            found *= np.float32(factor)
        signed = found.view(np.int32)
        signed ^= sign
        base += found
        return base

    binades = narrow.exact if exact else narrow.between
    ulps = 0 if exact else (2 * count + 8) << 2 * narrow.between
    return SinglePrecision(binades << narrow.fraction, ulps, reduce, pieces)


def _halves(weights: Sequence[Fraction], divide: str) -> bool:
    """Say whether all that may be divided by are powers of two."""
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


def _upwards(value: float) -> Any:
    """Return the least float32 that is not less."""
    single = np.float32(value)
    return single if float(single) >= value else np.nextafter(single, np.float32(math.inf))
