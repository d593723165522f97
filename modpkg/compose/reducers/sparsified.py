"""Methods that keep a part of each change: TIES, DARE, DELLA, Breadcrumbs.

    composed = base + lambda · merge(keep(delta_1), …, keep(delta_n))

`keep` is by magnitude or at random, and `merge` a weighted sum, or one of the values whose sign
has the majority. Where equal magnitudes straddle a threshold, as they do in narrow dtypes, the
authors' TIES keeps all of them; the others keep to the density, and to those that come first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from modpkg.compose.reducers.numbers import np
from modpkg.compose.reducers.reducer import Blocks, Change, reducer
from modpkg.compose.reducers.selection import kth_largest, position
from modpkg.compose.reducers.stream import uniform
from modpkg.compose.reducers.weighted import added, divisor

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


class Kept(NamedTuple):
    """What is kept of a change; ``None`` for a place is that all equal ones are."""

    low: float = 0.0
    """Least magnitude."""
    low_before: int | None = None
    """Of those that have it, the ones before this place of the tensor."""
    high: float = float("inf")
    """Greatest magnitude."""
    high_before: int | None = None
    factor: float = 1.0
    """What the kept are multiplied by."""


Bounds = Sequence[Kept]

_SHARE = {"density": (0.0, 1.0), "gamma": (0.0, 1.0), "epsilon": (0.0, 1.0)}
_NONE = Kept(low=float("inf"))
_SIGN = -(1 << 63)
"""The bit of a float64 that is its sign."""


# What is kept ---------------------------------------------------------------------------------


def thresholds(blocks: Blocks, *, rescale: bool = False, **_: Any) -> Bounds:
    """Return what is kept of each change: the ``density`` of it that is largest.

    With a parameter ``gamma`` the largest gamma of all are left out first. With ``rescale`` what
    is kept is brought to the sum of magnitudes that all had.
    """
    found = []
    for index, step in enumerate(blocks.steps):
        kept = _kept(blocks, index, **step)
        if rescale and kept not in (Kept(), _NONE):
            before = after = 0.0
            first = 0
            for delta in blocks.deltas(index):
                size = np.abs(delta)
                before += float(size.sum())
                size[_left_out(size, first, kept)] = 0.0
                after += float(size.sum())
                first += size.size
            if min(before, after) >= 1e-7:
                kept = kept._replace(factor=before / after)
        found.append(kept)
    return found


def _kept(blocks: Blocks, index: int, density: float, gamma: float | None = None) -> Kept:
    count = blocks.count
    if density >= 1 or not count:
        return Kept()
    wanted = int(density * count)
    if gamma is None and density > 0:
        wanted = max(wanted, 1)  # as mergekit has it
    if not wanted:
        return _NONE
    sample = np.abs(blocks.sample(index))

    def magnitudes() -> Iterator[Array]:
        return (np.abs(delta).reshape(-1) for delta in blocks.deltas(index))

    above = min(int((gamma or 0.0) * count), count - wanted)  # the density is kept to
    low = kth_largest(magnitudes, sample, above + wanted, count)
    kept = Kept(low.value)
    if (inside := above + wanted - low.above) < low.equal:
        kept = Kept(low.value, low_before=position(magnitudes, low.value, inside) + 1)
    if above:
        high = kth_largest(magnitudes, sample, above, count)
        inside = high.equal - (above - high.above)  # of the equal ones, the first stay
        before = position(magnitudes, high.value, inside) + 1 if inside else 0
        kept = kept._replace(high=high.value, high_before=before)
    return kept


def _left_out(size: Array, first: int, kept: Kept) -> Any:
    """Return where magnitudes are not kept; ``first`` is the place of their first."""
    found = size < kept.low
    if kept.low_before is not None:
        found |= (size == kept.low) & _from(size, first, kept.low_before)
    if kept.high_before is not None:
        found |= size > kept.high
        found |= (size == kept.high) & _from(size, first, kept.high_before)
    return found


def _from(size: Array, first: int, place: int) -> Any:
    """Return where in rows that begin at ``first`` the elements from ``place`` on are."""
    return (np.arange(size.size) >= place - first).reshape(size.shape)


def by_magnitude(change: Change, kept: Kept) -> Array:
    """Return the change with what is not kept at 0."""
    if kept == Kept():
        return change.delta
    size = np.abs(change.delta)
    least = _least(change, kept)
    if kept.high_before is None and least is not None:
        found = change.delta * (size >= least)
    else:
        found = change.delta * ~_left_out(size, change.first, kept)
    if kept.factor != 1.0:
        found *= kept.factor
    return found


def _least(change: Change, kept: Kept) -> float | None:
    """Return the least magnitude that is kept in these rows; None where equal ones part in them."""
    place = kept.low_before
    if place is None or place >= change.first + change.delta.size:
        return kept.low
    return math.nextafter(kept.low, math.inf) if place <= change.first else None


def at_random(change: Change, seed: int, *, rescale: bool) -> Array:
    """Return the change with each value at 0 but with the probability ``density``."""
    density = change.parameters["density"]
    if density >= 1:
        return change.delta
    draws = uniform(seed, change.key, change.first, change.delta.shape)
    kept = np.where(draws >= density, 0.0, change.delta)
    if rescale and density > 0:
        kept /= density
    return kept


def by_rank(change: Change, seed: int, *, rescale: bool) -> Array:
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


def _weights(changes: Sequence[Change]) -> list[float]:
    return [change.weight for change in changes]


def _trimmed(changes: Sequence[Change], bounds: Bounds) -> list[Array]:
    return [by_magnitude(*each) for each in zip(changes, bounds, strict=True)]


# The methods ----------------------------------------------------------------------------------


@reducer("ties-mergekit", step={"density": 1.0}, bounds=_SHARE, measure=thresholds)
def ties_mergekit(
    base: Array,
    changes: Sequence[Change],
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


@reducer("ties-peft", step={"density": 1.0}, bounds=_SHARE, measure=thresholds)
def ties_peft(
    base: Array,
    changes: Sequence[Change],
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
        kept = _kept(blocks, index, more / blocks.count) if step["density"] else _NONE
        found.append(Kept(kept.low))
    return found


@reducer(
    "ties",
    step={"density": 0.2},
    bounds=_SHARE,
    weighted=False,
    measure=_over_the_model,
    across=True,
)
def ties(base: Array, changes: Sequence[Change], bounds: Bounds, *, lambda_: float = 1.0) -> Array:
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
    changes: Sequence[Change],
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
    changes: Sequence[Change],
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
    changes: Sequence[Change],
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
    changes: Sequence[Change],
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
    changes: Sequence[Change],
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
    changes: Sequence[Change],
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
