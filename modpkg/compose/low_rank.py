"""Adding products of two matrices to a bfloat16 or float16 tensor, in float32 first.

    result = base + L @ R        L of shape (rows, rank), R of shape (rank, columns)

1. In float32, two numbers are computed between which each exact result X lies: low < X < high. If
   both round to the same value of the dtype, so does X, as rounding is monotone.
2. The few other elements, near a tie or near 0, get a bound of their own in place of their row's.
3. What is left is computed in float64.
4. What float64 leaves in doubt goes to the last stage.

With u the unit roundoff and Higham's γ_k = k·u / (1 − k·u) (Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1), a sum of r products in any order, with or without fused
multiply-adds, is within γ_r · Σ |l_k| |r_k| <= γ_r · ‖l‖ ‖r‖ (Cauchy-Schwarz) of the exact one.
Each factor of a product was rounded at most twice more. So let

    b = γ_(r+8) · ‖l‖ · max ‖r‖ + 3.1·u·V

for a row of L in which no sum is larger than V. If L has a column −b more, and R a row of ones,
then p, an element of L @ R, is within b − 3·u·V of the exact product less b. The sums
low = base + p and high = low + 2·b are rounded once, by at most u·V (and high may be any larger):
so low <= X − u·V, and high >= X + u·V. Both are other numbers than X. So if X is a tie, they are on
both sides of it, and differ; if both round to the same value, ties away from 0, so does X.

Where float32 underflows, it is off by less than 2⁻¹²⁶ for each product and factor instead, even if
the processor flushes subnormals. Where it overflows, low is not finite, and that is a doubt too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modpkg.adapters.formula import UNIT, gamma
from modpkg.compose.arrays import Array, Stored, in_double, in_single
from modpkg.compose.doubt import doubtful_places
from modpkg.compose.memory import PRODUCT_ELEMENTS
from modpkg.compose.narrow_floats import LAYOUTS, largest_magnitudes, nearest_narrow
from modpkg.compose.rounding import is_finite, rounded
from modpkg.compose.rows import RowReader

LastStage = Callable[[NDArray[np.int64]], Stored]
"""``last(places)``: the rounded results at ascending flat indices of the tensor."""

_UNIT = 2.0**-24
"""The unit roundoff of float32."""
_LEAST_NORMAL = 2.0**-126
MOST_RANK = 1 << 13
"""Here γ is less than 0.001, so that 0.1·u·V is more than γ · 3.1·u·V."""
_LARGEST = {"BF16": 2.0**127, "F16": 2.0**15}
"""Sums that are smaller do not round to infinity."""
_STEP_ELEMENTS = 1 << 18
"""Elements that are computed at once. The doubts of several such steps are settled together."""
_WIDTH, _TILE = 1 << 11, 1 << 15
"""Columns and elements that are multiplied at once: they stay in a core's cache."""
_UNPACKED = 1_000_000
"""OpenBLAS multiplies matrices with at most so many products as they are, and packs larger ones,
which takes twice as long where the rank is small."""
_LEAST_HEIGHT, _PACKED_HEIGHT = 12, 128
"""Rows of a tile: with fewer than the first the products are packed, and then of so many rows."""
_GATHERED = 1 << 20
"""Values that the third stage gathers at once."""


class LowRankFactors(NamedTuple):
    """L and R, float64."""

    left: Array
    right: Array


