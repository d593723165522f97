"""Reinforced Agent Merging: changes of one model alone are kept whole, shared ones are averaged.

Reinforcement learning changes few values, and other ones in each model; a mean over all models
would dilute them. Yuan et al. 2026, https://arxiv.org/abs/2601.13572.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modpkg.adapters.formula import UNIT, Error
from modpkg.compose.reducers import exactly
from modpkg.compose.reducers.reducer import Blocks, Contribution, Doubt, reducer
from modpkg.compose.reducers.weighted import add_scaled
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array

Counts = list[list[int]]
"""For each step, how many of its changes another step shares, and how many are its own alone."""

_STEP = {"epsilon": 1e-5}
_LIMITS = {"epsilon": (0.0, math.inf), "alpha": (0.0, math.inf)}
_AT_ONCE = 1 << 13


def mean_of_changes(
    contributions: Sequence[Contribution],
    boosts: Sequence[float] | None = None,
    doubt: Doubt | None = None,
) -> Array:
    """Return the mean of each value's changes, which are the deltas larger than their ``epsilon``.

    A change that is the only one of its value is multiplied by its delta's boost, if there are
    some. Comparisons that are not certain are noted in ``doubt``.
    """
    masks = []
    for number, contribution in enumerate(contributions):
        size, epsilon = np.abs(contribution.delta), contribution.parameters["epsilon"]
        masks.append(size > epsilon)
        if doubt is not None and epsilon:
            doubt.threshold(number, size, epsilon)
    if doubt is not None and not all(c.parameters["epsilon"] for c in contributions):
        doubt.signs([contribution.delta for contribution in contributions])
    count = _count(masks)
    alone = count == 1
    total = np.zeros(count.shape)
    for number, (contribution, mask) in enumerate(zip(contributions, masks, strict=True)):
        change = contribution.delta * mask
        if boosts is not None:
            change[alone] *= boosts[number]
        total += change
    total /= np.maximum(count, 1)
    return total


def _count(masks: Sequence[Any]) -> Any:
    """Return how many of the masks are set, element by element."""
    count = np.zeros(masks[0].shape, np.int64)
    for mask in masks:
        count += mask
    return count


def counted(blocks: Blocks, **_: Any) -> Counts:
    """Return how many changes of each step are shared, and how many are not; exactly."""
    steps = range(len(blocks.steps))
    errors = [blocks.error(index) for index in steps]
    counts = [[0, 0] for _ in steps]
    first = 0
    for base, contributions in blocks():
        masks = [
            _changed(blocks, index, contributions[index].delta, first, errors[index])
            for index in steps
        ]
        alone = _count(masks) == 1
        for each, mask in zip(counts, masks, strict=True):
            own = int(np.count_nonzero(mask & alone))
            each[0] += int(np.count_nonzero(mask)) - own
            each[1] += own
        first += base.size
    return counts


def _changed(blocks: Blocks, index: int, delta: Array, first: int, error: Error | None) -> Any:
    """Return a mask of a delta's changes; those next to ``epsilon`` are computed exactly."""
    epsilon = blocks.steps[index]["epsilon"]
    size = np.abs(delta).reshape(-1)
    mask = size > epsilon
    if error is None:
        return mask
    reach = error.absolute + (error.relative + 4 * UNIT) * epsilon
    if reach:  # whether a difference of values is 0 is certain
        near = np.flatnonzero(np.abs(size - epsilon) <= reach * 1.001)
        for start in range(0, near.size, _AT_ONCE):
            some = near[start : start + _AT_ONCE]
            mask[some] = exactly.changed(blocks.exactly(index, some + first), epsilon)
    return mask


@reducer("ram", exact=exactly.RAM, step=_STEP, weighted=False, bounds=_LIMITS)
def ram(base: Array, contributions: Sequence[Contribution], doubt: Doubt | None = None) -> Array:
    """``ram``: base + the mean of those deltas that are larger than epsilon, value by value.

    Yuan et al. 2026, https://arxiv.org/abs/2601.13572.
    """
    return add_scaled(base, mean_of_changes(contributions, doubt=doubt))


def _ram_plus(
    base: Array,
    contributions: Sequence[Contribution],
    counts: Counts,
    doubt: Doubt | None = None,
    *,
    r: float = 0.1,
    alpha: float = 0.2,
) -> Array:
    """``ram-plus``, ``ramplus-tl``: as ``ram``, with changes of one model alone made larger.

        (1 + r · min(shared_i / alone_i, alpha)) · delta_i

    shared_i and alone_i count the changes of step i that others have too, and that they do not
    have: over the model (``ram-plus``), or the tensor (``ramplus-tl``, as in mergekit). Yuan et
    al. 2026, https://arxiv.org/abs/2601.13572.
    """
    boosts = [float(boost) for boost in exactly.boosts_of(counts, r, alpha)]
    return add_scaled(base, mean_of_changes(contributions, boosts, doubt))


ram_plus = reducer(
    "ram-plus",
    exact=exactly.RAM_PLUS,
    step=_STEP,
    weighted=False,
    bounds=_LIMITS,
    measure=counted,
    across=True,
)(_ram_plus)
ramplus_tl = reducer(
    "ramplus-tl",
    exact=exactly.RAM_PLUS,
    step=_STEP,
    weighted=False,
    bounds=_LIMITS,
    measure=counted,
)(_ram_plus)
