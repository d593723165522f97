"""SCE: of fine-tunes, select what differs most, weigh models by their changes, erase minorities."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from modpkg.compose.reducers.reducer import Blocks, Contribution, reducer
from modpkg.compose.reducers.selection import sampled
from modpkg.compose.reducers.sparsified import disjoint_merge
from modpkg.compose.reducers.trimming import TrimBounds, dropped, largest_of
from modpkg.compose.reducers.weighted import add_scaled
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class Selected(NamedTuple):
    """What is measured over a tensor."""

    kept: TrimBounds
    """Of the values of `spread`: those whose elements are selected."""
    weights: Sequence[float]
    """One for each step; they sum to 1."""


def spread(contributions: Sequence[Contribution]) -> Array:
    """Return n times the variance of the deltas, [rows, columns]; exactly 0 where all are equal."""
    first = contributions[0].delta
    apart = [contribution.delta - first for contribution in contributions[1:]]
    mean = np.zeros(first.shape)
    for each in apart:
        mean += each
    mean /= len(contributions)
    total = mean * mean
    for each in apart:
        each -= mean
        each *= each
        total += each
    return total


def measured(blocks: Blocks, *, select_topk: float, equal_below: float) -> Selected:
    """Return what is selected of a tensor, and each step's share in the sum of squares of it."""
    kept = _selection(blocks, select_topk)
    squares = [0.0] * len(blocks.steps)
    first = 0
    for base, contributions in blocks():
        outside = None
        if kept != TrimBounds():
            outside = dropped(spread(contributions), kept, first)
        for number, contribution in enumerate(contributions):
            square = contribution.delta * contribution.delta
            if outside is not None:
                square[outside] = 0.0
            squares[number] += float(square.sum())
        first += base.size
    means = [each / max(blocks.count, 1) for each in squares]
    total = math.fsum(means)
    if total < equal_below or not total:
        return Selected(kept, [1 / len(means)] * len(means))
    return Selected(kept, [mean / total for mean in means])


def _selection(blocks: Blocks, share: float) -> TrimBounds:
    """Return what keeps the largest ``share`` of those spreads that are not 0."""
    if share >= 1:
        return TrimBounds()

    def spreads() -> Iterator[Array]:
        return (spread(contributions).reshape(-1) for _, contributions in blocks())

    different, sample = 0, [np.empty(0)]
    for block in spreads():
        different += int(np.count_nonzero(block))
        sample.append(sampled(block, blocks.count))
    wanted = int(share * different)
    key = b"".join(blocks.keys)
    return largest_of(spreads, np.concatenate(sample), wanted, blocks.count, key)


@reducer(
    "sce",
    steps=(1, None),
    weighted=False,
    measure=measured,
    bounds={"select_topk": (0.0, 1.0), "equal_below": (0.0, math.inf)},
)
def sce(
    base: Array,
    contributions: Sequence[Contribution],
    selected: Selected,
    *,
    select_topk: float = 1.0,
    equal_below: float = 1e-6,
) -> Array:
    """``sce``: Select, Calculate, Erase.

        base + Σ w_i · delta_i / Σ w_i,   over the deltas that have the sign of Σ delta_i

    Selected are the elements with the largest variance over the deltas, the share select_topk of
    those where it is not 0; elsewhere the base is left alone. w_i is delta_i's share in the sum of
    squares of what is selected, per tensor. As in the authors' code, weights are equal where the
    mean squares sum to less than equal_below; the paper has no such bound (0). Wan et al. 2024,
    https://arxiv.org/abs/2408.07990.
    """
    parts = [contribution.delta for contribution in contributions]
    if selected.kept != TrimBounds():
        inside = ~dropped(spread(contributions), selected.kept, contributions[0].first)
        parts = [part * inside for part in parts]
    return add_scaled(
        base, disjoint_merge(parts, selected.weights, votes="total", divide="weights")
    )
