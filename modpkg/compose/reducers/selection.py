"""The k-th largest magnitude of a tensor, without loading all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.reducer import ApproximateMagnitudes
from modpkg.compose.reducers.stream import draws_at
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

KEPT_ELEMENTS = 1 << 22
"""Maximum number of candidate values in memory; beyond it, a radix selection is used."""

ALL_DRAWS = 1 << 64
"""All draws of a stream are below this number."""
_FEW = 1 << 12
"""So many values are partitioned directly; narrowing them first would take as long."""

_SAMPLE = 1 << 16
"""Values of a tensor, or a few more, that are a sample of it."""

_PART = 1 << 16
"""Places that are drawn for at once."""

_BINS = 1 << 11
_DIGITS = (53, 42, 31, 20, 9, 0)
"""Bits of a float64 below each radix digit; without the sign, its bits sort like its value."""


class RankedMagnitude(NamedTuple):
    """The magnitude of a given rank."""

    value: float
    above: int
    """Number of larger magnitudes."""
    equal: int
    """Number of equal magnitudes, itself included."""
    places: Any = None
    """Flat indices of the equal ones, ascending, if known."""
    exact: Fraction | None = None
    """The magnitude itself, where ``value`` is only next to it."""
    certain: bool = False
    """Whether every element that is equal is so without rounding."""


Approximate = Callable[[float], "Iterable[ApproximateMagnitudes]"]
"""``approximate(bound)``, see `modpkg.compose.reducers.reducer.Blocks.approximate`."""


def computed_magnitudes(values: Callable[[], Iterable[Array]]) -> Approximate:
    """Return what `kth_largest` takes as ``approximate`` of values that are computed as they are.

    ``values()`` yields non-negative float64 in order, each block flat.
    """

    def approximate(_: float) -> Iterable[ApproximateMagnitudes]:
        before = 0
        for block in values():
            yield ApproximateMagnitudes(before, block, block.__getitem__)
            before += block.size

    return approximate


def sampled(block: Array, count: int) -> Array:
    """Return some of a flat block's values, so that all blocks' are a sample of ``count``."""
    some: Array = block[:: max(1, count // _SAMPLE)].copy()
    return some


def kth_largest(
    approximate: Approximate,
    magnitudes: Callable[[], Iterable[Array]],
    sample: Array,
    k: int,
    count: int,
) -> RankedMagnitude:
    """Return the ``k``-th largest of ``count`` magnitudes (k from 1), exactly.

    A ``sample`` gives two bounds that most likely enclose the answer; of the blocks of
    ``approximate`` only candidates between the bounds are kept and partitioned. If the bounds
    were wrong or enclose too many values, a radix selection runs over ``magnitudes()``, flat
    blocks of non-negative float64.
    """
    low, high = _guess(sample, k, count)
    above, certain = 0, True
    rounded: set[float] = set()
    # Narrow dtypes have many equal values, the bounds among them: those are counted separately.
    inside, at_low, at_high = _Candidates(), _Candidates(), _Candidates()
    for block in approximate(high):
        if block.exact and _same(low, block.values) and _same(high, block.values):
            above += _sort_exact(block, low, high, inside, at_low, at_high)
            rounded.update(block.rounded)
            continue
        certain = False
        values = block.values
        over = values > _beside(high, np.inf, values.dtype)
        above += int(np.count_nonzero(over))
        over ^= values >= _beside(low, -np.inf, values.dtype)
        where = np.flatnonzero(over)
        near = block.exactly(where)
        where += block.first
        strictly = near > low
        strictly &= near < high
        if not strictly.all():
            above += int(np.count_nonzero(near > high))
            at_high.add(where, near, near == high)
            if low < high:
                at_low.add(where, near, near == low)
        inside.add(where, near, strictly)
    if above < k <= above + at_high.count:
        return at_high.ranked(high, above, certain and high not in rounded)
    above += at_high.count
    if above < k <= above + inside.count and (places := inside.all_places()) is not None:
        values = np.concatenate(inside.values)
        value = _select(values, k - above)
        equal = np.flatnonzero(values == value)
        more = int(np.count_nonzero(values > value))
        certain = certain and value not in rounded
        return RankedMagnitude(value, above + more, equal.size, places[equal], certain=certain)
    above += inside.count
    if above < k <= above + at_low.count:
        return at_low.ranked(low, above, certain and low not in rounded)
    return _by_digits(magnitudes, k)


def _same(bound: float, values: Any) -> bool:
    """Return whether a bound is finite and a value of the same dtype."""
    with np.errstate(over="ignore"):
        return bound < np.inf and float(values.dtype.type(bound)) == bound


def _sort_exact(
    block: ApproximateMagnitudes,
    low: float,
    high: float,
    inside: _Candidates,
    at_low: _Candidates,
    at_high: _Candidates,
) -> int:
    """Add a block of exact magnitudes to candidates; return how many are larger than ``high``."""
    values = block.values
    kind = values.dtype.type
    apart = np.asarray(block.apart, np.int64)
    values[apart] = np.nan  # in no comparison
    own = block.exactly(apart)
    over, from_high = values > kind(high), values >= kind(high)
    above = int(np.count_nonzero(over))
    over ^= from_high
    at_high.add_equal(block, np.flatnonzero(over), apart[own == high])
    if low < high:
        beyond, from_low = values > kind(low), values >= kind(low)
        from_low ^= beyond
        at_low.add_equal(block, np.flatnonzero(from_low), apart[own == low])
        beyond ^= from_high
        where = np.flatnonzero(beyond)
        near = values.take(where).astype(np.float64)
        if apart.size:
            inner = (own > low) & (own < high)
            where, near = np.concatenate([where, apart[inner]]), np.concatenate([near, own[inner]])
            order = where.argsort()
            where, near = where[order], near[order]
        where += block.first
        inside.add(where, near, None)
    if apart.size:
        above += int(np.count_nonzero(own > high))
    return above


def _select(values: Array, k: int) -> float:
    """Return the ``k``-th largest of values in memory."""
    while values.size > 2 * _FEW:
        low, high = _guess(values[:: values.size // _FEW], k, values.size)
        over = values >= high
        above = int(np.count_nonzero(over))
        if k <= above:
            if k > int(np.count_nonzero(values > high)):
                return high
            break
        over |= values <= low
        inside = values[~over]
        if k > above + inside.size:
            if k <= above + inside.size + int(np.count_nonzero(values == low)):
                return low
            break
        if inside.size == values.size:
            break
        values, k = inside, k - above
    place = values.size - k  # numpy counts from the smallest
    return float(np.partition(values, place)[place])


class _Candidates:
    """Values and their flat indices, up to KEPT_ELEMENTS of them."""

    def __init__(self) -> None:
        self.count = 0
        self.values: list[Array] = []
        self._places: list[Any] = []

    def add(self, places: Any, values: Array, chosen: Any) -> None:
        """Add the values that a mask chooses; all if it is None."""
        if chosen is not None:
            selected = np.flatnonzero(chosen)
            if selected.size < values.size:
                places, values = places.take(selected), values.take(selected)
        self.count += values.size
        if self.count > KEPT_ELEMENTS:
            self.values, self._places = [], []
        else:
            self.values.append(values)
            self._places.append(places)

    def add_equal(self, block: ApproximateMagnitudes, places: Any, others: Any) -> None:
        """Add places in a block, those of its inexact values apart, where all values are equal."""
        if others.size:
            places = np.union1d(places, others)
        places += block.first
        self.add(places, places, None)

    def all_places(self) -> Any:
        """Return the indices, ascending; None if there are none, or too many."""
        return np.concatenate(self._places) if 0 < self.count <= KEPT_ELEMENTS else None

    def ranked(self, value: float, above: int, certain: bool) -> RankedMagnitude:
        """Return the magnitude that all of them are."""
        return RankedMagnitude(value, above, self.count, self.all_places(), certain=certain)


def _beside(bound: float, towards: float, dtype: Any) -> Any:
    """Return ``bound`` in a dtype, moved one unit in the last place where the dtype is inexact."""
    if dtype == np.float64:
        return bound
    with np.errstate(over="ignore"):  # a bound too large for the dtype becomes infinity
        return np.nextafter(dtype.type(bound), dtype.type(towards))


class Drawn(NamedTuple):
    """Which of equal values stay: those with the smallest draws."""

    limit: int
    """The draws of those that stay are below it."""
    dropped: Any = None
    """Flat indices of the others, ascending; None if they are not known."""


def draw(approximate: Approximate, ranked: RankedMagnitude, number: int, stream: int) -> Drawn:
    """Return which ``number`` of the elements stay that are equal to a ranked value.

    The draws are those of a stream, see `draws_at`.
    """
    if number >= ranked.equal:
        return Drawn(ALL_DRAWS)
    if number <= 0:
        return Drawn(0)
    # Draws are spread evenly, which tells where the limit is, up to twelve standard deviations.
    slack = 12 * math.isqrt(number * (ranked.equal - number) // ranked.equal) + 16
    low = max(0, (number - slack << 64) // ranked.equal)
    last = min(ALL_DRAWS, (number + slack << 64) // ranked.equal) - 1
    while True:
        below, inside, late = 0, [], []
        for places in _placed(ranked) or _equal(approximate, ranked.value):
            draws = draws_at(stream, places)
            if ranked.places is not None:
                after = draws >= np.uint64(low)
                late.append((places[after], draws[after]))
            before = draws < np.uint64(low)
            below += int(np.count_nonzero(before))
            inside.append(draws[(draws <= np.uint64(last)) ^ before])
        near = np.concatenate(inside)
        if below < number <= below + near.size:
            limit = _ranked_draw(near, number - below)
            dropped = [places[draws >= np.uint64(limit)] for places, draws in late]
            return Drawn(limit, np.concatenate(dropped) if dropped else None)
        if (low, last) == (0, ALL_DRAWS - 1):
            raise AssertionError("fewer elements have this value")
        low, last = 0, ALL_DRAWS - 1


def _ranked_draw(draws: Any, number: int) -> int:
    return int(np.partition(draws, number - 1)[number - 1]) + 1


def _placed(ranked: RankedMagnitude) -> list[Any]:
    """Return the places of equal magnitudes in parts; none if they are not known."""
    places = () if ranked.places is None else ranked.places
    return [places[first : first + _PART] for first in range(0, len(places), _PART)]


def _equal(approximate: Approximate, value: float) -> Iterator[Any]:
    """Yield the flat indices of the elements whose magnitude is a value."""
    for block in approximate(value):
        values = block.values
        if block.exact and _same(value, values):
            apart = np.asarray(block.apart, np.int64)
            near = values == values.dtype.type(value)
            near[apart] = block.exactly(apart) == value
            equal = np.flatnonzero(near)
        else:
            near = values >= _beside(value, -np.inf, values.dtype)
            near &= values <= _beside(value, np.inf, values.dtype)
            equal = np.flatnonzero(near)
            equal = equal[block.exactly(equal) == value]
        yield equal + block.first


def _guess(sample: Array, k: int, count: int) -> tuple[float, float]:
    """Return bounds of the k-th largest, wide enough for tensors whose rows differ in scale."""
    size = sample.size
    if size >= count:
        return 0.0, float("inf")
    share = k / count
    rank, slack = share * size, 12 * (size * share * (1 - share)) ** 0.5 + 16
    upper, lower = int(rank - slack), int(rank + slack)
    wanted = [size - 1 - place for place in (upper, lower) if 0 <= place < size]
    values = np.partition(sample, wanted) if wanted else sample
    high = float(values[size - 1 - upper]) if rank >= slack else float("inf")
    low = float(values[size - 1 - lower]) if lower < size else 0.0
    return low, high


def _by_digits(magnitudes: Callable[[], Iterable[Array]], k: int) -> RankedMagnitude:
    """Return the k-th largest by radix selection: count digits from the highest down."""
    prefix, left, before = 0, k, 64
    for shift in _DIGITS:
        counts = np.zeros(_BINS, dtype=np.int64)
        for block in magnitudes():
            bits = block.view(np.uint64)
            if before < 64:
                bits = bits[(bits >> np.uint64(before)) == prefix]
            mask = (1 << (before - shift)) - 1 if before < 64 else _BINS - 1
            digits = (bits >> np.uint64(shift)) & np.uint64(mask)
            counts += np.bincount(digits.astype(np.int64), minlength=_BINS)
        from_top = counts[::-1].cumsum()
        position = int(from_top.searchsorted(left))
        left -= int(from_top[position - 1]) if position else 0
        digit = _BINS - 1 - position
        width = before - shift if before < 64 else 11
        prefix, before = (prefix << width) | digit, shift
    # `left` is now the rank among equal values, and the last count is their number.
    value = float(np.array([prefix], dtype=np.uint64).view(np.float64)[0])
    return RankedMagnitude(value, k - left, int(counts[digit]))
