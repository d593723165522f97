"""Exact arithmetic on arrays: rational numbers that grow as needed, and rounding them once.

Stored values are floats, so integers times a power of two, and so are their sums and products; a
quotient has a denominator as well. The integers are int64 where they provably fit, as they do for
most sums of 16-bit floats, else Python's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from modpkg.compose.arrays import Array, Stored
from modpkg.compose.rounding import rounded

Scalar = float | int | Fraction

_WORD = 62
"""Bits of an int64 that may be used: sums and sign changes cannot overflow."""
_SHORT = 1 << 12
"""A divisor below this leaves `_KEPT` bits less 12 of an int64's quotient: enough for float32."""
_KEPT = 50
"""Bits that are kept before the last rounding: 2 more than the widest of the narrow dtypes, and
exact in a float64."""


class Exact:
    """An array of numbers n · 2^exponent / divisor, all exact. Immutable."""

    def __init__(self, n: Any, exponent: int, bits: int, divisor: Any = 1) -> None:
        """Hold numbers.

        Args:
            n: Integers: int64, or Python's in an array of objects.
            exponent: The exponent of all of them.
            bits: For int64: no |n| has more bits.
            divisor: A positive integer, or an array of such objects that broadcasts with ``n``.
        """
        self._n, self._exponent, self._bits, self._divisor = n, exponent, bits, divisor

    @classmethod
    def of(cls, values: Array) -> Exact:
        """Return finite floats."""
        fraction, exponents = np.frexp(np.asarray(values, np.float64))
        n = np.ldexp(fraction, 53).astype(np.int64)
        lowest = (n & -n).astype(np.float64)
        zeros = np.frexp(lowest)[1] - 1  # trailing; -1 for 0
        exponents = exponents + zeros - 53
        exponents[n == 0] = exponents[n != 0].min(initial=1 << 20)
        n >>= np.maximum(zeros, 0)
        least = int(exponents.min(initial=1 << 20))
        shifts = exponents - least
        bits = np.frexp(np.abs(n).astype(np.float64))[1] + shifts
        most = int(bits.max(initial=0))
        if most <= _WORD:
            return cls(n << shifts, least, most)
        return cls(n.astype(object) << shifts.astype(object), least, 0)

    @classmethod
    def joined(cls, parts: Sequence[Exact]) -> Exact:
        """Return the numbers of several arrays in one, flat."""
        least = min(part._exponent for part in parts)
        flat = [part._objects().reshape(-1) << (part._exponent - least) for part in parts]
        divisors = [
            np.broadcast_to(np.asarray(part._divisor, object), part.shape).reshape(-1)
            for part in parts
        ]
        return cls(np.concatenate(flat), least, 0, np.concatenate(divisors))

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        shape: tuple[int, ...] = self._n.shape
        return shape

    def _objects(self) -> Any:
        return self._n if self._n.dtype == object else self._n.astype(object)

    def __neg__(self) -> Exact:
        return Exact(-self._n, self._exponent, self._bits, self._divisor)

    def __abs__(self) -> Exact:
        return Exact(np.abs(self._n), self._exponent, self._bits, self._divisor)

    def __add__(self, other: Exact) -> Exact:
        one, two = self._over_same(other)
        least = min(one._exponent, two._exponent)
        moves = (one._exponent - least, two._exponent - least)
        if one._n.dtype != object and two._n.dtype != object:
            bits = max(one._bits + moves[0], two._bits + moves[1]) + 1
            if bits <= _WORD:
                n = (one._n << moves[0]) + (two._n << moves[1])
                return Exact(n, least, bits, one._divisor)
        n = (one._objects() << moves[0]) + (two._objects() << moves[1])
        return Exact(n, least, 0, one._divisor)

    def __sub__(self, other: Exact) -> Exact:
        return self + -other

    def __mul__(self, other: Exact | Scalar) -> Exact:
        if not isinstance(other, Exact):
            return self._scaled(Fraction(other))
        exponent, divisor = self._exponent + other._exponent, self._divisor * other._divisor
        bits = self._bits + other._bits
        if self._n.dtype != object and other._n.dtype != object and bits <= _WORD:
            return Exact(self._n * other._n, exponent, bits, divisor)
        return Exact(self._objects() * other._objects(), exponent, 0, divisor)

    def _scaled(self, factor: Fraction) -> Exact:
        above, below = factor.numerator, factor.denominator
        twos = (below & -below).bit_length() - 1
        more = (above & -above).bit_length() - 1 if above else 0
        above, exponent = above >> more, self._exponent + more - twos
        divisor = self._divisor * (below >> twos)
        bits = self._bits + above.bit_length()
        if self._n.dtype != object and bits <= _WORD:
            return Exact(self._n * np.int64(above), exponent, bits, divisor)
        return Exact(self._objects() * above, exponent, 0, divisor)

    def __truediv__(self, other: Exact | Scalar) -> Exact:
        """Return the quotient; no divisor may be 0."""
        if not isinstance(other, Exact):
            return self._scaled(1 / Fraction(other))
        size = abs(other)
        n = self._objects() * (other.sign().astype(object) * other._divisor)
        exponent = self._exponent - other._exponent
        return Exact(n, exponent, 0, self._divisor * size._objects())

    def _over_same(self, other: Exact) -> tuple[Exact, Exact]:
        """Return both with the same divisor."""
        one, two = self._divisor, other._divisor
        if one is two or (isinstance(one, int) and isinstance(two, int) and one == two):
            return self, other
        if isinstance(one, int) and isinstance(two, int):
            divisor: Any = math.lcm(one, two)
            left, right = divisor // one, divisor // two
        else:
            divisor, left, right = one * two, two, one
        return self._times(left, divisor), other._times(right, divisor)

    def _times(self, factor: Any, divisor: Any) -> Exact:
        bits = self._bits + (factor.bit_length() if isinstance(factor, int) else _WORD)
        if self._n.dtype != object and bits <= _WORD:
            return Exact(self._n * np.int64(factor), self._exponent, bits, divisor)
        return Exact(self._objects() * factor, self._exponent, 0, divisor)

    def sum(self) -> Exact:
        """Return sums over the last axis; the divisor must be one for all."""
        bits = self._bits + self._n.shape[-1].bit_length()
        if self._n.dtype != object and bits > _WORD:
            return Exact(self._objects().sum(axis=-1), self._exponent, 0, self._divisor)
        return Exact(self._n.sum(axis=-1), self._exponent, bits, self._divisor)

    def where(self, mask: Any) -> Exact:
        """Return these numbers where the mask is true, else 0."""
        return Exact(np.where(mask, self._n, 0), self._exponent, self._bits, self._divisor)

    def ones(self) -> Exact:
        """Return as many ones."""
        return Exact(np.ones(self.shape, np.int64), 0, 1)

    def sign(self) -> Any:
        """Return −1, 0 or 1 for each, int64."""
        return (self._n > 0).astype(np.int64) - (self._n < 0).astype(np.int64)

    def fractions(self) -> list[Fraction]:
        """Return the numbers, flat."""
        power = Fraction(2) ** self._exponent
        n, divisor = np.broadcast_arrays(self._objects(), np.asarray(self._divisor, object))
        pairs = zip(n.reshape(-1).tolist(), divisor.reshape(-1).tolist(), strict=True)
        return [Fraction(above, below) * power for above, below in pairs]

    def rounded(self, dtype: str) -> Stored:
        """Return the nearest values of a dtype, as stored in a pack; ties to even, 0 as +0.0."""
        if dtype == "F64":
            return self._each(_nearest_double)
        short = isinstance(self._divisor, int) and self._divisor < _SHORT
        if self._n.dtype != object and short:
            size = np.abs(self._n)
            shift = _WORD - np.frexp(size.astype(np.float64))[1].astype(np.int64)
            np.maximum(shift, 0, out=shift)
            quotient, rest = np.divmod(size << shift, np.int64(self._divisor))
            odd = quotient >> 12
            odd |= (rest != 0) | (quotient & 0xFFF != 0)
            with np.errstate(over="ignore", under="ignore"):
                double = np.ldexp(np.copysign(odd, self._n), self._exponent + 12 - shift)
            double += 0.0
            return rounded(double, dtype)
        return rounded(self._each(_odd_double), dtype)

    def _each(self, function: Callable[[int, int, int], float]) -> Array:
        n, divisor = np.broadcast_arrays(self._objects(), np.asarray(self._divisor, object))
        pairs = zip(n.reshape(-1).tolist(), divisor.reshape(-1).tolist(), strict=True)
        values = [function(above, self._exponent, below) for above, below in pairs]
        return np.array(values, np.float64).reshape(n.shape)


