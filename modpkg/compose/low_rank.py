"""Adding products of two matrices to a bfloat16 or float16 tensor, in float32 first.

    result = base + L @ R        L of shape (rows, rank), R of shape (rank, columns)

Each stage computes a value v and a proven bound e of its error. If everything within e of v rounds
to the same value of the dtype, that is the result; otherwise the element goes to the next stage:

1. float32 for all elements, with coarse bounds by row. It costs a fifth of float64.
2. The same v with a bound of its own, for elements near a tie or near 0.
3. float64, for the few that are left, and whatever is in doubt there goes to the last stage.

With u the unit roundoff and Higham's γ_k = k·u / (1 − k·u) (Accuracy and Stability of Numerical
Algorithms, 2002, section 3.1), a sum of r products in any order, with or without fused
multiply-adds, is within γ_r · Σ |l_k| |r_k| <= γ_r · ‖l‖ ‖r‖ (Cauchy-Schwarz) of the exact one.
Each factor of a product was rounded at most once more, and so is the sum with the base:

    |v − exact| <= γ_(r+3) ‖l_i‖ ‖r_j‖ + u |v|

Where float32 underflows, it is off by less than 2⁻¹²⁶ for each product and factor instead, even if
the processor flushes subnormals. Where it overflows, v is not finite, and that is a doubt too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modpkg.adapters.formula import UNIT, gamma
from modpkg.compose.arrays import Array, Stored, in_double, in_single
from modpkg.compose.doubt import doubtful
from modpkg.compose.memory import PRODUCT_ELEMENTS
from modpkg.compose.narrow_floats import LAYOUTS, round_to_narrow
from modpkg.compose.rounding import rounded
from modpkg.compose.rows import RowReader

LastStage = Callable[[NDArray[np.int64]], Stored]
"""``last(places)``: the rounded results at ascending flat indices of the tensor."""

_UNIT = 2.0**-24
"""The unit roundoff of float32."""
_LEAST_NORMAL = 2.0**-126
_LEAST_STEPS, _MOST_STEPS = 16, 1024
"""Bounds of a coarse bound, in units of float32's last place. All ties of float16 are more than the
larger one away from powers of two, where that unit changes."""
_STEP_ELEMENTS = 1 << 18
"""Elements of a step of the first stage: few enough for a core's cache, and enough that many
threads seldom wait for Python's lock. The doubts of a block of many steps are settled at once."""
_GATHERED = 1 << 20
"""Values that the second and third stage gather at once."""


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
        """Prepare the factors.

        Args:
            check: Called with the results that float32 could not decide, among them all that are
                not finite.
            last: The last stage; without one, float64 is.
        """
        self._dtype, self._layout, self._base = dtype, LAYOUTS[dtype], base
        self._last, self._check = last, check
        self._left, self._columns = factors.left, np.ascontiguousarray(factors.right.T)
        self._left_single = factors.left.astype(np.float32)
        self._right_single = np.ascontiguousarray(factors.right, np.float32)
        rank = factors.left.shape[1]
        self._row_norms = np.sqrt(np.einsum("ij,ij->i", self._left, self._left))
        self._column_norms = np.sqrt(np.einsum("ij,ij->i", self._columns, self._columns))
        count = rank + 5  # and the errors of the norms and of this bound itself
        self._gamma = count * _UNIT / (1 - count * _UNIT)
        self._gamma_double = gamma(count)
        # What a float32 that underflows is off, in a factor, a product or a sum.
        largest = float(self._column_norms.max(initial=0.0))
        self._flushed = rank * _LEAST_NORMAL * (2.0 + self._row_norms + largest)
        self._row_bounds = self._gamma * self._row_norms * largest + self._flushed
        self._steps, self._infinity = 0, 0
        self._small: Any = None
        self._gathered = max(1, _GATHERED // max(rank, 1))

    def within(self, first: int, last: int) -> Iterator[Stored]:
        """Yield some rows of the result as stored in a pack, in blocks of rows, in order."""
        rows = max(1, PRODUCT_ELEMENTS // max(self._base.columns, 1))
        for start in range(first, last, rows):
            yield self._block(start, min(start + rows, last))

    def _block(self, start: int, stop: int) -> Stored:
        base = self._base.stored(start, stop)
        result = np.empty_like(base)
        values, doubt = np.empty(base.shape, np.float32), np.zeros(base.shape, np.bool_)
        step = max(1, _STEP_ELEMENTS // self._base.columns)
        for first in range(0, stop - start, step):
            some = slice(first, first + step)
            self._round(
                start + first, base[some], values[some], doubt[some], result[some].view(np.uint16)
            )
        where = np.flatnonzero(doubt)
        for first in range(0, where.size, self._gathered):
            places = where[first : first + self._gathered]
            self._settle(start, base.reshape(-1), values.reshape(-1), places, result.reshape(-1))
        return result

    def _round(self, start: int, base: Stored, values: Any, doubt: Any, result: Any) -> None:
        """Compute some rows in float32: their values, and what they round to unless in doubt."""
        stop = start + len(base)
        np.matmul(self._left_single[start:stop], self._right_single, out=values)
        wide = in_single(base)
        if not self._steps:
            self._choose_steps(wide, start, stop)
        values += wide
        result[:] = narrow = round_to_narrow(values, self._steps, self._layout, doubt)
        narrow += narrow  # without the sign
        doubt |= narrow <= self._small[start:stop]
        if int(narrow.max(initial=0)) >= self._infinity:
            doubt |= narrow >= self._infinity

    def _choose_steps(self, values: NDArray[np.float32], start: int, stop: int) -> None:
        """Choose the coarse bound in units of the last place, by the first block's values.

        With a larger one more values are near a tie, with a smaller one more are too small for it.
        """
        sizes = np.abs(values.reshape(-1)[:: max(1, values.size // 4096)])
        typical, bound = float(np.median(sizes)), float(np.median(self._row_bounds[start:stop]))
        span = 1 << (22 - self._layout.fraction)  # between a tie and the next representable value
        wanted = 0.0
        if 0 < typical < np.inf and bound < np.inf:
            wanted = (bound / typical * 2.0**23 * span) ** 0.5
        most = min(_MOST_STEPS, span // 8)
        self._steps = steps = int(min(max(wanted, _LEAST_STEPS), most))
        # |v| >= 2^e is enough if 2^(e − 23) · (steps − 1) is at least the bound.
        _, exponents = np.frexp(self._row_bounds * (2.0**23 / (steps - 1)))
        bias = 127 - self._layout.bias
        most_bits = 0xFF if bias == 127 else 0x1F
        exponents = np.where(np.isfinite(self._row_bounds), exponents + bias, most_bits)
        bits = np.clip(exponents, 1, most_bits).astype(np.uint16) << self._layout.fraction
        self._small = (2 * bits).reshape(-1, 1)
        self._infinity = 2 * (most_bits << self._layout.fraction)

    def _settle(self, start: int, base: Stored, values: Any, where: Any, result: Stored) -> None:
        """Compute the results at some places of a block, which begins at a row."""
        width = self._base.columns
        rows = where // width
        columns = where - rows * width
        rows += start
        norms = self._row_norms.take(rows)
        norms *= self._column_norms.take(columns)
        doubt = self._in_doubt(values.take(where), self._gamma * norms + self._flushed.take(rows))
        left = np.flatnonzero(doubt)
        if not left.size:
            return
        where, rows, columns, norms = (each.take(left) for each in (where, rows, columns, norms))
        double = np.einsum(
            "ij,ij->i", self._left.take(rows, axis=0), self._columns.take(columns, axis=0)
        )
        double += in_double(base.take(where))
        norms *= self._gamma_double
        norms += (norms > 0) * (2.0**-1000 + 1.01 * UNIT * np.abs(double))
        final, doubt = rounded(double, self._dtype), doubtful(double, norms, self._dtype)
        if self._last is not None and doubt.any():
            final[doubt] = self._last(where[doubt] + start * width)
        self._check(final)
        result[where] = final

    def _in_doubt(self, values: NDArray[np.float32], bounds: Array) -> NDArray[np.bool_]:
        """Return where values, off by ``bounds`` and a rounding, may be on a tie's other side."""
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
        unit *= 0.51
        unit += bounds
        certain: NDArray[np.bool_] = distance > unit
        return ~certain
