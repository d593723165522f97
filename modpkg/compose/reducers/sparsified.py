"""Methods that keep a part of each change: TIES, DARE, DELLA, Breadcrumbs.

    composed = base + lambda · merge(keep(delta_1), …, keep(delta_n))

`keep` is by magnitude or at random, and `merge` a weighted sum, or one of the values whose sign
has the majority. Where equal magnitudes straddle a threshold, as they do in narrow dtypes, the
authors' TIES keeps all of them; the others keep to the density, and to those that come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers import single
from modpkg.compose.reducers.numbers import np
from modpkg.compose.reducers.reducer import Blocks, Contribution, reducer
from modpkg.compose.reducers.stream import uniform
from modpkg.compose.reducers.trimming import (
    NONE,
    Bounds,
    TrimBounds,
    by_magnitude,
    kept_of,
    pieces,
    thresholds,
)
from modpkg.compose.reducers.weighted import added, divisor

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


_Single = single.SinglePrecision | None

_SHARE = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0)}
_SIGN = -(1 << 63)
"""The bit of a float64 that is its sign."""


# What is kept at random -----------------------------------------------------------------------


def at_random(change: Contribution, seed: int, *, rescale: bool) -> Array:
    """Return the change with each value at 0 but with the probability ``density``."""
    density = change.parameters["density"]
    if density >= 1:
        return change.delta
    draws = uniform(seed, change.key, change.first, change.delta.shape)
    kept = np.where(draws >= density, 0.0, change.delta)
    if rescale and density > 0:
        kept /= density
    return kept


def by_rank(change: Contribution, seed: int, *, rescale: bool) -> Array:
    """Return the change with values at 0 at random, small ones of a row more often (MagPrune)."""
    density, epsilon = change.parameters["density"], change.parameters["epsilon"]
    if density >= 1:
        return change.delta
    if density <= 0:
        return np.zeros_like(change.delta)
    if density + epsilon >= 1 or density - epsilon <= 0:
        raise ValueError("density plus and minus epsilon have to be between 0 and 1")
    columns = change.delta.shape[1]
    order = np.abs(change.delta).argsort(axis=1, kind="stable")
    chance = np.empty_like(change.delta)
    np.put_along_axis(chance, order, np.arange(columns, dtype=np.float64)[np.newaxis], axis=1)
    chance /= max(columns - 1, 1)
    chance *= 2 * epsilon
    chance += density - epsilon
    draws = uniform(seed, change.key, change.first, change.delta.shape)
    kept = np.where(draws >= chance, 0.0, change.delta)
    if rescale:
        kept /= chance
    return kept


# How it becomes one ---------------------------------------------------------------------------


def summed(parts: Sequence[Array], weights: Sequence[float], *, normalize: bool) -> Array:
    """Return Σ w_i · part_i, divided by Σ w_i if normalized."""
    found = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found += part * weight
    if normalize:
        found /= divisor(sum(weights))
    return found


def elected(
    parts: Sequence[Array],
    weights: Sequence[float],
    *,
    votes: str = "weighted",
    divide: str = "",
) -> Array:
    """Return Σ w_i · part_i over the parts of the sign that has the majority.

    ``votes`` says whose sign that is: of Σ w_i · part_i (``weighted``), Σ part_i (``total``) or
    Σ sign(part_i) (``frequency``); a sum of 0 is positive. It may be divided by Σ w_i over the
    same parts (``weights``), or by how many they are (``count``).
    """
    if votes == "weighted":
        parts = [part * weight for part, weight in zip(parts, weights, strict=True)]
    balance = np.sign(parts[0]) if votes == "frequency" else parts[0].copy()
    for part in parts[1:]:
        balance += np.sign(part) if votes == "frequency" else part
    # Without a branch for each value, which would cost more than what is computed.
    sign = balance.view(np.int64) & _SIGN
    found, below, zeros = (np.zeros(balance.shape) for _ in range(3))
    for part, weight in zip(parts, weights, strict=True):
        chosen = (part.view(np.int64) ^ sign).view(np.float64)
        np.maximum(chosen, zeros, out=chosen)
        if divide:
            below += (chosen > 0) * (weight if divide == "weights" else 1.0)
        if votes != "weighted":
            chosen *= weight
        found += chosen
    if divide:
        below += below == 0
        found /= below
    flipped = found.view(np.int64)
    flipped ^= sign
    found += 0.0  # where nothing is added, −0.0 must not be
    return found


def _weights(changes: Sequence[Contribution]) -> list[float]:
    return [change.weight for change in changes]


def _trimmed(changes: Sequence[Contribution], bounds: Bounds) -> list[Array]:
    return [by_magnitude(*each) for each in zip(changes, bounds, strict=True)]


# The methods ----------------------------------------------------------------------------------


def _ties_mergekit(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> _Single:
    divide = "weights" if parameters["normalize"] else ""
    return single.elected(narrow, weights, pieces, divide=divide, factor=parameters["lambda"])


@reducer(
    "ties-mergekit",
    step={"density": 1.0},
    bounds=_SHARE,
    measure=thresholds,
    single=_ties_mergekit,
)
def ties_mergekit(
    base: Array,
    changes: Sequence[Contribution],
    bounds: Bounds,
    *,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``ties-mergekit``: mergekit's TIES: trimmed tensor by tensor; the mean is by the weights.

    The sign is that of Σ w_i · delta_i, a sum of 0 is positive, and it is divided by the weights
    of those that have it. mergekit 0.1.5; Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    found = elected(
        _trimmed(changes, bounds), _weights(changes), divide="weights" if normalize else ""
    )
    return added(base, found, lambda_)


def _ties_peft(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> _Single:
    votes = parameters["majority_sign"]
    return single.elected(narrow, weights, pieces, votes=votes, divide="count")


@reducer("ties-peft", step={"density": 1.0}, bounds=_SHARE, measure=thresholds, single=_ties_peft)
def ties_peft(
    base: Array,
    changes: Sequence[Contribution],
    bounds: Bounds,
    *,
    majority_sign: str = "total",
) -> Array:
    """``ties-peft``: PEFT's TIES: trimmed tensor by tensor; weighted values, divided by a count.

    The sign is that of Σ delta_i (``total``) or of Σ sign(delta_i) (``frequency``), both without
    the weights. PEFT 0.21, utils/merge_utils.py; Yadav et al. 2023,
    https://arxiv.org/abs/2306.01708.
    """
    if majority_sign not in ("total", "frequency"):
        raise ValueError("majority_sign has to be 'total' or 'frequency'")
    parts = _trimmed(changes, bounds)
    return added(base, elected(parts, _weights(changes), votes=majority_sign, divide="count"))


def _over_the_model(blocks: Blocks, **_: Any) -> Bounds:
    found = []
    for index, step in enumerate(blocks.steps):
        # Their k-th value is itself one of those that they keep.
        more = int(step["density"] * blocks.count) + 1
        kept = kept_of(blocks, index, more / blocks.count) if step["density"] else NONE
        found.append(TrimBounds(kept.low))
    return found


def _ties(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> _Single:
    factor = parameters["lambda"]
    return single.elected(narrow, weights, pieces, votes="total", divide="count", factor=factor)


@reducer(
    "ties",
    step={"density": 0.2},
    single=_ties,
    bounds=_SHARE,
    weighted=False,
    measure=_over_the_model,
    across=True,
)
def ties(
    base: Array, changes: Sequence[Contribution], bounds: Bounds, *, lambda_: float = 1.0
) -> Array:
    """``ties``: the authors': each change trimmed over all of the model, then the signs' mean.

    Of what is left, the sign is that of Σ delta_i, and the values that have it are divided by how
    many they are. There are no weights, only lambda. All tensors that any step changes count in
    the threshold. Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    parts = _trimmed(changes, bounds)
    found = elected(parts, _weights(changes), votes="total", divide="count")
    return added(base, found, lambda_)