def finite_numbers(values: Array, broken: Any) -> Exact:
    """Return floats of each place, [k] or [k, n]; sets ``broken`` [k] where one is not finite."""
    finite = np.isfinite(values)
    if not finite.all():
        bad = ~finite
        broken |= bad if bad.ndim == 1 else bad.any(axis=tuple(range(1, bad.ndim)))
        values = np.where(finite, values, 0.0)
    return Exact.of(values)


def _odd_double(n: int, exponent: int, divisor: int) -> float:
    """Return n · 2^exponent / divisor with `_KEPT` bits, the last one set if it is inexact.

    Rounding that again, to at most `_KEPT` − 2 bits, is correct (round to odd): Boldo & Melquiond
    2008, https://hal.inria.fr/inria-00080427.
    """
    size = abs(n)
    shift = _KEPT - size.bit_length() + divisor.bit_length()
    if shift >= 0:
        quotient, rest = divmod(size << shift, divisor)
    else:
        quotient, rest = divmod(size, divisor << -shift)
    if rest:
        quotient |= 1
    try:
        return math.ldexp(-quotient if n < 0 else quotient, exponent - shift)
    except OverflowError:
        return -math.inf if n < 0 else math.inf


def _nearest_double(n: int, exponent: int, divisor: int) -> float:
    """Return the float64 nearest to n · 2^exponent / divisor."""
    try:  # Python's division of integers is correctly rounded, subnormal quotients too
        return (n << max(exponent, 0)) / (divisor << max(-exponent, 0))
    except OverflowError:
        return -math.inf if n < 0 else math.inf
