"""Weighted sums of fine-tunes, decided by signs: what most results next to a tie need.

    X = b + Σ m_i · (x_i − b) / D

Decimal weights of narrow floats put one element in a hundred so near a tie that float64 cannot tell
on which side X is. But the sign of D · (X − T), T being the tie, can be computed.

On the CPU, that is Σ c_i · v_i, the v_i being b, x_i and T: narrow floats and one of a bit more.
If they are multiples of one number and not much larger than it, so are their products with parts of
`_LEVEL` bits of all c_i, and no addition of these is rounded. The parts that come next give another
such sum, and the rounded sum of two numbers has the sign of the exact one.

With torch, and for votes: terms that are exact in float64 are differences of at most 24 bits times
parts of D and m_i of at most `_PART` bits. Their sum is a float64 and the sum of what each addition
was off (TwoSum: Knuth, The Art of Computer Programming, volume 2, section 4.2.2), which is a
float64 again, and what is left bounds the error. Functions without a type of array work with
numpy's and torch's.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from modpkg.compose.arrays import Array, Stored, in_double
from modpkg.compose.composition import Term
from modpkg.compose.narrow_floats import LAYOUTS
from modpkg.compose.reducers.exactly import usable_divisor

SPARE = 6
"""Rounded operations of an element besides its products and their sums: scaling a factor twice,
adding the base, subtracting the bound; and the bound itself is rounded."""

_METHODS = frozenset(["sum", "mean", "linear", "task-arithmetic"])

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
    return sign_of_sum([difference * part for difference, each in pairs for part in each])


def sign_of_sum(terms: Sequence[Any]) -> tuple[Any, Any]:
    """Return numbers with the signs of sums of exact terms, and a mask: if that is certain."""
    if len(terms) <= 2:  # a rounded sum of two has its sign
        total = terms[0] + terms[-1] if len(terms) == 2 else terms[0]
        return total, total == total
    first, rest = _cascade(terms)
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


_LEVEL = 28
"""Bits of the parts by which narrow floats are multiplied: the sum of such products is exact, if
the values are multiples of one number and at most 2^(53 − 28) times as large, less their count.
Parts may have fewer bits, if they are all."""


def _levels(numbers: Sequence[Fraction]) -> list[list[float]]:
    """Return parts of at most `_LEVEL` bits that add up to the numbers, dyadic ones: lists of one
    part of each, which are multiples of one power of two."""
    size = max(abs(number) for number in numbers)
    exponent = size.numerator.bit_length() - size.denominator.bit_length() + 1
    levels, rest = [], list(numbers)
    while any(rest):
        exponent -= _LEVEL
        unit = Fraction(2) ** exponent
        parts = [math.trunc(number / unit) * unit for number in rest]
        rest = [number - part for number, part in zip(rest, parts, strict=True)]
        levels.append([float(part) for part in parts])
    return levels


def _bits_of(parts: Sequence[float]) -> int:
    """Return the bits of the largest part, from the lowest one that any of them has."""
    numbers = [Fraction(part) for part in parts]
    unit = max(number.denominator for number in numbers)
    multiples = [int(number * unit) for number in numbers]
    common = math.gcd(*multiples)
    return max(map(abs, multiples)).bit_length() - (common & -common).bit_length() + 1


class DecidedSum:
    """A weighted sum of fine-tunes, bfloat16 or float16, from the side of a tie it is on."""

    def __init__(self, total: Sum, dtype: str) -> None:
        self._dtype, self._layout = dtype, LAYOUTS[dtype]
        own = total.divisor - sum(total.weights)
        self._levels = _levels([own, *total.weights, -total.divisor])
        self._divisor = float(total.divisor)
        fraction = self._layout.fraction
        terms = len(total.weights) + 2
        # 2^(e + 1) bounds values of the largest exponent e, and ties are multiples of
        # 2^(e − fraction − 1) for the smallest
        bits = _bits_of(self._levels[0]) if len(self._levels) == 1 else _LEVEL
        most = 53 - bits - (terms - 1).bit_length() - fraction - 2
        self._spread = np.uint16((most << fraction) + 1)
        self._cut = np.uint64(52 - fraction)
        # 2^4 · γ_k · Σ |terms|, for up to 2^7 operations; a tie is up to twice the largest value
        self._share = 2.0**-41 * float(sum(map(abs, [own, *total.weights, total.divisor])))

    def at(self, base: Stored, others: Sequence[Stored], _: Any = None) -> tuple[Stored, Any]:
        """Return the results and a mask of those that are certain.

        Args:
            base: As stored, flat, and ``others`` alike.
        """
        stored = (base, *others)
        wide = [in_double(each) for each in stored]
        first = _dot(self._levels[0], wide)
        # The float towards 0 from the result, and the tie beside it: they need not be right.
        bits = (first * (1 / self._divisor)).view(np.uint64)
        bits >>= self._cut
        bits <<= self._cut
        lower = bits.view(np.float64)
        tie = (bits | np.uint64(1) << self._cut - np.uint64(1)).view(np.float64)
        sums = [_dot(level, (*wide, tie)) for level in self._levels[1:]]
        tie_part = self._levels[0][-1]
        sign, certain = sign_of_sum([first + tie * tie_part, *sums])
        # It is one of that float and the next one, as other ties are 1.5 times this away from it.
        side = sign / (tie - lower)
        certain &= np.abs(side) <= 1.4 * self._divisor
        result = _narrow_bits(lower, self._dtype)
        certain &= self._near(stored, result, sign)
        up = side > 0
        even = np.flatnonzero(side == 0)
        if even.size:
            up[even] = result[even] & np.uint16(1)
        result += up
        zeros = self._zeros(stored, wide, np.flatnonzero(first == 0))
        result[zeros], certain[zeros] = 0, True
        return result.view(base.dtype), certain

    def _zeros(self, stored: Sequence[Stored], wide: Sequence[Array], where: Any) -> Any:
        """Return those of some places where a sum is 0 for certain, of a base that is not 0."""
        if not where.size:
            return where
        sizes = [each.take(where).view(np.uint16) & np.uint16(0x7FFF) for each in stored]
        most = np.maximum.reduce(sizes)
        least = np.minimum.reduce([size - np.uint16(1) for size in sizes])
        exact = (most - least <= self._spread) & (sizes[0] > 0)
        for level in self._levels[1:]:
            exact &= _dot(level, [each.take(where) for each in wide]) == 0
        return where[exact]

    def _near(self, stored: Sequence[Stored], result: Any, sign: Array) -> Any:
        """Return where results are normal, and the sums have the signs of ``sign``: they are exact
        or not near 0."""
        size = result & np.uint16(0x7FFF)
        certain = size >= np.uint16(self._layout.small)
        certain &= size <= np.uint16(self._layout.large)
        most, least = size, size - np.uint16(1)
        for each in stored:
            size = each.view(np.uint16) & np.uint16(0x7FFF)
            np.maximum(most, size, out=most)
            size -= np.uint16(1)  # 0, a multiple of any number, becomes the largest
            np.minimum(least, size, out=least)
        apart = np.flatnonzero(most - least > self._spread)
        if apart.size:
            largest = in_double(most[apart].view(stored[0].dtype))
            certain[apart] &= np.abs(sign[apart]) > self._share * largest
        return certain


def _narrow_bits(values: Array, dtype: str) -> Any:
    """Return the bits of float64 that are narrow floats."""
    if dtype == "F16":
        return values.astype(np.float16).view(np.uint16)
    return (values.astype(np.float32).view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _dot(parts: Sequence[float], values: Sequence[Array]) -> Array:
    """Return Σ part_i · value_i; there may be more parts."""
    total: Any = None
    for part, value in zip(parts, values, strict=False):
        if part:
            total = value * part if total is None else np.add(total, value * part, out=total)
    return np.zeros(values[0].shape) if total is None else np.asarray(total)


def decided_sum(
    method: str, terms: Sequence[Term], settings: Mapping[str, Any], dtype: str
) -> DecidedSum | None:
    """Return what a method computes of fine-tunes; None if it is no weighted sum.

    All parameters are finite.
    """
    if method not in _METHODS:
        return None
    given = tuple((term.weight, term.scale) for term in terms)
    return _decided_sum(method, given, tuple(sorted(settings.items())), dtype)


@functools.lru_cache(maxsize=64)  # most tensors of a model have the same weights
def _decided_sum(
    method: str,
    weights: Sequence[tuple[float, float]],
    settings: Sequence[tuple[str, Any]],
    dtype: str,
) -> DecidedSum | None:
    terms = [Term(op="", weight=weight, scale=scale, inputs={}) for weight, scale in weights]
    total = sum_of(method, terms, dict(settings))
    return sum_in_parts(total, dtype) if total is not None else None


def sum_in_parts(total: Sum, dtype: str) -> DecidedSum | None:
    """Return a sum with its results in a dtype; None if it is wide, or its parts are too small or
    large."""
    return DecidedSum(total, dtype) if dtype in LAYOUTS and total.parts() is not None else None
