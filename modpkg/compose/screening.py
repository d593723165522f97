"""A tensor of bfloat16 in float32, and in float64 wherever that might round to something else.

The result is the same to the last bit: every value whose float32 is not proven to round as its
float64 does is computed in float64 too, from the same inputs, by the method's own function. See
`modpkg.compose.reducers.single` for the proof.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modpkg.compose.arrays import Array, Stored, in_double, in_single
from modpkg.compose.memory import BLOCK_ELEMENTS, SINGLE_ELEMENTS
from modpkg.compose.reducers.single import Single
from modpkg.compose.rows import Rows

Exact = Callable[[Array, Sequence[Array], Any], Stored]
"""``exact(base, others, places)``: rounded results of values, (1, k) float64 each, and of their k
places in the tensor."""

# Bits of a bfloat16 without its sign: 2^−60 and 2^60. A fine-tune of the other sign is then more
# steps away than `Single.steps` ever is, also where the difference of both as bits goes round.
_SMALL, _GREAT = np.uint16((127 - 60) << 7), np.uint16((127 + 60) << 7)
_SIGNLESS = np.uint16(0x7FFF)
_TIE = 0x8000


class Screening:
    """How elements of one tensor become those of the result."""

    def __init__(
        self,
        single: Single,
        measured: Any,
        base: Rows,
        others: Sequence[Rows],
        exact: Exact,
    ) -> None:
        self._single, self._measured, self._exact = single, measured, exact
        self._base, self._others = base, others

    def __iter__(self) -> Iterator[Stored]:
        """Yield the result as it lies in a pack, in order."""
        for first in range(0, self._base.count, SINGLE_ELEMENTS):
            yield self._block(first, min(first + SINGLE_ELEMENTS, self._base.count))

    def _block(self, first: int, last: int) -> Stored:
        base = self._base.flat(first, last)
        others = [rows.flat(first, last) for rows in self._others]
        pieces = self._single.pieces(self._measured, first, last - first) or ()
        doubt = far(base, others, self._single.steps)
        start = in_single(base)
        deltas = [in_single(other) for other in others]
        for delta in deltas:
            delta -= start
        found, near_ties = nearest(
            self._single.reduce(start, deltas, pieces, doubt), self._single.ulps
        )
        if near_ties is not None:
            doubt |= near_ties
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


def far(base: Stored, others: Sequence[Stored], steps: int) -> NDArray[np.bool_]:
    """Return where bfloat16 of ``base`` are too small or great, or any other is not near it."""
    size = base & _SIGNLESS
    size -= _SMALL  # what is smaller goes round, and is great
    found: NDArray[np.bool_] = size > _GREAT - _SMALL
    least = np.subtract(base, np.uint16(steps), out=size)
    most = others[0] - least
    for other in others[1:]:
        np.maximum(most, other - least, out=most)
    found |= most > np.uint16(2 * steps)
    return found


def nearest(single: NDArray[np.float32], ulps: int) -> tuple[Stored, NDArray[np.bool_] | None]:
    """Return the nearest bfloat16, and where another float32, ``ulps`` away, may have another.

    Without ``ulps`` ties go to even; otherwise they are among those that are told. ``single`` is
    overwritten.
    """
    bits: Any = single.view(np.uint32)
    near = None
    if ulps:
        low = bits - np.uint32(_TIE - ulps)
        low &= np.uint32(0xFFFF)
        near = low <= np.uint32(2 * ulps)
        bits += np.uint32(_TIE)
    else:
        odd = bits >> np.uint32(16)
        odd &= np.uint32(1)
        odd += np.uint32(_TIE - 1)
        bits += odd
    bits >>= np.uint32(16)
    return bits.astype(np.uint16), near
