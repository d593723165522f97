"""Disjoint merges of narrow floats by their bits, where few fine-tunes' values are kept.

    b + (x_i − b) · w_i / w_i = x_i

An element of which one value is kept has that fine-tune's, and one of which none is the base's:
neither needs arithmetic. Which are kept is in sets of bits. If two are kept, and are larger than
the base or smaller, the result is their mean; otherwise it is one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modpkg.compose.arrays import Stored, in_single
from modpkg.compose.reducers.bitmap import as_wide_bits, places_in
from modpkg.compose.reducers.single import SAME_RANGE, Cuts, KeptPair
from modpkg.compose.weighted_means import apart, mean_of_wide, out_of_bounds, too_far


class Several(NamedTuple):
    """The elements of which more than one fine-tune's value is kept."""

    places: Any
    """Their ascending indices."""
    kept: Sequence[NDArray[np.bool_]]
    """For each fine-tune a mask of those of them that are kept."""


def kept_values(
    base: Stored, others: Sequence[Stored], cuts: Cuts, infinity: int, result: NDArray[np.uint16]
) -> Several | None:
    """Write the values of elements of which at most one is kept, and return the other elements.

    None, and nothing is written, if it is not known which are kept, or if some values may be no
    numbers.

    Args:
        base: As stored, flat, and ``others`` alike.
        cuts: What of each of the others is not kept.
        infinity: The bits of infinity.
        result: Gets the bits of values; −0.0 is among them where that is kept.
    """
    kept = [None if cut.kept is None else cut.kept.packed(cut.first, base.size) for cut in cuts]
    sets = [each for each in kept if each is not None]
    if len(sets) < len(kept) or any(_has_no_number(each, infinity) for each in (base, *others)):
        return None
    some, several = sets[0].copy(), np.zeros_like(sets[0])
    for each in sets[1:]:
        several |= some & each
        some |= each
    bits = base.view(np.uint16)
    np.copyto(result, bits)
    for each, other in zip(sets, others, strict=True):
        change = bits ^ other.view(np.uint16)
        change &= as_wide_bits(each & ~several, base.size, np.uint16)
        result ^= change
    places = places_in(several, base.size)
    if len(sets) == 2:
        return Several(places, [np.ones(places.size, np.bool_)] * 2)
    return Several(places, [_mask_at(each, places) for each in sets])


def _has_no_number(stored: Stored, infinity: int) -> bool:
    """Return whether a value is infinity or NaN."""
    bits = stored.view(np.uint16)
    positive, any_sign = bits.view(np.int16).max(initial=0), bits.max(initial=0)
    return int(positive) >= infinity or int(any_sign) >= infinity | 1 << 15


def _mask_at(packed: NDArray[np.uint8], places: Any) -> NDArray[np.bool_]:
    """Return a mask of the places that are in a set."""
    inside = packed.take(places >> 3) >> (places & 7).astype(np.uint8)
    inside &= np.uint8(1)
    mask: NDArray[np.bool_] = inside.view(np.bool_)
    return mask


def both_kept(
    pair: KeptPair,
    models: Sequence[Stored],
    wide: NDArray[np.float32],
    result: NDArray[np.uint16],
    bounds: tuple[int, int],
) -> NDArray[np.bool_]:
    """Compute elements of bfloat16 of which two fine-tunes are kept, and differ from the base.

    Differences of values with exponents in the same range have at most 24 bits: they are exact in
    float32, and a rounded sum of two has the right sign.

    Args:
        pair: What to compute.
        models: Base and two fine-tunes as stored, flat.
        wide: float32 [3, elements], overwritten.
        result: Gets the bits of the results.
        bounds: As of `weighted_mean`.

    Returns:
        A mask of the results that are in doubt.
    """
    start, first, second = wide
    for own, stored in zip(wide, models, strict=True):
        in_single(stored, out=own)
    doubt = mean_of_wide(pair.mean, wide[1:], result)
    doubt |= too_far(pair.mean, models[1:])
    first -= start
    second -= start
    sign = first.view(np.int32) ^ second.view(np.int32)
    opposite = _all_bits_of(sign)
    doubt &= opposite == 0
    for difference, vote in zip((first, second), pair.votes, strict=True):
        if vote != 1.0:
            difference *= np.float32(vote)
    total = np.add(first, second, out=start)  # 0 counts as positive
    np.bitwise_xor(total.view(np.int32), first.view(np.int32), out=sign)
    if pair.slack:
        reach = np.abs(second, out=second)
        reach += np.abs(first, out=first)
        reach *= np.float32(pair.slack)
        doubt |= np.abs(total, out=total) <= reach
    ones, others = (each.view(np.uint16) for each in models[1:])
    change = ones ^ others
    change &= _all_bits_of(sign)
    change ^= ones  # the second one, where the first one has not the elected sign
    change ^= result
    change &= opposite
    result ^= change
    exponents = apart(models)
    exponents &= np.uint16(0x7FFF)
    doubt |= exponents >= np.uint16(SAME_RANGE)
    out_of_bounds(result, bounds, doubt)
    return doubt


def _all_bits_of(sign: Any) -> NDArray[np.uint16]:
    """Return uint16 with all bits set where an int32, which is overwritten, is negative."""
    sign >>= np.int32(31)
    bits: NDArray[np.uint16] = sign.astype(np.uint16)
    return bits
