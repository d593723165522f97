"""Disjoint merges of fine-tunes, decided by signs: what most results next to a tie need.

    X = b + λ · Σ w_i · d_i / D,   over the d_i = x_i − b that are kept and have the elected sign

For the elements that agree on which these are, that is a weighted sum, see `modpkg.compose.sums`.
Differences that are exact in float64 have certain comparisons with thresholds, and the sign of
Σ w_i · d_i is that of a sum of products that are exact in float64.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from modpkg.compose.arrays import Array, Stored, in_double
from modpkg.compose.composition import Term
from modpkg.compose.reducers.trimming import Bounds, TrimBounds
from modpkg.compose.sums import DecidedSum, Sum, off, sign_of, sum_in_parts

_METHODS = frozenset(["ties-mergekit", "ties-peft", "ties"])

_MOST_TERMS = 4
"""Elements are sorted into 2^n kinds."""


class Disjoint(NamedTuple):
    """A disjoint merge, exact."""

    weights: list[Fraction]
    """w_i, all positive."""
    votes: list[Fraction]
    """What the d_i are multiplied with, to elect the sign."""
    divide: str
    """``weights``, ``count`` or nothing, as of `modpkg.compose.reducers.sparsified`."""
    factor: Fraction
    """λ > 0."""

    def sum_over(self, kind: int) -> Sum:
        """Return the weighted sum over the differences whose bits are set in ``kind``."""
        inside = [bool(kind >> number & 1) for number in range(len(self.weights))]
        divisor = Fraction(1)
        if self.divide:
            each = self.weights if self.divide == "weights" else [Fraction(1)] * len(inside)
            divisor = sum((w for w, chosen in zip(each, inside, strict=True) if chosen), Fraction())
        chosen = [w for w, chosen in zip(self.weights, inside, strict=True) if chosen]
        return Sum(divisor, [self.factor * weight for weight in chosen])


def _disjoint(method: str, scales: Sequence[float], settings: Mapping[str, Any]) -> Disjoint | None:
    """Return what a method computes, see `modpkg.compose.reducers.exactly`; or None."""
    weights = [Fraction(scale) for scale in scales]
    ones = [Fraction(1)] * len(weights)
    if method == "ties-mergekit":
        divide = "weights" if settings["normalize"] else ""
        return Disjoint(weights, weights, divide, Fraction(settings["lambda"]))
    if method == "ties-peft" and settings["majority_sign"] == "total":
        return Disjoint(weights, ones, "count", Fraction(1))
    if method == "ties":
        return Disjoint(weights, ones, "count", Fraction(settings["lambda"]))
    return None


class DecidedMerge:
    """A disjoint merge of fine-tunes, bfloat16 or float16, from the side of a tie it is on."""

    def __init__(
        self,
        votes: Sequence[Sequence[float]],
        sums: Mapping[int, DecidedSum],
        bounds: Bounds,
    ) -> None:
        """Bind a method: the weights of its votes in parts, and its sum of each kind."""
        self._votes, self._sums, self._bounds = votes, sums, bounds

    def at(self, base: Stored, others: Sequence[Stored], places: Any) -> tuple[Stored, Any]:
        """Return the results and a mask of those that are certain.

        Args:
            base: As stored, flat, and ``others`` alike.
            places: The flat index of each element in the tensor.
        """
        start, *ends = (in_double(each) for each in (base, *others))
        certain = start != 0
        kept = []
        for end, bounds in zip(ends, self._bounds, strict=True):
            difference = end - start
            certain &= off(end, -start, difference) == 0
            certain &= difference.astype(np.float32) == difference
            kept.append(np.where(_inside(difference, bounds, places), difference, 0.0))
        positive, known = self._elected(kept)
        certain &= known
        kinds = np.zeros(start.size, np.uint8)
        for number, difference in enumerate(kept):
            agrees = (difference > 0) & positive | (difference < 0) & ~positive
            kinds |= agrees.astype(np.uint8) << np.uint8(number)
        stored = base.copy()
        for kind, total in self._sums.items():
            where = np.flatnonzero(kinds == kind)
            if where.size:
                own = [end.take(where) for number, end in enumerate(others) if kind >> number & 1]
                results, sure = total.at(base.take(where), own)
                stored[where] = results
                certain[where] &= sure
        return stored, certain

    def _elected(self, kept: Sequence[Array]) -> tuple[Any, Any]:
        """Return masks: where the sign is positive, as it is of a sum of 0; and if that is certain.

        Only where differences of both signs are kept is there something to elect.
        """
        some = np.zeros(kept[0].size, np.bool_)
        none, known = some.copy(), ~some
        for difference in kept:
            some |= difference > 0
            none |= difference < 0
        mixed = np.flatnonzero(some & none)
        positive = ~none
        if mixed.size:
            sign, sure = sign_of([each.take(mixed) for each in kept], self._votes)
            positive[mixed], known[mixed] = sign >= 0, sure
        return positive, known


def _inside(difference: Array, bounds: TrimBounds, places: Any) -> Any:
    """Return a mask of the values that are kept."""
    size = np.abs(difference)
    inside = size >= bounds.low
    if bounds.low_draws is not None:
        equal = np.flatnonzero(size == bounds.low)
        inside[equal] = bounds.drawn(places.take(equal), bounds.low_draws)
    return inside


def decided_merge(
    method: str, terms: Sequence[Term], settings: Mapping[str, Any], bounds: Bounds, dtype: str
) -> DecidedMerge | None:
    """Return what a method computes of fine-tunes; None if it is no disjoint merge, or a rare one.

    All parameters are finite.
    """
    if method not in _METHODS:
        return None
    if any(each.low_exact or each.high_draws is not None or each.factor != 1.0 for each in bounds):
        return None
    scales = tuple(term.scale for term in terms)
    parts = _parts_of(method, scales, tuple(sorted(settings.items())), dtype)
    return None if parts is None else DecidedMerge(*parts, bounds)


@functools.lru_cache(maxsize=64)  # most tensors of a model have the same weights
def _parts_of(
    method: str, scales: Sequence[float], settings: Sequence[tuple[str, Any]], dtype: str
) -> tuple[Sequence[Sequence[float]], Mapping[int, DecidedSum]] | None:
    """Return the weights of a method's votes in parts, and its sum of each kind."""
    merge = _disjoint(method, scales, dict(settings))
    if merge is None or len(scales) > _MOST_TERMS or min(*merge.weights, merge.factor) <= 0:
        return None
    votes = Sum(Fraction(1), merge.votes).parts()
    sums = {
        kind: sum_in_parts(merge.sum_over(kind), dtype)
        for kind in range(1, 1 << len(merge.weights))
    }
    found = {kind: total for kind, total in sums.items() if total is not None}
    if votes is None or len(found) < len(sums):
        return None
    return votes[1:], found
