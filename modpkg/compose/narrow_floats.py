"""Reducing bfloat16 or float16 tensors in float32, and in float64 where rounding might differ.

The result is bit-identical to float64: every value whose float32 is not proven to round the same
way is computed again in float64, from the same inputs, by the method's own function. See
`modpkg.compose.reducers.single` for the proof.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modpkg.compose.arrays import Array, Stored, in_double, in_single
from modpkg.compose.kept_values import Several, both_kept, kept_values
from modpkg.compose.memory import BLOCK_ELEMENTS, SINGLE_ELEMENTS
from modpkg.compose.reducers.single import Cuts, SinglePrecision, ThresholdCut
from modpkg.compose.rows import RowReader
from modpkg.compose.weighted_means import weighted_mean

Exact = Callable[[Stored, Sequence[Stored], Any], Stored]
"""``exact(base, others, places)``: the rounded results of k elements, from their values, as stored,
and their flat indices."""

_STEP_ELEMENTS = 1 << 18
"""Elements that are computed at once: they stay in a core's cache. The doubts of a block of many
steps are settled at once."""
_SIGNLESS = np.uint16(0x7FFF)


class BitLayout(NamedTuple):
    """The bits of a 16-bit float; float32 has 8 exponent and 23 fraction bits."""

    fraction: int
    """Fraction bits."""
    small: int
    large: int
    """Bits of the smallest and the largest magnitude of the base, where `SinglePrecision.steps`
    apply: a fine-tune of the other sign is then farther away than these ever allow, even where the
    difference of the bits wraps around. Otherwise of the result. Every value between the two bounds
    is a normal number."""
    bias: int = 0
    """float32's exponent bias minus this dtype's."""

    @property
    def infinity(self) -> int:
        """The bits of infinity."""
        return (0x1F if self.bias else 0xFF) << self.fraction


LAYOUTS = {
    "BF16": BitLayout(7, (127 - 60) << 7, (127 + 60) << 7),
    "F16": BitLayout(10, (15 - 12) << 10, (15 + 13) << 10, 127 - 15),
}


class NarrowReduction:
    """Reduces one tensor, float32 first."""

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
        # Memory that is used again stays in a core's cache.
        self._wide = np.empty((1 + len(others)) * min(_STEP_ELEMENTS, base.count), np.float32)

    def within(self, start: int, stop: int) -> Iterator[Stored]:
        """Yield some rows of the result as stored in a pack, block by block, in order."""
        end = stop * self._base.columns
        for first in range(start * self._base.columns, end, SINGLE_ELEMENTS):
            yield self._block(first, min(first + SINGLE_ELEMENTS, end))

    def _block(self, first: int, last: int) -> Stored:
        base = self._base.flat(first, last)
        others = [rows.flat(first, last) for rows in self._others]
        if self._single.alone:
            cuts = self._single.cuts(self._measured, first) or ()
            result = np.empty_like(base)
            several = kept_values(base, others, cuts, self._layout.infinity, result.view(np.uint16))
            if several is not None:
                return self._with_several(base, others, first, result, several)
        result, where = self._all(base, others, lambda start: self._cuts(first + start))
        if where.size > result.size // 4:  # computing the whole block in float64 is faster
            return self._in_double(base, others, first)
        if where.size:
            result[where] = self._exact(
                base.take(where), [o.take(where) for o in others], where + first
            )
        return result

    def _cuts(self, first: int) -> Cuts:
        return self._single.cuts(self._measured, first) or ()

    def _with_several(
        self, base: Stored, others: Sequence[Stored], first: int, result: Stored, several: Several
    ) -> Stored:
        """Return a result with its values where several fine-tunes' are kept."""
        places = several.places
        models = [each.take(places) for each in (base, *others)]
        some, doubt = self._all(
            models[0],
            models[1:],
            lambda start: [
                ThresholdCut(0.0, mask=mask[start : start + _STEP_ELEMENTS])
                for mask in several.kept
            ],
        )
        result[places] = some
        where = places.take(doubt)
        bits = result.view(np.uint16)
        if int(bits.view(np.int16).min(initial=0)) == -(1 << 15):  # -0.0, which may be 0
            where = np.union1d(where, np.flatnonzero(bits == np.uint16(1 << 15)))
        if where.size:
            result[where] = self._exact(
                base.take(where), [each.take(where) for each in others], where + first
            )
        return result

    def _all(
        self, base: Stored, others: Sequence[Stored], cuts: Callable[[int], Cuts]
    ) -> tuple[Stored, Any]:
        """Return results in float32, and the indices of those that are in doubt.

        ``cuts`` are those of up to `_STEP_ELEMENTS` from an index on.
        """
        result, doubt = np.empty_like(base), np.zeros(base.size, np.bool_)
        for start in range(0, base.size, _STEP_ELEMENTS):
            some = slice(start, start + _STEP_ELEMENTS)
            models = [each[some] for each in (base, *others)]
            self._step(cuts(start), models, doubt[some], result[some].view(np.uint16))
        return result, np.flatnonzero(doubt)

    def _step(self, cuts: Cuts, models: Sequence[Stored], doubt: Any, result: Any) -> None:
        """Compute some results in float32: their bits, and where they are in doubt."""
        single, layout = self._single, self._layout
        base, *others = models
        rows = self._wide[: len(models) * base.size].reshape(-1, base.size)
        if not layout.bias:
            bounds = layout.small, layout.large
            if single.mean is not None:
                doubt |= weighted_mean(single.mean, models, rows, result, bounds)
                return
            if single.pair is not None and all(cut.mask is not None for cut in cuts):
                doubt |= both_kept(single.pair, models, rows, result, bounds)
                return
        start, *wide = (in_single(each, out=own) for each, own in zip(models, rows, strict=True))
        if not single.of_values:
            for each in wide:
                each -= start
        values = single.reduce(start, wide, cuts, doubt)
        round_to_narrow(values, single.ulps, layout, doubt, result)
        if single.ulps:
            close = 0 if single.of_values else 22 - layout.fraction
            doubt |= cancelled(base, others, result, single.cancelled, close, layout)
        else:
            doubt |= out_of_range(base, others, single.steps, layout)

    def _in_double(self, base: Stored, others: Sequence[Stored], first: int) -> Stored:
        result = np.empty_like(base)
        for start in range(0, base.size, BLOCK_ELEMENTS):
            part = slice(start, start + BLOCK_ELEMENTS)
            places = np.arange(first + start, first + min(part.stop, base.size))
            result[part] = self._exact(base[part], [other[part] for other in others], places)
        return result