class LowRankReduction:
    """Adds L @ R to one tensor."""

    def __init__(
        self,
        dtype: str,
        base: RowReader,
        factors: LowRankFactors,
        check: Callable[[Stored], None],
        last: LastStage | None = None,
    ) -> None:
        """Prepare the factors, of at most `MOST_RANK`.

        Args:
            check: Called with the results that float32 could not decide, among them all that are
                not finite.
            last: The last stage; without one, float64 is.
        """
        self._dtype, self._layout, self._base = dtype, LAYOUTS[dtype], base
        self._last, self._check = last, check
        self._left, self._columns = factors.left, np.ascontiguousarray(factors.right.T)
        height, rank = factors.left.shape
        self._left_single = np.empty((height, rank + 1), np.float32)
        self._left_single[:, :rank] = factors.left
        self._bounds = np.empty(height, np.float32)
        self._row_norms = np.sqrt(np.einsum("ij,ij->i", self._left, self._left))
        self._column_norms = np.sqrt(np.einsum("ij,ij->i", self._columns, self._columns))
        self._gamma = (rank + 8) * _UNIT / (1 - (rank + 8) * _UNIT)
        self._gamma_double = gamma(rank + 5)
        longest = float(self._column_norms.max(initial=0.0))
        # What a float32 that underflows is off, in a factor, a product or a sum.
        self._flushed = (rank + 4) * _LEAST_NORMAL * (2.0 + self._row_norms + longest)
        self._reach = 1.01 * self._row_norms * longest + self._flushed
        self._tiles = list(_tiles(factors.right))
        width = self._tiles[0][1].shape[1]
        height = min(_UNPACKED // ((rank + 1) * width), _TILE // width)
        if height * width < _TILE and height < _LEAST_HEIGHT:
            height = _PACKED_HEIGHT
        self._height = max(1, height & ~3 or height)
        self._rows = max(1, min(_STEP_ELEMENTS // max(base.columns, 1), base.rows))
        count = self._rows * base.columns
        kinds = (np.float32, np.float32, np.uint16, np.bool_)
        # Memory that is used again stays in a core's cache.
        self._scratch: list[Any] = [np.empty(count, kind) for kind in kinds]
        self._gathered = max(1, _GATHERED // max(rank, 1))

    def within(self, first: int, last: int) -> Iterator[Stored]:
        """Yield some rows of the result as stored in a pack, in blocks of rows, in order."""
        rows = max(1, PRODUCT_ELEMENTS // max(self._base.columns, 1))
        for start in range(first, last, rows):
            yield self._block(start, min(start + rows, last))

    def _block(self, start: int, stop: int) -> Stored:
        base = self._base.stored(start, stop)
        result = np.empty_like(base)
        reach = self._reach[start:stop] + 1.01 * largest_magnitudes(base)
        bounds = self._gamma / 1.01 * self._reach[start:stop] + 3.1 * _UNIT * reach
        bounds += self._flushed[start:stop]
        self._left_single[start:stop, -1] = -bounds
        self._bounds[start:stop] = bounds
        large = not reach.max() < _LARGEST[self._dtype]
        in_doubt: list[tuple[Any, Any]] = []
        for first in range(0, stop - start, self._rows):
            rows = slice(first, first + self._rows)
            where, lows = self._round(start + first, base[rows], bounds[rows], result[rows], large)
            where += first * base.shape[1]
            in_doubt.append((where, lows))
        where, lows = (np.concatenate(each) for each in zip(*in_doubt, strict=True))
        for first in range(0, where.size, self._gathered):
            part = slice(first, first + self._gathered)
            self._settle(start, base.reshape(-1), lows[part], where[part], result.reshape(-1))
        return result

    def _round(
        self, start: int, base: Stored, bounds: Array, result: Stored, large: bool
    ) -> tuple[Any, Any]:
        """Compute some rows, from ``start`` on, in float32: what they round to.

        Returns the places in them that are in doubt, and low there. ``large`` results may overflow.
        """
        if not bounds.max() < np.inf:
            return np.arange(base.size), np.full(base.size, np.nan, np.float32)
        low, high, other, doubt = (each[: base.size].reshape(base.shape) for each in self._scratch)
        self._multiply(start, low)
        low += in_single(base, out=high)
        np.add(low, (2.001 * bounds).astype(np.float32)[:, np.newaxis], out=high)
        narrow = result.view(np.uint16)
        if self._layout.bias or large:
            doubt.fill(False)
            lows = low.reshape(-1).copy()
            nearest_narrow(low, self._layout, doubt, narrow, low)
            nearest_narrow(high, self._layout, doubt, other, high)
            doubt |= narrow != other
            doubt |= ~is_finite(narrow.view(result.dtype), self._dtype)
            where = np.flatnonzero(doubt)
            return where, lows.take(where)
        # As in `nearest_narrow`, but what is cut off is compared before it is.
        half = np.uint32(1 << (22 - self._layout.fraction))
        bits, others = low.view(np.uint32), high.view(np.uint32)
        bits += half
        others += half
        others ^= bits
        np.greater(others, np.uint32(2 * half - 1), out=doubt)
        where = np.flatnonzero(doubt)
        lows = bits.reshape(-1).take(where)
        lows -= half
        bits >>= np.uint32(23 - self._layout.fraction)
        np.copyto(narrow, bits, casting="unsafe")
        return where, lows.view(np.float32)

    def _multiply(self, start: int, product: NDArray[np.float32]) -> None:
        """Write rows of L @ R, from ``start`` on."""
        count, height = len(product), self._height
        left, even = self._left_single[start : start + count], count // height * height
        for columns, right in self._tiles:
            if even:  # many small products at once
                tiles = left[:even].reshape(-1, height, left.shape[1])
                out = product[:even].reshape(-1, height, product.shape[1])
                np.matmul(tiles, right, out=out[:, :, columns])
            if even < count:
                np.matmul(left[even:], right, out=product[even:, columns])

    def _settle(self, start: int, base: Stored, lows: Any, where: Any, result: Stored) -> None:
        """Compute the results at some places of a block, which begins at a row."""
        width = self._base.columns
        rows = where // width
        columns = where - rows * width
        rows += start
        norms = self._row_norms.take(rows)
        norms *= self._column_norms.take(columns)
        below = self._bounds.take(rows).astype(np.float64)
        values = (lows + below).astype(np.float32)
        below *= 0.002
        doubt = self._in_doubt(values, self._gamma * norms + self._flushed.take(rows) + below)
        narrow = np.empty(where.size, np.uint16)
        nearest_narrow(values, self._layout, doubt, narrow, values)
        final = narrow.view(result.dtype)
        left = np.flatnonzero(doubt)
        if left.size:
            final[left] = self._in_double(
                start, base, *(each.take(left) for each in (where, rows, columns, norms))
            )
        self._check(final)
        result[where] = final

    def _in_double(
        self, start: int, base: Stored, where: Any, rows: Any, columns: Any, norms: Array
    ) -> Stored:
        """Return the results at some places of a block, from float64 or the last stage.

        ``norms`` are the products of the norms of their factors; they are overwritten.
        """
        double = np.einsum(
            "ij,ij->i", self._left.take(rows, axis=0), self._columns.take(columns, axis=0)
        )
        double += in_double(base.take(where))
        norms *= self._gamma_double
        norms += (norms > 0) * (2.0**-1000 + 1.01 * UNIT * np.abs(double))
        results = rounded(double, self._dtype)
        if self._last is not None:
            left = doubtful_places(double, norms, self._dtype)
            if left.size:
                results[left] = self._last(where[left] + start * self._base.columns)
        return results

    def _in_doubt(self, values: NDArray[np.float32], bounds: Array) -> NDArray[np.bool_]:
        """Return where values, off by ``bounds`` and two roundings, may be on a tie's other side.

        The second rounding may be of a number twice as large: together 1.5 units in the last place.
        """
        tie = 1 << (22 - self._layout.fraction)
        bits = values.view(np.uint32)
        away = (bits & np.uint32(2 * tie - 1)).astype(np.int32)
        away -= tie
        np.absolute(away, out=away)
        np.minimum(away, tie // 2, out=away)  # below a power of two, the next tie is at that
        exponents = bits & np.uint32(0xFF << 23)
        if self._layout.bias:
            normal = exponents >= np.uint32(self._layout.bias + 1 << 23)
            normal &= exponents <= np.uint32(self._layout.bias + 30 << 23)
            exponents *= normal
        unit = exponents.view(np.float32).astype(np.float64)
        unit *= 2.0**-23  # of the last place; 0 where it is subnormal, and then it is in doubt
        distance = unit * away
        unit *= 1.51
        unit += bounds
        certain: NDArray[np.bool_] = distance > unit
        return ~certain


def _tiles(right: Array) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield R in parts of about the same width, each with a row of ones more."""
    columns = right.shape[1]
    width = -(-columns // -(-columns // _WIDTH))
    for start in range(0, columns, width):
        where = slice(start, start + width)
        part = np.ones((len(right) + 1, right[:, where].shape[1]), np.float32)
        part[:-1] = right[:, where]
        yield where, part
