"""Methods that sparsify each delta: TIES, DARE, DELLA, Breadcrumbs.

    composed = base + lambda · merge(sparsify(delta_1), …, sparsify(delta_n))

`sparsify` trims by magnitude or drops at random, and `merge` is a weighted sum, optionally only of
the values with the majority sign. Where equal magnitudes straddle a threshold, as is common in
narrow dtypes, the authors' TIES keeps all of them; the other methods keep exactly the density, and
draw by place which ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers import exactly, single, together
from modpkg.compose.reducers.ranking import ranks, ranks_among, sorted_vectors
from modpkg.compose.reducers.reducer import Blocks, Contribution, Doubt, reducer
from modpkg.compose.reducers.stream import uniform
from modpkg.compose.reducers.trimming import (
    KEEP_NOTHING,
    Bounds,
    TrimBounds,
    ranked_magnitude,
    threshold_cuts,
    thresholds,
    trimmed,
)
from modpkg.compose.reducers.weighted import add_scaled, divisor
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


_Single = single.SinglePrecision | None

_SHARE = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0)}
_SIGN = -(1 << 63)
"""The sign bit of a float64."""


# Dropping at random ---------------------------------------------------------------------------


def drop_uniformly(contribution: Contribution, seed: int, *, rescale: bool) -> Array:
    """Return the delta with each value kept with probability ``density``, else 0 (DARE)."""
    density = contribution.parameters["density"]
    if density >= 1:
        return contribution.delta
    draws = uniform(seed, contribution.key, contribution.first, contribution.delta.shape)
    kept = np.where(draws >= density, 0.0, contribution.delta)
    if rescale and density > 0:
        kept /= density
    return kept


def drop_by_rank(
    contribution: Contribution, seed: int, ascending: Array | None = None, *, rescale: bool
) -> Array:
    """Return the delta with values dropped at random, small ones of a row more often (MagPrune).

    ``ascending`` has all magnitudes of a vector, which is one row.
    """
    density, epsilon = contribution.parameters["density"], contribution.parameters["epsilon"]
    if density >= 1:
        return contribution.delta
    if density <= 0:
        return np.zeros_like(contribution.delta)
    size = np.abs(contribution.delta)
    chance = ranks(size) if ascending is None else ranks_among(ascending, size)
    chance *= 2 * epsilon
    chance += density - epsilon
    draws = uniform(seed, contribution.key, contribution.first, contribution.delta.shape)
    kept = np.where(draws >= chance, 0.0, contribution.delta)
    if rescale:
        kept /= chance
    return kept


def _dropped_by_rank(
    contributions: Sequence[Contribution], vectors: Sequence[Array] | None, seed: int, rescale: bool
) -> list[Array]:
    orders = [None] * len(contributions) if vectors is None else vectors
    pairs = zip(contributions, orders, strict=True)
    return [drop_by_rank(each, seed, order, rescale=rescale) for each, order in pairs]


# Merging --------------------------------------------------------------------------------------


def weighted_sum(parts: Sequence[Array], weights: Sequence[float], *, normalize: bool) -> Array:
    """Return Σ w_i · part_i, divided by Σ w_i if ``normalize``."""
    total = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        total += part * weight
    if normalize:
        total /= divisor(math.fsum(weights))
    return total


def disjoint_merge(
    parts: Sequence[Array],
    weights: Sequence[float],
    *,
    votes: str = "weighted",
    divide: str = "",
    doubt: Doubt | None = None,
) -> Array:
    """Return Σ w_i · part_i over the parts that have the elected sign, value by value.

    The elected sign is that of Σ w_i · part_i (``votes="weighted"``), of Σ part_i (``"total"``) or
    of Σ sign(part_i) (``"frequency"``); a sum of 0 counts as positive. The result is divided by
    Σ w_i over the same parts (``divide="weights"``), by their number (``"count"``) or not at all.
    Signs that are not certain are noted in ``doubt``.
    """
    if votes == "weighted":
        parts = [part * weight for part, weight in zip(parts, weights, strict=True)]
    vote = np.sign(parts[0]) if votes == "frequency" else parts[0].copy()
    for part in parts[1:]:
        vote += np.sign(part) if votes == "frequency" else part
    if doubt is not None:
        if divide or votes == "frequency":
            doubt.signs(parts)
        if votes != "frequency":
            ones = [1.0] * len(parts)
            doubt.vote(vote, parts, weights if votes == "weighted" else ones)
    # By bits: selecting by a mask would take longer than the arithmetic.
    sign = vote.view(np.int64) & _SIGN
    total, below, zeros = (np.zeros(vote.shape) for _ in range(3))
    for part, weight in zip(parts, weights, strict=True):
        agreeing = (part.view(np.int64) ^ sign).view(np.float64)
        np.maximum(agreeing, zeros, out=agreeing)
        if divide:
            below += (agreeing > 0) * (weight if divide == "weights" else 1.0)
        if votes != "weighted":
            agreeing *= weight
        total += agreeing
    if divide:
        below += below == 0
        total /= below
    flipped = total.view(np.int64)
    flipped ^= sign
    total += 0.0  # −0.0 becomes 0.0
    return total


def _weights(contributions: Sequence[Contribution]) -> list[float]:
    return [contribution.weight for contribution in contributions]


def _trimmed(
    contributions: Sequence[Contribution], bounds: Bounds, doubt: Doubt | None
) -> list[Array]:
    pairs = zip(contributions, bounds, strict=True)
    return [trimmed(*each, number, doubt) for number, each in enumerate(pairs)]


# The methods ----------------------------------------------------------------------------------


def _ties_mergekit(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> _Single:
    divide = "weights" if parameters["normalize"] else ""
    return single.disjoint_merge(
        narrow, weights, threshold_cuts, divide=divide, factor=parameters["lambda"]
    )


@reducer(
    "ties-mergekit",
    exact=exactly.TIES_MERGEKIT,
    step={"density": 1.0},
    bounds=_SHARE,
    measure=thresholds,
    single=_ties_mergekit,
)
def ties_mergekit(
    base: Array,
    contributions: Sequence[Contribution],
    bounds: Bounds,
    doubt: Doubt | None = None,
    *,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``ties-mergekit``: TIES as in mergekit: trimmed per tensor; a mean by the weights.

    The elected sign is that of Σ w_i · delta_i, a sum of 0 counts as positive, and the sum is
    divided by the weights of the deltas that have it. mergekit 0.1.5; Yadav et al. 2023,
    https://arxiv.org/abs/2306.01708.
    """
    delta = disjoint_merge(
        _trimmed(contributions, bounds, doubt),
        _weights(contributions),
        divide="weights" if normalize else "",
        doubt=doubt,
    )
    return add_scaled(base, delta, lambda_)