def inexact_below(dtype: str, bound: float) -> int:
    """Return the bits of a magnitude t: differences up to 2 · ``bound`` are exact in float32.

    They are, if both values are 0 or at least t = 2^a: then they are multiples of 2^(a − f), of
    which float32 has all up to 2^(24 + a − f). Subnormal values are multiples of that of the
    smallest normal one.
    """
    layout = LAYOUTS[dtype]
    most = 0xFF if not layout.bias else 0x1F
    if not bound < math.inf:
        return most << layout.fraction
    lowest = math.frexp(bound)[1] + 1 - 24 + layout.fraction
    return min(max(lowest + 127 - layout.bias, 0), most) << layout.fraction


def below(stored: Stored, bits: int) -> Any:
    """Return the indices of magnitudes, but 0, below the one of these bits."""
    size = stored.view(np.uint16) & _SIGNLESS
    if bits <= 1 or int(size.min(initial=0xFFFF)) >= bits:
        return np.empty(0, np.int64)
    size -= np.uint16(1)  # 0 becomes the largest
    return np.flatnonzero(size < np.uint16(bits - 1))


def out_of_range(
    base: Stored, others: Sequence[Stored], steps: int, layout: BitLayout
) -> NDArray[np.bool_]:
    """Return where ``base`` is too small or large, or any other is over ``steps`` away from it."""
    base, others = base.view(np.uint16), [other.view(np.uint16) for other in others]
    size = base & _SIGNLESS
    size -= np.uint16(layout.small)  # smaller values wrap around and become large
    mask: NDArray[np.bool_] = size > np.uint16(layout.large - layout.small)
    least = np.subtract(base, np.uint16(steps), out=size)
    most = others[0] - least
    for other in others[1:]:
        np.maximum(most, other - least, out=most)
    mask |= most > np.uint16(2 * steps)
    return mask


