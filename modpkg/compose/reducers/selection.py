"""The k-th largest magnitude of a tensor, without loading all of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.bitmap import Bitmap, SomePlaces
from modpkg.compose.reducers.reducer import ApproximateMagnitudes
from modpkg.compose.reducers.stream import draws_at
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

KEPT_ELEMENTS = 1 << 22
"""Maximum number of candidate values in memory; beyond it, a radix selection is used."""

KEPT_BITS = 1 << 28
"""Maximum number of elements of a tensor for which it is kept which are equal: 32 MiB of bits."""

ALL_DRAWS = 1 << 64
"""All draws of a stream are below this number."""
_FEW = 1 << 12
"""So many values are partitioned directly; narrowing them first would take as long."""

_SAMPLE = 1 << 16
"""Values of a tensor, or a few more, that are a sample of it."""

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
    places: Bitmap | None = None
    """The equal ones, if they are known."""
    larger: Bitmap | None = None
    """The larger ones, if they are known."""
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
    ``approximate`` only candidates between the bounds are kept and partitioned. Narrow dtypes have
    many equal values, so that both bounds are often the answer. If bounds were wrong or enclose too
    many values, wider ones are tried, and then a radix selection runs over ``magnitudes()``, flat
    blocks of non-negative float64.
    """
    for low, high in _guesses(sample, k, count):
        if (found := _between(approximate, low, high, k, count)) is not None:
            return found
    return _by_digits(magnitudes, k)


def _between(
    approximate: Approximate, low: float, high: float, k: int, count: int
) -> RankedMagnitude | None:
    """Return the ``k``-th largest of ``count`` magnitudes, if it is between two bounds, which may
    be it."""
    certain = True
    rounded: set[float] = set()
    # Those that are bounds are counted separately, as there may be many.
    above, at_high, at_low = (_Elements(count) for _ in range(3))
    inside = _Candidates()
    for block in approximate(high):
        if block.exact and _same(low, block.values) and _same(high, block.values):
            _sort_exact(block, low, high, above, at_high, inside, at_low)
            rounded.update(block.rounded)
            continue
        certain = False
        values = block.values
        over = values > _beside(high, np.inf, values.dtype)
        above.add(block.first, over)
        over ^= values >= _beside(low, -np.inf, values.dtype)
        where = np.flatnonzero(over)
        near = block.exactly(where)
        where += block.first
        above.add_at(where[near > high])
        at_high.add_at(where[near == high])
        if low < high:
            at_low.add_at(where[near == low])
        strictly = near > low
        strictly &= near < high
        inside.add(where.compress(strictly), near.compress(strictly))
    if above.count < k <= above.count + at_high.count:
        return at_high.ranked(high, above, certain and high not in rounded)
    above.join(at_high)
    found = inside.found()
    if found is not None and above.count < k <= above.count + inside.count:
        value = _select(found.values, k - above.count)
        above.add_at(found.places.compress(found.values > value))
        equal = _Elements(count)
        equal.add_at(found.places.compress(found.values == value))
        return equal.ranked(value, above, certain and value not in rounded)
    above.add_candidates(inside)
    if above.count < k <= above.count + at_low.count:
        return at_low.ranked(low, above, certain and low not in rounded)
    return None


def _same(bound: float, values: Any) -> bool:
    """Return whether a bound is finite and a value of the same dtype."""
    with np.errstate(over="ignore"):
        return bound < np.inf and float(values.dtype.type(bound)) == bound


def _sort_exact(
    block: ApproximateMagnitudes,
    low: float,
    high: float,
    above: _Elements,
    at_high: _Elements,
    inside: _Candidates,
    at_low: _Elements,
) -> None:
    """Sort a block of exact magnitudes into these; its values are overwritten where apart."""
    values, first = block.values, block.first
    kind = values.dtype.type
    apart, own = np.asarray(block.apart, np.int64), np.empty(0)
    if apart.size:
        own = block.exactly(apart)
        values[apart] = np.nan  # in no comparison
    over = values > kind(high)
    above.add(first, _with(over, apart[own > high]))
    at_high.add(first, _with(values == kind(high), apart[own == high]))
    if low < high:
        over[apart] = False
        over ^= values >= kind(low)  # from low to high
        over ^= values == kind(high)
        equal = values == kind(low)
        over ^= equal
        at_low.add(first, _with(equal, apart[own == low]))
        where = np.flatnonzero(over)
        near = values.take(where).astype(np.float64)
        if apart.size:
            inner = (own > low) & (own < high)
            where, near = np.concatenate([where, apart[inner]]), np.concatenate([near, own[inner]])
            order = where.argsort()
            where, near = where[order], near[order]
        inside.add(where + first, near)


def _with(mask: Any, places: Any) -> Any:
    """Return a mask in which some more places are set."""
    if len(places):
        mask[places] = True
    return mask


