"""What is kept of a change by its magnitude: thresholds, and which of equal values are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.numbers import np
from modpkg.compose.reducers.reducer import ApproximateMagnitudes, Blocks, Contribution
from modpkg.compose.reducers.selection import kth_largest, position
from modpkg.compose.reducers.single import Piece

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class TrimBounds(NamedTuple):
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


Bounds = Sequence[TrimBounds]
NONE = TrimBounds(low=float("inf"))
"""Nothing is kept."""


def thresholds(blocks: Blocks, *, rescale: bool = False, **_: Any) -> Bounds:
    """Return what is kept of each change: the ``density`` of it that is largest.

    With a parameter ``gamma`` the largest gamma of all are left out first. With ``rescale`` what
    is kept is brought to the sum of magnitudes that all had.
    """
    found = []
    for index, step in enumerate(blocks.steps):
        kept = kept_of(blocks, index, **step)
        if rescale and kept not in (TrimBounds(), NONE):
            before = after = 0.0
            first = 0
            for delta in blocks.deltas(index):
                size = np.abs(delta)
                before += float(size.sum())
                size[_left_out(size, kept, first)] = 0.0
                after += float(size.sum())
                first += size.size
            if min(before, after) >= 1e-7:
                kept = kept._replace(factor=before / after)
        found.append(kept)
    return found


def kept_of(blocks: Blocks, index: int, density: float, gamma: float | None = None) -> TrimBounds:
    """Return what is kept of one change: its parameters are as `thresholds` has them."""
    count = blocks.count
    if density >= 1 or not count:
        return TrimBounds()
    wanted = int(density * count)
    if gamma is None and density > 0:
        wanted = max(wanted, 1)  # as mergekit has it
    if not wanted:
        return NONE
    sample = np.abs(blocks.sample(index))

    def rough() -> Iterator[ApproximateMagnitudes]:
        return blocks.rough(index)

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    above = min(int((gamma or 0.0) * count), count - wanted)  # the density is kept to
    low = kth_largest(rough, magnitudes, sample, above + wanted, count)
    kept = TrimBounds(low.value)
    if (inside := above + wanted - low.above) < low.equal:
        kept = TrimBounds(low.value, low_before=position(rough, low, inside) + 1)
    if above:
        high = kth_largest(rough, magnitudes, sample, above, count)
        inside = high.equal - (above - high.above)  # of the equal ones, the first stay
        before = position(rough, high, inside) + 1 if inside else 0
        kept = kept._replace(high=high.value, high_before=before)
    return kept


def _left_out(size: Array, kept: TrimBounds, first: int, places: Any = None) -> Any:
    """Return where magnitudes are not kept.

    They are those of a tensor from ``first`` on, or at ``places``, if these are given.
    """
    found = size < kept.low
    if kept.low_before is not None:
        found |= (size == kept.low) & _from(size, kept.low_before, first, places)
    if kept.high_before is not None:
        found |= size > kept.high
        found |= (size == kept.high) & _from(size, kept.high_before, first, places)
    return found


def _from(size: Array, place: int, first: int, places: Any) -> Any:
    """Return what is at a place or after it."""
    if places is None:
        places = np.arange(first, first + size.size)
    return (places >= place).reshape(size.shape)


def by_magnitude(change: Contribution, kept: TrimBounds) -> Array:
    """Return the change with what is not kept at 0."""
    if kept == TrimBounds():
        return change.delta
    size = np.abs(change.delta)
    pieces = None
    if kept.high_before is None and change.places is None:
        pieces = _pieces(kept, change.first, size.size)
    if pieces is not None and len(pieces) == 1:
        found = change.delta * (size >= pieces[0].least)
    else:
        found = change.delta * ~_left_out(size, kept, change.first, change.places)
    if kept.factor != 1.0:
        found *= kept.factor
    return found


def _pieces(kept: TrimBounds, first: int, size: int) -> list[Piece]:
    """Return which magnitudes are kept of so many from a first on."""
    cut = size if kept.low_before is None else min(max(kept.low_before - first, 0), size)
    above = math.nextafter(kept.low, math.inf)
    pieces = [Piece(0, cut, kept.low), Piece(cut, size, above)]
    return [piece for piece in pieces if piece.start < piece.stop]


def pieces(bounds: Bounds, first: int, size: int) -> list[list[Piece]] | None:
    """Return them for each change; None where they do not say all."""
    if any(kept.high_before is not None or kept.factor != 1.0 for kept in bounds):
        return None
    return [_pieces(kept, first, size) for kept in bounds]
