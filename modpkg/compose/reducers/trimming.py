"""Trimming by magnitude: thresholds, and which of several equal values are kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.adapters.formula import UNIT, Error
from modpkg.compose.reducers.bitmap import Bitmap
from modpkg.compose.reducers.reducer import Blocks, Contribution, Doubt
from modpkg.compose.reducers.selection import (
    ALL_DRAWS,
    Drawn,
    RankedMagnitude,
    computed_magnitudes,
    draw,
    kth_largest,
)
from modpkg.compose.reducers.single import ThresholdCut
from modpkg.compose.reducers.stream import draws_at, stream_of
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class TrimBounds(NamedTuple):
    """Which values of a delta are kept."""

    low: float = 0.0
    """Smallest magnitude."""
    low_draws: int | None = None
    """Of the values equal to ``low``, only those are kept whose draw is below this; None: all."""
    high: float = float("inf")
    """Largest magnitude."""
    high_draws: int | None = None
    """As ``low_draws``, for values equal to ``high``; None: there is no largest one."""
    factor: float = 1.0
    """Factor of the kept values."""
    low_exact: Fraction | None = None
    """The smallest magnitude itself, where ``low`` is only next to it."""
    high_exact: Fraction | None = None
    """The largest magnitude itself, where ``high`` is only next to it."""
    stream: int = 0
    """What the draws are of, see `modpkg.compose.reducers.stream.draws_at`."""
    inside: Bitmap | None = None
    """The values that are kept, if it is known which they are."""

    def drawn(self, places: Any, limit: int) -> Any:
        """Return a mask of the flat indices whose draw is below a limit."""
        if limit >= ALL_DRAWS:
            return np.ones(len(places), np.bool_)
        return draws_at(self.stream, places) < np.uint64(limit)


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
    """Return one step's bounds, see `thresholds`.

    Of equal magnitudes at a bound those with the smallest draws stay, so that none of their places
    is preferred. Whether a value of 0 stays makes no difference, and is not drawn for.
    """
    count = blocks.count
    if density >= 1 or not count:
        return TrimBounds()
    wanted = int(density * count)
    if gamma is None and density > 0:
        wanted = max(wanted, 1)  # as in mergekit
    if not wanted:
        return KEEP_NOTHING
    stream = stream_of(0, blocks.keys[index])

    def drawn(found: RankedMagnitude, number: int) -> Drawn:
        if not found.value:
            return Drawn(ALL_DRAWS)
        return draw(partial(blocks.approximate, index), found, number, stream)

    above = min(int((gamma or 0.0) * count), count - wanted)  # density takes precedence
    low = ranked_magnitude(blocks, index, above + wanted)
    high = ranked_magnitude(blocks, index, above) if above else None
    kept = TrimBounds(low.value, low_exact=low.exact)
    inside = above + wanted - low.above
    if high is not None and (high.value, high.exact) == (low.value, low.exact):
        inside = wanted  # of equal values, those with the largest draws are the ones above
    limit = drawn(low, inside)
    if limit.limit < ALL_DRAWS:
        kept = kept._replace(low_draws=limit.limit, stream=stream)
    if high is None and low.value:
        kept = kept._replace(inside=_kept(low, limit))
    if high is not None:
        limit = drawn(high, high.equal - (above - high.above))
        kept = kept._replace(
            high=high.value, high_draws=limit.limit, high_exact=high.exact, stream=stream
        )
    return kept


def _kept(low: RankedMagnitude, drawn: Drawn) -> Bitmap | None:
    """Return what is not smaller than a magnitude, nor dropped by draw; None if it is not known.

    It is made in place of the magnitude's own sets.
    """
    if low.larger is None or low.places is None:
        return None
    if drawn.limit < ALL_DRAWS:
        if drawn.dropped is None:
            return None
        low.places.remove(drawn.dropped)
    low.places.join(low.larger)
    return low.places


def ranked_magnitude(blocks: Blocks, index: int, k: int) -> RankedMagnitude:
    """Return the ``k``-th largest magnitude of one step's delta, k from 1, exactly."""

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    sample = np.abs(blocks.sample(index))
    approximate = partial(blocks.approximate, index)
    found = kth_largest(approximate, magnitudes, sample, k, blocks.count)
    return exactly_ranked(blocks, index, k, found)


def largest_of(
    values: Callable[[], Iterable[Array]], sample: Array, wanted: int, count: int, key: bytes
) -> TrimBounds:
    """Return the bounds that keep the ``wanted`` largest of ``count`` values.

    Args:
        values: Yields non-negative float64 in order, each block flat.
        sample: Some of them.
        key: Selects the draws that decide which of equal values stay.
    """
    if not wanted:
        return KEEP_NOTHING
    approximate = computed_magnitudes(values)
    low = kth_largest(approximate, values, sample, wanted, count)
    stream = stream_of(0, key)
    limit = draw(approximate, low, wanted - low.above, stream).limit
    if limit == ALL_DRAWS:
        return TrimBounds(low.value)
    return TrimBounds(low.value, limit, stream=stream)


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
    above, places = found.above, None if found.places is None else found.places.places()
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
    bitmap = Bitmap(blocks.count)
    bitmap.add_at(equal)
    return RankedMagnitude(
        _up(value),
        above + sum(size > value for size in sizes),
        len(equal),
        bitmap,
        exact=None if Fraction(_up(value)) == value else value,
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
    flat = size.reshape(-1)
    mask = flat < kept.low
    if kept.high_draws is not None:
        mask |= flat > kept.high
    for value, limit in ((kept.low, kept.low_draws), (kept.high, kept.high_draws)):
        if limit is not None and limit < ALL_DRAWS:
            equal = np.flatnonzero(flat == value)
            own = equal + first if places is None else np.asarray(places).take(equal)
            mask[equal[~kept.drawn(own, limit)]] = True
    return mask.reshape(size.shape)


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
    if kept.low_draws is None and kept.high_draws is None:
        values = contribution.delta * (size >= kept.low)
    else:
        outside = dropped(size, kept, contribution.first, contribution.places)
        values = contribution.delta * ~outside
    if kept.factor != 1.0:
        values *= kept.factor
    return values


def threshold_cuts(bounds: Bounds, first: int) -> list[ThresholdCut] | None:
    """Return each step's cut of the elements from flat index ``first`` on.

    None if thresholds alone do not describe the bounds.
    """
    if any(kept.high_draws is not None or kept.factor != 1.0 or kept.low_exact for kept in bounds):
        return None
    return [
        ThresholdCut(kept.low, kept.low_draws, kept.stream, first, kept.inside) for kept in bounds
    ]