@reducer("dare-linear", step={"density": 1.0}, bounds=_SHARE, additive=True)
def dare_linear(
    base: Array,
    changes: Sequence[Contribution],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``dare-linear``: values of each change dropped at random, the rest divided by density.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [at_random(change, seed, rescale=rescale) for change in changes]
    return added(base, summed(parts, _weights(changes), normalize=normalize), lambda_)


@reducer("dare-ties", step={"density": 1.0}, bounds=_SHARE)
def dare_ties(
    base: Array,
    changes: Sequence[Contribution],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``dare-ties``: as ``dare-linear``, and then only values of the majority's sign.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [at_random(change, seed, rescale=rescale) for change in changes]
    found = elected(parts, _weights(changes), divide="weights" if normalize else "")
    return added(base, found, lambda_)


_DELLA = {"density": 1.0, "epsilon": 0.15}


@reducer("della", step=_DELLA, bounds=_SHARE)
def della(
    base: Array,
    changes: Sequence[Contribution],
    *,
    seed: int = 0,
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``della``: values dropped at random, the small of a row more often, then the majority's.

    A value's chance to stay goes from density − epsilon to density + epsilon by its rank in its
    row, and what stays is divided by it. Deep et al. 2024, https://arxiv.org/abs/2406.11617.
    """
    parts = [by_rank(change, seed, rescale=rescale) for change in changes]
    found = elected(parts, _weights(changes), divide="weights" if normalize else "")
    return added(base, found, lambda_)


@reducer("della-linear", step=_DELLA, bounds=_SHARE, additive=True)
def della_linear(
    base: Array,
    changes: Sequence[Contribution],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Array:
    """``della-linear``: as ``della``, but summed up without a vote on signs."""
    parts = [by_rank(change, seed, rescale=rescale) for change in changes]
    return added(base, summed(parts, _weights(changes), normalize=normalize), lambda_)


_BREADCRUMBS = {"density": 1.0, "gamma": 0.01}


@reducer("breadcrumbs", step=_BREADCRUMBS, bounds=_SHARE, additive=True, measure=thresholds)
def breadcrumbs(
    base: Array,
    changes: Sequence[Contribution],
    bounds: Bounds,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``breadcrumbs``: the largest gamma of each change left out, then the small ones.

    Davari & Belilovsky 2023, https://arxiv.org/abs/2312.06795.
    """
    parts = _trimmed(changes, bounds)
    return added(base, summed(parts, _weights(changes), normalize=normalize), lambda_)


@reducer("breadcrumbs-ties", step=_BREADCRUMBS, bounds=_SHARE, measure=thresholds)
def breadcrumbs_ties(
    base: Array,
    changes: Sequence[Contribution],
    bounds: Bounds,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``breadcrumbs-ties``: as ``breadcrumbs``, and then only values of the majority's sign."""
    found = elected(
        _trimmed(changes, bounds), _weights(changes), divide="weights" if normalize else ""
    )
    return added(base, found, lambda_)
