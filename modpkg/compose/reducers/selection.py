"""The k-th largest magnitude of a tensor that is never in memory whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

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
    magnitudes: Callable[[], Iterable[Tensor]], sample: Tensor, k: int, count: int
) -> Ranked:
    """Return the ``k``-th largest of ``count`` magnitudes (k from 1), exactly.

    ``magnitudes()`` yields blocks of them: float64, flat, not negative. It is mostly called once:
    a ``sample`` of them gives two bounds that the answer is between, most likely, and only what
    lies between them is kept and sorted. Where that guess was wrong, digit by digit is counted.
    """
    import torch

    low, high = _guess(sample, k, count)
    above = equal_high = equal_low = 0
    kept = []
    for block in magnitudes():
        over = block > high
        above += int(over.count_nonzero())
        near = block[(block >= low).logical_xor_(over)]
        # Narrow dtypes have many equal values, and the bounds are among them: these are counted.
        inside = near[(near > low) & (near < high)]
        if inside.numel() < near.numel():
            equal_high += int((near == high).count_nonzero())
            equal_low += int((near == low).count_nonzero()) if low < high else 0
        kept.append(inside)
    between = sum(part.numel() for part in kept)
    if above < k <= above + equal_high:
        return Ranked(high, above, equal_high)
    above += equal_high
    if above < k <= above + between:
        values = torch.cat(kept)
        # torch counts from the smallest.
        value = float(values.kthvalue(between - (k - above) + 1).values)
        return Ranked(value, above + int((values > value).sum()), int((values == value).sum()))
    above += between
    if above < k <= above + equal_low:
        return Ranked(low, above, equal_low)
    return _by_digits(magnitudes, k)


def position(magnitudes: Callable[[], Iterable[Tensor]], value: float, number: int) -> int:
    """Return the place in all of the ``number``-th (from 1) that is ``value``."""
    before = 0
    for block in magnitudes():
        found = (block == value).nonzero()
        if number <= found.numel():
            return before + int(found[number - 1])
        number -= found.numel()
        before += block.numel()
    raise AssertionError("there are not as many of it")


def _guess(sample: Tensor, k: int, count: int) -> tuple[float, float]:
    """Return bounds of the k-th largest, far enough apart for rows that differ a good deal."""
    size = sample.numel()
    if size >= count:
        return 0.0, float("inf")
    values = sample.sort(descending=True).values
    share = k / count
    rank, slack = share * size, 12 * (size * share * (1 - share)) ** 0.5 + 16
    high = float(values[int(rank - slack)]) if rank >= slack else float("inf")
    low = float(values[int(rank + slack)]) if rank + slack < size else 0.0
    return low, high


def _by_digits(magnitudes: Callable[[], Iterable[Tensor]], k: int) -> Ranked:
    """Find it as a radix sort would: from the highest digit on, counting what has each digit."""
    import torch

    prefix, left, before = 0, k, 64
    for shift in _DIGITS:
        counts = torch.zeros(_BINS, dtype=torch.int64)
        for block in magnitudes():
            bits = block.view(torch.int64)
            if before < 64:
                bits = bits[(bits >> before) == prefix]
            digits = (bits >> shift) & ((1 << (before - shift)) - 1 if before < 64 else _BINS - 1)
            counts += torch.bincount(digits, minlength=_BINS)
        from_top = counts.flip(0).cumsum(0)
        position = int((from_top >= left).nonzero()[0])
        left -= int(from_top[position - 1]) if position else 0
        digit = _BINS - 1 - position
        width = before - shift if before < 64 else 11
        prefix, before = (prefix << width) | digit, shift
    # What is left is the rank among those that are equal, and the last count theirs.
    value = float(torch.tensor([prefix], dtype=torch.int64).view(torch.float64))
    return Ranked(value, k - left, int(counts[digit]))
