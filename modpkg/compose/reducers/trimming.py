"""Trimming by magnitude: thresholds, and which of several equal values are kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.reducer import ApproximateMagnitudes, Blocks, Contribution
from modpkg.compose.reducers.selection import kth_largest, position
from modpkg.compose.reducers.single import ThresholdRun
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class TrimBounds(NamedTuple):
    """Which values of a delta are kept."""

    low: float = 0.0
    """Smallest magnitude."""
    low_before: int | None = None
    """Of the values equal to ``low``, only those before this flat index are kept; None: all."""
    high: float = float("inf")
    """Largest magnitude."""
    high_before: int | None = None
    """As ``low_before``, for values equal to ``high``."""
    factor: float = 1.0
    """Factor of the kept values."""


Bounds = Sequence[TrimBounds]
"""One for each step."""
KEEP_NOTHING = TrimBounds(low=float("inf"))


def thresholds(blocks: Blocks, *, rescale: bool = False, **_: Any) -> Bounds:
    """Return each step's bounds, which keep the largest ``density`` of its delta.

    With a step parameter ``gamma`` the largest gamma are dropped first. With ``rescale`` the kept
    values are scaled to the delta's original sum of magnitudes.
    """
    bounds = []
    for index, step in enumerate(blocks.steps):
        kept = bounds_of(blocks, index, **step)
        if rescale and kept not in (TrimBounds(), KEEP_NOTHING):
            before = after = 0.0
            first = 0
            for delta in blocks.deltas(index):
                size = np.abs(delta)
                before += float(size.sum())
                size[_dropped(size, kept, first)] = 0.0
                after += float(size.sum())
                first += size.size
            if min(before, after) >= 1e-7:
                kept = kept._replace(factor=before / after)
        bounds.append(kept)
    return bounds


def bounds_of(blocks: Blocks, index: int, density: float, gamma: float | None = None) -> TrimBounds:
    """Return one step's bounds, see `thresholds`."""
    count = blocks.count
    if density >= 1 or not count:
        return TrimBounds()
    wanted = int(density * count)
    if gamma is None and density > 0:
        wanted = max(wanted, 1)  # as in mergekit
    if not wanted:
        return KEEP_NOTHING
    sample = np.abs(blocks.sample(index))

    def approximate() -> Iterator[ApproximateMagnitudes]:
        return blocks.approximate(index)

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    above = min(int((gamma or 0.0) * count), count - wanted)  # density takes precedence
    low = kth_largest(approximate, magnitudes, sample, above + wanted, count)
    kept = TrimBounds(low.value)
    if (inside := above + wanted - low.above) < low.equal:
        kept = TrimBounds(low.value, low_before=position(approximate, low, inside) + 1)
    if above:
        high = kth_largest(approximate, magnitudes, sample, above, count)
        inside = high.equal - (above - high.above)  # of equal values, the first are kept
        before = position(approximate, high, inside) + 1 if inside else 0
        kept = kept._replace(high=high.value, high_before=before)
    return kept


def _dropped(size: Array, kept: TrimBounds, first: int, places: Any = None) -> Any:
    """Return a mask of the magnitudes that are not kept.

    They are a tensor's from flat index ``first`` on, or at ``places`` if given.
    """
    mask = size < kept.low
    if kept.low_before is not None:
        mask |= (size == kept.low) & _from(size, kept.low_before, first, places)
    if kept.high_before is not None:
        mask |= size > kept.high
        mask |= (size == kept.high) & _from(size, kept.high_before, first, places)
    return mask


def _from(size: Array, place: int, first: int, places: Any) -> Any:
    """Return a mask of the elements at or after a flat index."""
    if places is None:
        places = np.arange(first, first + size.size)
    return (places >= place).reshape(size.shape)


def trimmed(contribution: Contribution, kept: TrimBounds) -> Array:
    """Return the delta with all values outside of the bounds set to 0."""
    if kept == TrimBounds():
        return contribution.delta
    size = np.abs(contribution.delta)
    runs = None
    if kept.high_before is None and contribution.places is None:
        runs = _runs(kept, contribution.first, size.size)
    if runs is not None and len(runs) == 1:
        values = contribution.delta * (size >= runs[0].threshold)
    else:
        dropped = _dropped(size, kept, contribution.first, contribution.places)
        values = contribution.delta * ~dropped
    if kept.factor != 1.0:
        values *= kept.factor
    return values


def _runs(kept: TrimBounds, first: int, size: int) -> list[ThresholdRun]:
    """Return the thresholds of the ``size`` elements from flat index ``first`` on."""
    cut = size if kept.low_before is None else min(max(kept.low_before - first, 0), size)
    above = math.nextafter(kept.low, math.inf)
    runs = [ThresholdRun(0, cut, kept.low), ThresholdRun(cut, size, above)]
    return [run for run in runs if run.start < run.stop]


def threshold_runs(bounds: Bounds, first: int, size: int) -> list[list[ThresholdRun]] | None:
    """Return each step's runs; None if thresholds alone do not describe the bounds."""
    if any(kept.high_before is not None or kept.factor != 1.0 for kept in bounds):
        return None
    return [_runs(kept, first, size) for kept in bounds]
