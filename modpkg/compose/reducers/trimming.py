"""Trimming by magnitude: thresholds, and which of several equal values are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.adapters.formula import UNIT, Error
from modpkg.compose.reducers.reducer import (
    ApproximateMagnitudes,
    Blocks,
    Contribution,
    Doubt,
)
from modpkg.compose.reducers.selection import (
    RankedMagnitude,
    computed_magnitudes,
    kth_largest,
    position,
)
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
    low_exact: Fraction | None = None
    """The smallest magnitude itself, where ``low`` is only next to it."""
    high_exact: Fraction | None = None
    """The largest magnitude itself, where ``high`` is only next to it."""


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
                size[dropped(size, kept, first)] = 0.0
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

    def approximate(bound: float, first: int) -> Iterator[ApproximateMagnitudes]:
        return blocks.approximate(index, bound, first)

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    above = min(int((gamma or 0.0) * count), count - wanted)  # density takes precedence

    def ranked(k: int) -> RankedMagnitude:
        return exactly_ranked(
            blocks, index, k, kth_largest(approximate, magnitudes, sample, k, count)
        )

    low, high = ranked(above + wanted), ranked(above) if above else None
    kept = TrimBounds(low.value, low_exact=low.exact)
    inside = above + wanted - low.above
    if high is not None and (high.value, high.exact) == (low.value, low.exact):
        inside = wanted  # of equal values, the first are kept: those that ``high`` drops are last
    if inside < low.equal:
        kept = kept._replace(low_before=position(approximate, low, inside) + 1)
    if high is not None:
        inside = high.equal - (above - high.above)
        before = position(approximate, high, inside) + 1 if inside else 0
        kept = kept._replace(high=high.value, high_before=before, high_exact=high.exact)
    return kept


def largest_of(
    values: Callable[[], Iterable[Array]], sample: Array, wanted: int, count: int
) -> TrimBounds:
    """Return the bounds that keep the ``wanted`` largest of ``count`` values.

    ``values()`` yields non-negative float64 in order, each block flat; ``sample`` has some of them.
    """
    if not wanted:
        return KEEP_NOTHING
    approximate = computed_magnitudes(values)
    low = kth_largest(approximate, values, sample, wanted, count)
    inside = wanted - low.above
    before = position(approximate, low, inside) + 1 if inside < low.equal else None
    return TrimBounds(low.value, before)


def exactly_ranked(blocks: Blocks, index: int, k: int, found: RankedMagnitude) -> RankedMagnitude:
    """Return the ``k``-th largest of the exact magnitudes, given that of their approximations.

    Rounding is monotone, so the rounded differences of values have the order of the exact ones,
    except that several may have become equal. Sums of products may be off by an absolute error: the
    magnitude is among those within twice that error of the one that was found.
    """
    error = blocks.error(index)
    if error is None or not math.isfinite(found.value):
        return found
    if not math.isfinite(error.absolute):
        error = Error(found.value, 1.0)
    reach = 0.0
    if error.absolute:
        reach = 2.01 * (error.absolute + (error.relative + 4 * UNIT) * found.value)
    elif found.certain or (found.equal == 1 and found.places is None):
        return found
    above, places = found.above, found.places
    if reach or places is None:
        above, places = _beside(blocks, index, found.value, reach)
    if not reach and not blocks.rounds(index, places):
        return found
    exact = [
        abs(blocks.exactly(index, places[start : start + _AT_ONCE]))
        for start in range(0, len(places), _AT_ONCE)
    ]
    if not reach and not any((each - each.ones() * found.value).sign().any() for each in exact):
        return found
    sizes = [size for each in exact for size in each.fractions()]
    value = sorted(sizes, reverse=True)[k - above - 1]
    equal = [place for place, size in zip(places.tolist(), sizes, strict=True) if size == value]
    return RankedMagnitude(
        _up(value),
        above + sum(size > value for size in sizes),
        len(equal),
        np.array(equal),
        None if Fraction(_up(value)) == value else value,
    )


_AT_ONCE = 1 << 13


def _up(value: Fraction) -> float:
    """Return the smallest float64 from a fraction on."""
    nearest = float(value)
    return nearest if nearest >= value else math.nextafter(nearest, math.inf)


def _beside(blocks: Blocks, index: int, value: float, reach: float) -> tuple[int, Any]:
    """Return how many magnitudes are larger than value + reach, and where those within it are."""
    above, before, places = 0, 0, []
    for delta in blocks.deltas(index):
        size = np.abs(delta).reshape(-1)
        over = size > value + reach
        above += int(np.count_nonzero(over))
        near = size >= value - reach
        places.append(np.flatnonzero(near & ~over) + before)
        before += size.size
    return above, np.concatenate(places)


def dropped(size: Array, kept: TrimBounds, first: int, places: Any = None) -> Any:
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


def trimmed(
    contribution: Contribution, kept: TrimBounds, number: int = 0, doubt: Doubt | None = None
) -> Array:
    """Return the delta with all values outside of the bounds set to 0.

    Where its comparisons are not certain is noted in ``doubt``, under the delta's number.
    """
    if kept == TrimBounds():
        return contribution.delta
    size = np.abs(contribution.delta)
    if doubt is not None:
        for threshold in (kept.low, kept.high):
            if math.isfinite(threshold):
                doubt.threshold(number, size, threshold)
    runs = None
    if kept.high_before is None and contribution.places is None:
        runs = _runs(kept, contribution.first, size.size)
    if runs is not None and len(runs) == 1:
        values = contribution.delta * (size >= runs[0].threshold)
    else:
        outside = dropped(size, kept, contribution.first, contribution.places)
        values = contribution.delta * ~outside
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
    if any(kept.high_before is not None or kept.factor != 1.0 or kept.low_exact for kept in bounds):
        return None
    return [_runs(kept, first, size) for kept in bounds]