def _ties_peft(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> _Single:
    votes = parameters["majority_sign"]
    return single.disjoint_merge(narrow, weights, threshold_cuts, votes=votes, divide="count")


@reducer(
    "ties-peft",
    exact=exactly.TIES_PEFT,
    step={"density": 1.0},
    bounds=_SHARE,
    choices={"majority_sign": ("total", "frequency")},
    measure=thresholds,
    single=_ties_peft,
)
def ties_peft(
    base: Array,
    contributions: Sequence[Contribution],
    bounds: Bounds,
    doubt: Doubt | None = None,
    *,
    majority_sign: str = "total",
) -> Array:
    """``ties-peft``: TIES as in PEFT: trimmed per tensor; weighted values, divided by a count.

    The elected sign is that of Σ delta_i (``total``) or of Σ sign(delta_i) (``frequency``), both
    without the weights. PEFT 0.21, utils/merge_utils.py; Yadav et al. 2023,
    https://arxiv.org/abs/2306.01708.
    """
    parts = _trimmed(contributions, bounds, doubt)
    weights = _weights(contributions)
    delta = disjoint_merge(parts, weights, votes=majority_sign, divide="count", doubt=doubt)
    return add_scaled(base, delta)


def _over_the_model(blocks: Blocks, **_: Any) -> Bounds:
    """Return each step's threshold over all tensors of the model."""
    bounds = []
    for index, step in enumerate(blocks.steps):
        # The authors' implementation keeps the k-th value too.
        count = int(step["density"] * blocks.count) + 1
        kept = KEEP_NOTHING if not step["density"] else TrimBounds()
        if step["density"] and count < blocks.count:
            least = ranked_magnitude(blocks, index, count)
            kept = TrimBounds(least.value, low_exact=least.exact)
        bounds.append(kept)
    return bounds


def _ties(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> _Single:
    factor = parameters["lambda"]
    return single.disjoint_merge(
        narrow, weights, threshold_cuts, votes="total", divide="count", factor=factor
    )


@reducer(
    "ties",
    exact=exactly.TIES,
    relative="ties-mergekit",
    step={"density": 0.2},
    single=_ties,
    bounds=_SHARE,
    weighted=False,
    measure=_over_the_model,
    across=True,
)
def ties(
    base: Array,
    contributions: Sequence[Contribution],
    bounds: Bounds,
    doubt: Doubt | None = None,
    *,
    lambda_: float = 1.0,
) -> Array:
    """``ties``: TIES as by its authors: deltas trimmed over the whole model, then a disjoint mean.

    The elected sign is that of Σ delta_i, and the sum of the values that have it is divided by
    their number. There are no weights, only lambda. The threshold is over all tensors that any
    step changes. Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    parts = _trimmed(contributions, bounds, doubt)
    weights = _weights(contributions)
    delta = disjoint_merge(parts, weights, votes="total", divide="count", doubt=doubt)
    return add_scaled(base, delta, lambda_)


@reducer(
    "dare-linear", exact=exactly.DARE_LINEAR, step={"density": 1.0}, bounds=_SHARE, additive=True
)
def dare_linear(
    base: Array,
    contributions: Sequence[Contribution],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``dare-linear``: values of each delta dropped at random, the rest divided by density.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [drop_uniformly(c, seed, rescale=rescale) for c in contributions]
    return add_scaled(
        base, weighted_sum(parts, _weights(contributions), normalize=normalize), lambda_
    )


@reducer("dare-ties", exact=exactly.DARE_TIES, step={"density": 1.0}, bounds=_SHARE)
def dare_ties(
    base: Array,
    contributions: Sequence[Contribution],
    doubt: Doubt | None = None,
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``dare-ties``: as ``dare-linear``, then only values with the elected sign.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [drop_uniformly(c, seed, rescale=rescale) for c in contributions]
    if doubt is not None and rescale:
        doubt.divide([c.parameters["density"] or 1.0 for c in contributions])
    delta = disjoint_merge(
        parts,
        _weights(contributions),
        divide="weights" if normalize else "",
        doubt=doubt,
    )
    return add_scaled(base, delta, lambda_)


_DELLA = {"density": 1.0, "epsilon": 0.15}


@reducer("della", step=_DELLA, bounds=_SHARE, check=together.della, measure=sorted_vectors)
def della(
    base: Array,
    contributions: Sequence[Contribution],
    vectors: Sequence[Array] | None = None,
    *,
    seed: int = 0,
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``della``: values dropped at random, small ones more often, then those with the elected sign.

    The probability to keep a value grows from density − epsilon to density + epsilon with its rank
    in its row; kept values are divided by it. Deep et al. 2024, https://arxiv.org/abs/2406.11617.
    """
    parts = _dropped_by_rank(contributions, vectors, seed, rescale)
    delta = disjoint_merge(parts, _weights(contributions), divide="weights" if normalize else "")
    return add_scaled(base, delta, lambda_)


@reducer(
    "della-linear",
    step=_DELLA,
    bounds=_SHARE,
    check=together.della,
    additive=True,
    measure=sorted_vectors,
)
def della_linear(
    base: Array,
    contributions: Sequence[Contribution],
    vectors: Sequence[Array] | None = None,
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``della-linear``: as ``della``, but summed without electing signs."""
    parts = _dropped_by_rank(contributions, vectors, seed, rescale)
    return add_scaled(
        base, weighted_sum(parts, _weights(contributions), normalize=normalize), lambda_
    )


_BREADCRUMBS = {"density": 1.0, "gamma": 0.01}


@reducer(
    "breadcrumbs",
    exact=exactly.BREADCRUMBS,
    step=_BREADCRUMBS,
    bounds=_SHARE,
    additive=True,
    measure=thresholds,
)
def breadcrumbs(
    base: Array,
    contributions: Sequence[Contribution],
    bounds: Bounds,
    doubt: Doubt | None = None,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``breadcrumbs``: the largest gamma of each delta dropped, then the smallest.

    Davari & Belilovsky 2023, https://arxiv.org/abs/2312.06795.
    """
    parts = _trimmed(contributions, bounds, doubt)
    return add_scaled(
        base, weighted_sum(parts, _weights(contributions), normalize=normalize), lambda_
    )


@reducer(
    "breadcrumbs-ties",
    exact=exactly.TIES_MERGEKIT,
    step=_BREADCRUMBS,
    bounds=_SHARE,
    measure=thresholds,
)
def breadcrumbs_ties(
    base: Array,
    contributions: Sequence[Contribution],
    bounds: Bounds,
    doubt: Doubt | None = None,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``breadcrumbs-ties``: as ``breadcrumbs``, then only values with the elected sign."""
    delta = disjoint_merge(
        _trimmed(contributions, bounds, doubt),
        _weights(contributions),
        divide="weights" if normalize else "",
        doubt=doubt,
    )
    return add_scaled(base, delta, lambda_)
