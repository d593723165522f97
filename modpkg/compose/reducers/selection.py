"""The k-th largest magnitude of a tensor that is never in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from modpkg.compose.reducers.numbers import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

KEPT_ELEMENTS = 1 << 22
"""Most values that are kept aside, before they are counted digit by digit."""

_BINS = 1 << 11
_DIGITS = (53, 42, 31, 20, 9, 0)
"""Bits of a float64 that remain below each digit; without its sign it grows with its bits."""


class Ranked(NamedTuple):
    """A magnitude of a given rank."""

    value: float
    above: int
    """How many are larger."""
    equal: int
    """How many are it."""


def kth_largest(
    magnitudes: Callable[[], Iterable[Array]], sample: Array, k: int, count: int
) -> Ranked:
    """Return the ``k``-th largest of ``count`` magnitudes (k from 1), exactly.

    ``magnitudes()`` yields blocks of them: float64, flat, not negative. It is mostly called once:
    a ``sample`` of them gives two bounds that the answer is between, most likely, and only what
    lies between them is kept and sorted. Where that guess was wrong, or too much lies there, digit
    by digit is counted.
    """
    low, high = _guess(sample, k, count)
    above = equal_high = equal_low = between = 0
    kept = []
    for block in magnitudes():
        over = block > high
        above += int(np.count_nonzero(over))
        over ^= block >= low
        near = block[over]
        # Narrow dtypes have many equal values, and the bounds are among them: these are counted.
        inside = near[(near > low) & (near < high)]
        if inside.size < near.size:
            equal_high += int(np.count_nonzero(near == high))
            equal_low += int(np.count_nonzero(near == low)) if low < high else 0
        between += inside.size
        if between <= KEPT_ELEMENTS:
            kept.append(inside)
    if above < k <= above + equal_high:
        return Ranked(high, above, equal_high)
    above += equal_high
    if above < k <= above + between and between <= KEPT_ELEMENTS:
        values = np.concatenate(kept)
        place = between - (k - above)  # numpy counts from the smallest
        value = float(np.partition(values, place)[place])
        more, equal = (int(np.count_nonzero(found)) for found in (values > value, values == value))
        return Ranked(value, above + more, equal)
    above += between
    if above < k <= above + equal_low:
        return Ranked(low, above, equal_low)
    return _by_digits(magnitudes, k)


def position(magnitudes: Callable[[], Iterable[Array]], value: float, number: int) -> int:
    """Return the place in all of the ``number``-th (from 1) that is ``value``."""
    before = 0
    for block in magnitudes():
        found = np.flatnonzero(block == value)
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
    values = np.sort(sample)[::-1]
    share = k / count
    rank, slack = share * size, 12 * (size * share * (1 - share)) ** 0.5 + 16
    high = float(values[int(rank - slack)]) if rank >= slack else float("inf")
    low = float(values[int(rank + slack)]) if rank + slack < size else 0.0
    return low, high


def _by_digits(magnitudes: Callable[[], Iterable[Array]], k: int) -> Ranked:
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
    return Ranked(value, k - left, int(counts[digit]))
