"""A tensor of bfloat16 or float16 in float32, and in float64 where that might round otherwise.

The result is the same to the last bit: every value whose float32 is not proven to round as its
float64 does is computed in float64 too, from the same inputs, by the method's own function. See
`modpkg.compose.reducers.single` for the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modpkg.compose.arrays import Array, Stored, in_double, in_single
from modpkg.compose.memory import BLOCK_ELEMENTS, SINGLE_ELEMENTS
from modpkg.compose.reducers.single import SinglePrecision
from modpkg.compose.rows import RowReader

Exact = Callable[[Array, Sequence[Array], Any], Stored]
"""``exact(base, others, places)``: rounded results of values, (1, k) float64 each, and of their k
places in the tensor."""

_SIGNLESS = np.uint16(0x7FFF)


class BitLayout(NamedTuple):
    """Where the bits of a narrow float are; float32 has 8 of exponent and 23 of fraction."""

    fraction: int
    small: int
    great: int
    """Bits of the smallest and the largest base magnitude. A fine-tune of the other sign is then
    farther away than `SinglePrecision.steps` ever allows, even where the difference of the bits
    wraps around; and every value between the two bounds is a normal number."""
    bias: int = 0
    """What float32's exponents are greater by."""


LAYOUTS = {
    "BF16": BitLayout(7, (127 - 60) << 7, (127 + 60) << 7),
    "F16": BitLayout(10, (15 - 12) << 10, (15 + 13) << 10, 127 - 15),
}


class NarrowReduction:
    """How elements of one tensor become those of the result."""

    def __init__(
        self,
        dtype: str,
        single: SinglePrecision,
        measured: Any,
        base: RowReader,
        others: Sequence[RowReader],
        exact: Exact,
    ) -> None:
        self._single, self._measured, self._exact = single, measured, exact
        self._base, self._others = base, others
        self._layout = LAYOUTS[dtype]

    def __iter__(self) -> Iterator[Stored]:
        """Yield the result as it lies in a pack, in order."""
        for first in range(0, self._base.count, SINGLE_ELEMENTS):
            yield self._block(first, min(first + SINGLE_ELEMENTS, self._base.count))

    def _block(self, first: int, last: int) -> Stored:
        base = self._base.flat(first, last)
        others = [rows.flat(first, last) for rows in self._others]
        pieces = self._single.pieces(self._measured, first, last - first) or ()
        doubt = far(base, others, self._single.steps, self._layout)
        start = in_single(base)
        deltas = [in_single(other) for other in others]
        for delta in deltas:
            delta -= start
        made = self._single.reduce(start, deltas, pieces, doubt)
        found = nearest(made, self._single.ulps, self._layout, doubt).view(base.dtype)
        where = np.flatnonzero(doubt)
        if where.size > found.size // 4:  # it would cost more than all in one
            return self._in_double(base, others, first)
        if where.size:
            found[where] = self._of(
                base.take(where), [o.take(where) for o in others], where + first
            )
        return found

    def _in_double(self, base: Stored, others: Sequence[Stored], first: int) -> Stored:
        found = np.empty_like(base)
        for start in range(0, base.size, BLOCK_ELEMENTS):
            part = slice(start, start + BLOCK_ELEMENTS)
            places = np.arange(first + start, first + min(part.stop, base.size))
            found[part] = self._of(base[part], [other[part] for other in others], places)
        return found

    def _of(self, base: Stored, others: Sequence[Stored], places: Any) -> Stored:
        wide = [in_double(each).reshape(1, -1) for each in (base, *others)]
        return self._exact(wide[0], wide[1:], places).reshape(-1)


def far(base: Stored, others: Sequence[Stored], steps: int, layout: BitLayout) -> NDArray[np.bool_]:
    """Return where ``base`` is too small or great, or any other is not near it."""
    base, others = base.view(np.uint16), [other.view(np.uint16) for other in others]
    size = base & _SIGNLESS
    size -= np.uint16(layout.small)  # what is smaller goes round, and is great
    found: NDArray[np.bool_] = size > np.uint16(layout.great - layout.small)
    least = np.subtract(base, np.uint16(steps), out=size)
    most = others[0] - least
    for other in others[1:]:
        np.maximum(most, other - least, out=most)
    found |= most > np.uint16(2 * steps)
    return found


def nearest(
    single: NDArray[np.float32], ulps: int, layout: BitLayout, doubt: NDArray[np.bool_]
) -> Stored:
    """Return bits of the nearest narrow floats; where another float32, ``ulps`` away, may have
    another, ``doubt`` is set.

    Without ``ulps`` ties go to even; otherwise they are among those in doubt, as is what is not
    normal. ``single`` is overwritten.
    """
    bits: Any = single.view(np.uint32)
    dropped = np.uint32(23 - layout.fraction)
    tie = 1 << (22 - layout.fraction)
    sign = None
    if layout.bias:
        sign = bits & np.uint32(1 << 31)
        sign >>= np.uint32(16)
        bits &= np.uint32((1 << 31) - 1)
        least, most = (layout.bias + 1) << 23, (layout.bias + 30) << 23
        doubt |= bits - np.uint32(least) > np.uint32(most - least)
    if ulps:
        low = bits - np.uint32(tie - ulps)
        low &= np.uint32(2 * tie - 1)
        doubt |= low <= np.uint32(2 * ulps)
        bits += np.uint32(tie)
    else:
        odd = bits >> dropped
        odd &= np.uint32(1)
        odd += np.uint32(tie - 1)
        bits += odd
    if sign is not None:
        bits -= np.uint32(layout.bias << 23)
    bits >>= dropped
    if sign is not None:
        bits |= sign
    narrow: Stored = bits.astype(np.uint16)
    return narrow
