"""What is kept of a change by its magnitude: thresholds, and which of equal values are kept."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.numbers import np
from modpkg.compose.reducers.reducer import Blocks, Change, Rough
from modpkg.compose.reducers.selection import kth_largest, position
from modpkg.compose.reducers.single import Range

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class Kept(NamedTuple):
    """What is kept of a change; ``None`` for a place is that all equal ones are."""

    low: float = 0.0
    """Least magnitude."""
    low_before: int | None = None
    """Of those that have it, the ones before this place of the tensor."""
    high: float = float("inf")
    """Greatest magnitude."""
    high_before: int | None = None
    factor: float = 1.0
    """What the kept are multiplied by."""


Bounds = Sequence[Kept]
NONE = Kept(low=float("inf"))


def thresholds(blocks: Blocks, *, rescale: bool = False, **_: Any) -> Bounds:
    """Return what is kept of each change: the ``density`` of it that is largest.

    With a parameter ``gamma`` the largest gamma of all are left out first. With ``rescale`` what
    is kept is brought to the sum of magnitudes that all had.
    """
    found = []
    for index, step in enumerate(blocks.steps):
        kept = kept_of(blocks, index, **step)
        if rescale and kept not in (Kept(), NONE):
            before = after = 0.0
            first = 0
            for delta in blocks.deltas(index):
                size = np.abs(delta)
                before += float(size.sum())
                size[_left_out(size, first, kept)] = 0.0
                after += float(size.sum())
                first += size.size
            if min(before, after) >= 1e-7:
                kept = kept._replace(factor=before / after)
        found.append(kept)
    return found


def kept_of(blocks: Blocks, index: int, density: float, gamma: float | None = None) -> Kept:
    count = blocks.count
    if density >= 1 or not count:
        return Kept()
    wanted = int(density * count)
    if gamma is None and density > 0:
        wanted = max(wanted, 1)  # as mergekit has it
    if not wanted:
        return NONE
    sample = np.abs(blocks.sample(index))

    def rough() -> Iterator[Rough]:
        return blocks.rough(index)

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    above = min(int((gamma or 0.0) * count), count - wanted)  # the density is kept to
    low = kth_largest(rough, magnitudes, sample, above + wanted, count)
    kept = Kept(low.value)
    if (inside := above + wanted - low.above) < low.equal:
        kept = Kept(low.value, low_before=position(rough, low, inside) + 1)
    if above:
        high = kth_largest(rough, magnitudes, sample, above, count)
        inside = high.equal - (above - high.above)  # of the equal ones, the first stay
        before = position(rough, high, inside) + 1 if inside else 0
        kept = kept._replace(high=high.value, high_before=before)
    return kept


def _left_out(size: Array, first: int, kept: Kept) -> Any:
    """Return where magnitudes are not kept; ``first`` is the place of their first."""
    found = size < kept.low
    if kept.low_before is not None:
        found |= (size == kept.low) & _from(size, first, kept.low_before)
    if kept.high_before is not None:
        found |= size > kept.high
        found |= (size == kept.high) & _from(size, first, kept.high_before)
    return found


def _from(size: Array, first: int, place: int) -> Any:
    """Return where in rows that begin at ``first`` the elements from ``place`` on are."""
    return (np.arange(size.size) >= place - first).reshape(size.shape)


def by_magnitude(change: Change, kept: Kept) -> Array:
    """Return the change with what is not kept at 0."""
    if kept == Kept():
        return change.delta
    size = np.abs(change.delta)
    least = _least(kept, change.first, change.delta.size)
    if kept.high_before is None and least is not None:
        found = change.delta * (size >= least)
    else:
        found = change.delta * ~_left_out(size, change.first, kept)
    if kept.factor != 1.0:
        found *= kept.factor
    return found


def _least(kept: Kept, first: int, size: int) -> float | None:
    """Return the least magnitude that is kept in these rows; None where equal ones part in them."""
    place = kept.low_before
    if place is None or place >= first + size:
        return kept.low
    return math.nextafter(kept.low, math.inf) if place <= first else None


def ranges(bounds: Bounds, count: int) -> list[Range] | None:
    """Return where each change has another `_least`; None where more than it has a say."""
    if any(kept.high_before is not None or kept.factor != 1.0 for kept in bounds):
        return None
    places = {kept.low_before or 0 for kept in bounds}
    cuts = sorted({0, count, *(place for place in places if place < count)})
    return [
        Range(first, last, [_least(kept, first, last - first) or 0.0 for kept in bounds])
        for first, last in itertools.pairwise(cuts)
    ]
