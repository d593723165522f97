"""Weighted sums of fine-tunes, decided by signs: what most results next to a tie need.

    X = b + Σ m_i · (x_i − b) / D

Decimal weights of narrow floats put one element in a hundred so near a tie that float64 cannot tell
on which side X is. But the sign of D · (X − T), T being the tie, can be computed: from terms that
are exact in float64, differences of at most 24 bits times parts of D and m_i of at most `_PART`
bits. Their sum is a float64 and the sum of what each addition was off (TwoSum: Knuth, The Art of
Computer Programming, volume 2, section 4.2.2), which is a float64 again, and what is left bounds
the error. Functions without a type of array work with numpy's and torch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from modpkg.adapters.formula import UNIT
from modpkg.compose.arrays import Array, Stored
from modpkg.compose.composition import Term
from modpkg.compose.reducers.exactly import usable_divisor
from modpkg.compose.rounding import rounded

SPARE = 6
"""Rounded operations of an element besides its products and their sums: scaling a factor twice,
adding the base, subtracting the bound; and the bound itself is rounded."""

_PART = 26
"""Bits: a product with a float32 has less than 53."""
_LEAST_PART, _LARGEST_PART = 2.0**-200, 2.0**200
"""Bounds of the parts, with which no product of a finite float32 underflows."""


class Sum(NamedTuple):
    """D > 0 and m_i, exact."""

    divisor: Fraction
    weights: list[Fraction]

    def factors(self) -> list[float]:
        """Return m_i / D."""
        return [float(weight / self.divisor) for weight in self.weights]

    def parts(self) -> list[list[float]] | None:
        """Return D and each m_i in parts; None if they are too small or large."""
        parts = [_parts(number) for number in (self.divisor, *self.weights)]
        sizes = [abs(part) for each in parts for part in each]
        return parts if all(_LEAST_PART <= size <= _LARGEST_PART for size in sizes) else None


def sum_of(method: str, terms: Sequence[Term], settings: Mapping[str, Any]) -> Sum | None:
    """Return what a method computes of fine-tunes, see `modpkg.compose.reducers.exactly`; or None.

    All parameters are finite.
    """
    weights, divisor = [Fraction(term.scale) for term in terms], Fraction(1)
    if method == "sum":
        weights = [Fraction(term.weight) for term in terms]
    elif method == "mean":
        divisor = Fraction(len(terms) + bool(settings["with_base"]))
    elif method == "linear":
        if not settings["normalize"]:
            return None  # the base is scaled too
        divisor = Fraction(settings["base_weight"]) + sum(weights)
    elif method == "task-arithmetic":
        if settings["normalize"]:
            divisor = usable_divisor(sum(weights, Fraction(0)))
        weights = [Fraction(settings["lambda"]) * weight for weight in weights]
    else:
        return None
    if not divisor:
        return None
    if divisor < 0:
        divisor, weights = -divisor, [-weight for weight in weights]
    return Sum(divisor, weights)


def _parts(number: Fraction) -> list[float]:
    """Return floats of at most `_PART` bits that add up to a dyadic number."""
    parts = []
    while number:
        size = abs(number)
        exponent = size.numerator.bit_length() - size.denominator.bit_length() - _PART + 1
        unit = Fraction(2) ** exponent
        part = math.trunc(number / unit) * unit
        parts.append(float(part))
        number -= part
    return parts


def off(one: Any, two: Any, total: Any) -> Any:
    """Return what the float64 ``total`` of two float64 is off: one + two = total + this."""
    part = total - one
    return (one - (total - part)) + (two - part)


def sign_of(differences: Sequence[Any], parts: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """Return numbers with the signs of Σ difference_i · Σ parts_i, and a mask: if that is certain.

    Args:
        differences: float64 that are float32.
    """
    pairs = zip(differences, parts, strict=True)
    first, rest = _cascade([difference * part for difference, each in pairs for part in each])
    second, left = _cascade(rest)
    error = abs(left[0])
    for each in left[1:]:
        error += abs(each)
    sign = first + second
    return sign, (error == 0) | (abs(sign) > 4 * error)


def _cascade(terms: Sequence[Any]) -> tuple[Any, list[Any]]:
    """Return the sum of terms, and numbers that it is off altogether."""
    total, rest = terms[0], []
    for term in terms[1:]:
        more = total + term
        rest.append(off(total, term, more))
        total = more
    return total, rest or [total * 0]


class _Layout(NamedTuple):
    """A float dtype in the bits of a float64."""

    dropped: int
    """Fraction bits of a float64 that it lacks."""
    least: float
    largest: float
    """Magnitudes between them are normal, and so are the next floats."""


_LAYOUTS = {
    "BF16": _Layout(52 - 7, 2.0**-100, 2.0**127),
    "F16": _Layout(52 - 10, 2.0**-13, 2.0**15),
    "F32": _Layout(52 - 23, 2.0**-100, 2.0**127),
}
_APART = 2.0**27
"""An error is at most a value's magnitude divided by this: less than half the distance of any float
of the dtypes to the nearest tie."""


class DecidedSum:
    """A weighted sum of fine-tunes in float64, and for each element the side of a tie."""

    def __init__(self, total: Sum, parts: Sequence[Sequence[float]], dtype: str) -> None:
        self._factors, self._parts, self._dtype = total.factors(), parts, dtype
        self._share = 2 * (len(parts) + SPARE) * UNIT * _APART

    def at(self, base: Array, others: Sequence[Array], _: Any = None) -> tuple[Stored, Any]:
        """Return the results, rounded, and a mask of those that are certain.

        Args:
            base: float64 of any shape, and ``others`` alike.
        """
        layout = _LAYOUTS[self._dtype]
        differences = [other - base for other in others]
        value, size = base.copy(), np.abs(base)
        for difference, factor in zip(differences, self._factors, strict=True):
            change = difference * factor
            value += change
            size += np.abs(change, out=change)
        size *= self._share
        magnitude = np.abs(value)
        certain = (magnitude >= layout.least) & (magnitude <= layout.largest)
        certain &= magnitude >= size
        bits = value.view(np.uint64)
        bits >>= np.uint64(layout.dropped)
        odd = (bits & np.uint64(1)).astype(np.bool_)
        bits <<= np.uint64(layout.dropped)  # ``value`` is now the next float towards 0
        tie = (bits | np.uint64(1 << layout.dropped - 1)).view(np.float64)
        away = base - tie
        certain &= off(base, -tie, away) == 0
        for other, difference in zip(others, differences, strict=True):
            certain &= off(other, -base, difference) == 0
        for difference in (away, *differences):
            certain &= difference.astype(np.float32) == difference
        sign, known = sign_of((away, *differences), self._parts)
        certain &= known
        sign = np.copysign(1.0, value) * sign
        bits += ((sign > 0) | ((sign == 0) & odd)).astype(np.uint64) << np.uint64(layout.dropped)
        return rounded(value, self._dtype), certain


def decided_sum(
    method: str, terms: Sequence[Term], settings: Mapping[str, Any], dtype: str
) -> DecidedSum | None:
    """Return what a method computes of fine-tunes; None if it is no weighted sum.

    All parameters are finite.
    """
    total = sum_of(method, terms, settings)
    return sum_in_parts(total, dtype) if total is not None else None


def sum_in_parts(total: Sum, dtype: str) -> DecidedSum | None:
    """Return a sum with its results in a dtype; None if it has too small or large parts."""
    parts = total.parts() if dtype in _LAYOUTS else None
    return DecidedSum(total, parts, dtype) if parts is not None else None
