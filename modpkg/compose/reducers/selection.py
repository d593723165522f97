"""The k-th largest magnitude of a tensor that is never in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.numbers import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array
    from modpkg.compose.reducers.reducer import ApproximateMagnitudes

KEPT_ELEMENTS = 1 << 22
"""Most values that are kept aside, before they are counted digit by digit."""

_FEW = 1 << 12
"""Values that are sorted, because finding fewer of them takes as long."""

_BINS = 1 << 11
_DIGITS = (53, 42, 31, 20, 9, 0)
"""Bits of a float64 that remain below each digit; without its sign it grows with its bits."""


class RankedMagnitude(NamedTuple):
    """A magnitude of a given rank."""

    value: float
    above: int
    """How many are larger."""
    equal: int
    """How many are it."""
    places: Any = None
    """Where these are, in order, if that is known."""


def kth_largest(
    rough: Callable[[], Iterable[ApproximateMagnitudes]],
    magnitudes: Callable[[], Iterable[Array]],
    sample: Array,
    k: int,
    count: int,
) -> RankedMagnitude:
    """Return the ``k``-th largest of ``count`` magnitudes (k from 1), exactly.

    A ``sample`` of them gives two bounds that the answer is between, most likely, and of what
    ``rough()`` yields only what may lie between them is looked at, kept and sorted. Where that
    guess was wrong, or too much lies there, digit by digit is counted: of what ``magnitudes()``
    yields, blocks of float64, flat, not negative.
    """
    low, high = _guess(sample, k, count)
    above = before = 0
    # NarrowFloat dtypes have many equal values, and the bounds are among them: these are apart.
    inside, at_low, at_high = _Found(), _Found(), _Found()
    for block, exactly in rough():
        over = block > _beside(high, np.inf, block.dtype)
        above += int(np.count_nonzero(over))
        over ^= block >= _beside(low, -np.inf, block.dtype)
        where = np.flatnonzero(over)
        near = exactly(where)
        where += before
        strictly = near > low
        strictly &= near < high
        if not strictly.all():
            above += int(np.count_nonzero(near > high))
            at_high.add(where, near, near == high)
            if low < high:
                at_low.add(where, near, near == low)
        inside.add(where, near, strictly)
        before += block.size
    if above < k <= above + at_high.count:
        return RankedMagnitude(high, above, at_high.count, at_high.all_places())
    above += at_high.count
    if above < k <= above + inside.count and (places := inside.all_places()) is not None:
        values = np.concatenate(inside.values)
        value = _select(values, k - above)
        equal = np.flatnonzero(values == value)
        more = int(np.count_nonzero(values > value))
        return RankedMagnitude(value, above + more, equal.size, places[equal])
    above += inside.count
    if above < k <= above + at_low.count:
        return RankedMagnitude(low, above, at_low.count, at_low.all_places())
    return _by_digits(magnitudes, k)


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


class _Found:
    """Values and their places, as long as they are not too many."""

    def __init__(self) -> None:
        self.count = 0
        self.values: list[Array] = []
        self._places: list[Any] = []

    def add(self, places: Any, values: Array, chosen: Any) -> None:
        taken = np.flatnonzero(chosen)
        self.count += taken.size
        if self.count > KEPT_ELEMENTS:
            self.values, self._places = [], []
        elif taken.size == values.size:
            self.values.append(values)
            self._places.append(places)
        else:
            self.values.append(values[taken])
            self._places.append(places[taken])

    def all_places(self) -> Any:
        """Return where they are, in order; None if they were too many."""
        return np.concatenate(self._places) if 0 < self.count <= KEPT_ELEMENTS else None


def _beside(bound: float, towards: float, dtype: Any) -> Any:
    """Return a bound for magnitudes that may be a step off what it becomes in their dtype."""
    if dtype == np.float64:
        return bound
    with np.errstate(over="ignore"):  # infinity is beside what is too great for it
        return np.nextafter(dtype.type(bound), dtype.type(towards))


def position(
    rough: Callable[[], Iterable[ApproximateMagnitudes]], ranked: RankedMagnitude, number: int
) -> int:
    """Return the place in all of the ``number``-th (from 1) that is a ranked value."""
    if ranked.places is not None:
        return int(ranked.places[number - 1])
    value, before = ranked.value, 0
    for block, exactly in rough():
        near = block >= _beside(value, -np.inf, block.dtype)
        near &= block <= _beside(value, np.inf, block.dtype)
        found = np.flatnonzero(near)
        found = found[exactly(found) == value]
        if number <= found.size:
            return before + int(found[number - 1])
        number -= found.size
        before += block.size
    raise AssertionError("there are not as many of it")


def _guess(sample: Array, k: int, count: int) -> tuple[float, float]:
    """Return bounds of the k-th largest, far enough apart for rows that differ a good deal."""
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
    """Find it as a radix sort would: from the highest digit on, counting what has each digit."""
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
    # What is left is the rank among those that are equal, and the last count theirs.
    value = float(np.array([prefix], dtype=np.uint64).view(np.float64)[0])
    return RankedMagnitude(value, k - left, int(counts[digit]))