def cancelled(
    base: Stored,
    others: Sequence[Stored],
    result: NDArray[np.uint16],
    most: int,
    close: int,
    layout: BitLayout,
) -> NDArray[np.bool_]:
    """Return where a result is too small or large, or values are larger by over 2^``most``.

    With ``close``, also where the largest value is over 2^``close`` times the smallest.
    """
    largest = base.view(np.uint16) & _SIGNLESS
    least = largest.copy() if close else largest
    size = np.empty_like(largest)
    for other in others:
        np.bitwise_and(other.view(np.uint16), _SIGNLESS, out=size)
        np.maximum(largest, size, out=largest)
        if close:
            np.minimum(least, size, out=least)
    # the bits of magnitudes whose exponents differ by n differ by n · 2^f
    np.bitwise_and(result, _SIGNLESS, out=size)
    mask: NDArray[np.bool_] = (largest - size).view(np.int16) > np.int16(most << layout.fraction)
    if close:
        largest -= least
        mask |= largest > np.uint16(close << layout.fraction)
    size -= np.uint16(layout.small)
    mask |= size > np.uint16(layout.large - layout.small)
    return mask


def largest_magnitudes(stored: Stored) -> Array:
    """Return the largest magnitude of each row; not finite if a value of it is not."""
    bits = stored.view(np.uint16)
    largest, positive = bits.max(axis=1), bits.view(np.int16).max(axis=1).view(np.uint16)
    largest[largest > _SIGNLESS] &= _SIGNLESS  # a negative one
    np.maximum(largest, positive, out=largest, where=positive <= _SIGNLESS)
    return in_double(largest.view(stored.dtype))


def round_to_narrow(
    single: NDArray[np.float32],
    ulps: int,
    layout: BitLayout,
    doubt: NDArray[np.bool_],
    out: NDArray[np.uint16] | None = None,
) -> NDArray[np.uint16]:
    """Return the bits of the nearest narrow floats, setting ``doubt`` where a float32 within
    ``ulps`` may round to another; ``single`` is overwritten.

    If ``ulps`` is 0, ties go to even; otherwise ties are in doubt, as are subnormal and non-finite
    results of float16.
    """
    bits: Any = single.view(np.uint32)
    tie = 1 << (22 - layout.fraction)
    narrow = np.empty(single.shape, np.uint16) if out is None else out
    sign = _signs_taken(bits, layout, doubt)
    if ulps:
        np.copyto(narrow, bits, casting="unsafe")
        narrow += np.uint16(tie + ulps & 0xFFFF)  # the distance to the tie, from -ulps on
        if layout.bias:
            narrow &= np.uint16(2 * tie - 1)
        doubt |= narrow <= np.uint16(2 * ulps)
        bits += np.uint32(tie)
    else:
        odd = bits >> np.uint32(23 - layout.fraction)
        odd &= np.uint32(1)
        odd += np.uint32(tie - 1)
        bits += odd
    return _cut(bits, layout, sign, narrow)


def nearest_narrow(
    single: NDArray[np.float32],
    layout: BitLayout,
    doubt: NDArray[np.bool_],
    out: NDArray[np.uint16],
    scratch: NDArray[np.float32],
) -> NDArray[np.uint16]:
    """Return, in ``out``, the bits of the nearest narrow floats; ties go away from 0.

    ``scratch`` is overwritten, and may be ``single``; ``doubt`` is set where a float16 is subnormal
    or not finite.
    """
    bits: Any = scratch.view(np.uint32)
    given: Any = single.view(np.uint32)
    sign = None
    if layout.bias:
        np.copyto(bits, given)
        sign, given = _signs_taken(bits, layout, doubt), bits
    np.add(given, np.uint32(1 << (22 - layout.fraction)), out=bits)
    return _cut(bits, layout, sign, out)


def _signs_taken(bits: Any, layout: BitLayout, doubt: NDArray[np.bool_]) -> Any:
    """Remove float32's signs where a dtype has another exponent, and return them in its place."""
    if not layout.bias:
        return None
    sign = bits >> np.uint32(16)
    sign &= np.uint32(1 << 15)
    bits &= np.uint32((1 << 31) - 1)
    least, most = (layout.bias + 1) << 23, (layout.bias + 30) << 23
    doubt |= bits - np.uint32(least) > np.uint32(most - least)
    return sign.astype(np.uint16)


def _cut(bits: Any, layout: BitLayout, sign: Any, out: Any) -> NDArray[np.uint16]:
    """Write narrow floats: float32 without the last fraction bits."""
    bits >>= np.uint32(23 - layout.fraction)
    np.copyto(out, bits, casting="unsafe")
    if sign is not None:
        out -= np.uint16(layout.bias << layout.fraction & 0xFFFF)
        out |= sign
    narrow: NDArray[np.uint16] = out
    return narrow