def _select(values: Array, k: int) -> float:
    """Return the ``k``-th largest of values in memory."""
    while values.size > 2 * _FEW:
        low, high = _bounds(values[:: values.size // _FEW], k, values.size, _FAR)
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


class _Found(NamedTuple):
    """Values and their flat indices, ascending."""

    values: Array
    places: Any


class _Candidates:
    """Values and their flat indices, up to KEPT_ELEMENTS of them."""

    def __init__(self) -> None:
        self.count = 0
        self._values: list[Array] = []
        self._places: list[Any] = []

    def add(self, places: Any, values: Array) -> None:
        """Add some more, in order."""
        self.count += values.size
        if self.count > KEPT_ELEMENTS:
            self._values, self._places = [], []
        else:
            self._values.append(values)
            self._places.append(places)

    def found(self) -> _Found | None:
        """Return all of them; None if there are none, or too many."""
        if not 0 < self.count <= KEPT_ELEMENTS:
            return None
        return _Found(np.concatenate(self._values), np.concatenate(self._places))


class _Elements:
    """Elements of a tensor: how many, and which, if the tensor has at most KEPT_BITS."""

    def __init__(self, count: int) -> None:
        self.count = 0
        self.bitmap = Bitmap(count) if count <= KEPT_BITS else None

    def add(self, first: int, mask: Any) -> None:
        """Add those of a block that a mask has set."""
        self.count += int(np.count_nonzero(mask))
        if self.bitmap is not None:
            self.bitmap.add(first, mask)

    def add_at(self, places: Any) -> None:
        """Add those at some flat indices, ascending."""
        self.count += len(places)
        if self.bitmap is not None:
            self.bitmap.add_at(places)

    def join(self, others: _Elements) -> None:
        """Add other ones."""
        self.count += others.count
        if self.bitmap is not None and others.bitmap is not None:
            self.bitmap.join(others.bitmap)

    def add_candidates(self, candidates: _Candidates) -> None:
        """Add candidates; which they are is known no more if they are too many."""
        if (found := candidates.found()) is not None:
            self.add_at(found.places)
        elif candidates.count:
            self.count += candidates.count
            self.bitmap = None

    def ranked(self, value: float, larger: _Elements, certain: bool) -> RankedMagnitude:
        """Return the magnitude that all of them are."""
        return RankedMagnitude(
            value, larger.count, self.count, self.bitmap, larger.bitmap, certain=certain
        )


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
    dropped: Bitmap | None = None
    """The others; None if there are none, or if it is not known where the equal ones are."""


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
    known = ranked.places
    while True:
        below = 0
        dropped = None if known is None else Bitmap(known.count)
        near, near_places = [], []
        for part in _equal(approximate, ranked.value) if known is None else known.parts():
            draws = draws_at(stream, part.inside + part.first)
            after = draws > np.uint64(last)
            if dropped is not None:
                mask = np.zeros(part.size, np.bool_)
                mask[part.inside] = after
                dropped.add(part.first, mask)
            before = draws < np.uint64(low)
            below += int(np.count_nonzero(before))
            before |= after
            where = np.flatnonzero(np.logical_not(before, out=before))
            near.append(draws.take(where))
            near_places.append(part.inside.take(where) + part.first)
        draws = np.concatenate(near)
        if below < number <= below + draws.size:
            limit = int(np.partition(draws, number - below - 1)[number - below - 1]) + 1
            if dropped is not None:
                dropped.add_at(np.concatenate(near_places).compress(draws >= np.uint64(limit)))
            return Drawn(limit, dropped)
        if (low, last) == (0, ALL_DRAWS - 1):
            raise AssertionError("fewer elements have this value")
        low, last = 0, ALL_DRAWS - 1


def _equal(approximate: Approximate, value: float) -> Iterator[SomePlaces]:
    """Yield the elements whose magnitude is a value, block by block."""
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
        yield SomePlaces(block.first, values.size, equal)


def _guesses(sample: Array, k: int, count: int) -> Iterator[tuple[float, float]]:
    """Yield bounds of the k-th largest, each wider than the one before."""
    with np.errstate(over="ignore"):
        single: Any = sample.astype(np.float32)
    if bool((single == sample).all()):  # takes less time, and has the same values
        sample = single
    low, high = _bounds(sample, k, count, _NEAR)
    if low == high:
        yield low, high
    last = low, high
    for deviations in (_APART, _FAR):
        bounds = _bounds(sample, k, count, deviations)
        if bounds != last:
            yield bounds
        last = bounds


_NEAR, _APART, _FAR = 1.5, 5.0, 12.0
"""Standard deviations of a rank in a sample: within the first a single value is tried, and within
the last are tensors whose rows differ in scale."""


def _bounds(sample: Array, k: int, count: int, deviations: float) -> tuple[float, float]:
    """Return bounds of the k-th largest, from a sample."""
    size = sample.size
    share = k / count
    rank = share * size
    if size >= count:
        if deviations == _FAR:
            return 0.0, math.inf
        value = float(np.partition(sample, size - k)[size - k])
        return value, value
    slack = deviations * (size * share * (1 - share)) ** 0.5 + deviations
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
