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

from modpkg.compose.reducers.reducer import Blocks, Change, reducer
from modpkg.compose.reducers.selection import kth_largest, position
from modpkg.compose.reducers.weighted import divisor

if TYPE_CHECKING:
    from torch import Tensor


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
                size = delta.abs()
                before += float(size.sum())
                after += float(size.masked_fill_(_left_out(size, first, kept), 0.0).sum())
                first += size.numel()
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
    sample = blocks.sample(index).abs()

    def magnitudes() -> Iterator[Tensor]:
        return (delta.abs().flatten() for delta in blocks.deltas(index))

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


def _left_out(size: Tensor, first: int, kept: Kept) -> Tensor:
    """Return where magnitudes are not kept; ``first`` is the place of their first."""
    found = size < kept.low
    if kept.low_before is not None:
        found |= (size == kept.low).logical_and_(_from(size, first, kept.low_before))
    if kept.high_before is not None:
        found |= size > kept.high
        found |= (size == kept.high).logical_and_(_from(size, first, kept.high_before))
    return found


def _from(size: Tensor, first: int, place: int) -> Tensor:
    """Return where in rows that begin at ``first`` the elements from ``place`` on are."""
    import torch

    found = torch.zeros(size.numel(), dtype=torch.bool)
    found[max(0, place - first) :] = True
    return found.view(size.shape)


def by_magnitude(change: Change, kept: Kept) -> Tensor:
    """Return the change with what is not kept at 0."""
    if kept == Kept():
        return change.delta
    if kept.high_before is None and (least := _least(change, kept)) is not None:
        found = change.delta.hardshrink(math.nextafter(least, -1.0)) if least else change.delta
        return found * kept.factor if kept.factor != 1.0 else found
    left_out = _left_out(change.delta.abs(), change.first, kept)
    found = change.delta.masked_fill(left_out, 0.0)
    return found.mul_(kept.factor) if kept.factor != 1.0 else found


def _least(change: Change, kept: Kept) -> float | None:
    """Return the least magnitude that is kept in these rows; None where equal ones part in them."""
    place = kept.low_before
    if place is None or place >= change.first + change.delta.numel():
        return kept.low
    return math.nextafter(kept.low, math.inf) if place <= change.first else None


def at_random(change: Change, seed: int, *, rescale: bool) -> Tensor:
    """Return the change with each value at 0 but with the probability ``density``."""
    from modpkg.compose.reducers.stream import uniform

    density = change.parameters["density"]
    if density >= 1:
        return change.delta
    draws = uniform(seed, change.key, change.first, change.delta.shape)
    kept = change.delta.masked_fill(draws >= density, 0.0)
    return kept.div_(density) if rescale and density > 0 else kept


def by_rank(change: Change, seed: int, *, rescale: bool) -> Tensor:
    """Return the change with values at 0 at random, small ones of a row more often (MagPrune)."""
    from modpkg.compose.reducers.stream import uniform

    density, epsilon = change.parameters["density"], change.parameters["epsilon"]
    if density >= 1:
        return change.delta
    if density <= 0:
        return change.delta.new_zeros(change.delta.shape)
    if density + epsilon >= 1 or density - epsilon <= 0:
        raise ValueError("density plus and minus epsilon have to be between 0 and 1")
    rows = change.delta.shape[1]
    order = change.delta.abs().argsort(dim=1, stable=True)
    ranks = order.argsort(dim=1, stable=True).double().div_(max(rows - 1, 1))
    chance = ranks.mul_(2 * epsilon).add_(density - epsilon)
    draws = uniform(seed, change.key, change.first, change.delta.shape)
    kept = change.delta.masked_fill(draws >= chance, 0.0)
    return kept.div_(chance) if rescale else kept


# How it becomes one ---------------------------------------------------------------------------


def summed(parts: Sequence[Tensor], weights: Sequence[float], *, normalize: bool) -> Tensor:
    """Return Σ w_i · part_i, divided by Σ w_i if normalized."""
    found = parts[0] * weights[0]
    for part, weight in zip(parts[1:], weights[1:], strict=True):
        found.add_(part, alpha=weight)
    return found.div_(divisor(sum(weights))) if normalize else found


def elected(
    parts: Sequence[Tensor],
    weights: Sequence[float],
    *,
    votes: str = "weighted",
    divide: str = "",
) -> Tensor:
    """Return Σ w_i · part_i over the parts of the sign that has the majority.

    ``votes`` says whose sign that is: of Σ w_i · part_i (``weighted``), Σ part_i (``total``) or
    Σ sign(part_i) (``frequency``); a sum of 0 is positive. It may be divided by Σ w_i over the
    same parts (``weights``), or by how many they are (``count``).
    """
    if votes == "weighted":
        parts = [part * weight for part, weight in zip(parts, weights, strict=True)]
    balance = parts[0].sign() if votes == "frequency" else parts[0].clone()
    for part in parts[1:]:
        balance.add_(part.sign() if votes == "frequency" else part)
    sign = balance.sign_().add_(0.5).sign_()
    found, below = sign.new_zeros(sign.shape), None
    for part, weight in zip(parts, weights, strict=True):
        chosen = (part * sign).clamp_(min=0.0)
        found.add_(chosen, alpha=1.0 if votes == "weighted" else weight)
        if divide:
            share = chosen.sign_().mul_(weight if divide == "weights" else 1.0)
            below = share if below is None else below.add_(share)
    if below is not None:
        found.div_(below.masked_fill_(below == 0, 1.0))
    return found.mul_(sign)


def _weights(changes: Sequence[Change]) -> list[float]:
    return [change.weight for change in changes]


def _trimmed(changes: Sequence[Change], bounds: Bounds) -> list[Tensor]:
    return [by_magnitude(*each) for each in zip(changes, bounds, strict=True)]


# The methods ----------------------------------------------------------------------------------


@reducer("ties-mergekit", step={"density": 1.0}, bounds=_SHARE, measure=thresholds)
def ties_mergekit(
    base: Tensor,
    changes: Sequence[Change],
    bounds: Bounds,
    *,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """``ties-mergekit``: mergekit's TIES: trimmed tensor by tensor; the mean is by the weights.

    The sign is that of Σ w_i · delta_i, a sum of 0 is positive, and it is divided by the weights
    of those that have it. mergekit 0.1.5; Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    found = elected(
        _trimmed(changes, bounds), _weights(changes), divide="weights" if normalize else ""
    )
    return base.add_(found, alpha=lambda_)


@reducer("ties-peft", step={"density": 1.0}, bounds=_SHARE, measure=thresholds)
def ties_peft(
    base: Tensor,
    changes: Sequence[Change],
    bounds: Bounds,
    *,
    majority_sign: str = "total",
) -> Tensor:
    """``ties-peft``: PEFT's TIES: trimmed tensor by tensor; weighted values, divided by a count.

    The sign is that of Σ delta_i (``total``) or of Σ sign(delta_i) (``frequency``), both without
    the weights. PEFT 0.21, utils/merge_utils.py; Yadav et al. 2023,
    https://arxiv.org/abs/2306.01708.
    """
    if majority_sign not in ("total", "frequency"):
        raise ValueError("majority_sign has to be 'total' or 'frequency'")
    parts = _trimmed(changes, bounds)
    return base.add_(elected(parts, _weights(changes), votes=majority_sign, divide="count"))


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
def ties(
    base: Tensor, changes: Sequence[Change], bounds: Bounds, *, lambda_: float = 1.0
) -> Tensor:
    """``ties``: the authors': each change trimmed over all of the model, then the signs' mean.

    Of what is left, the sign is that of Σ delta_i, and the values that have it are divided by how
    many they are. There are no weights, only lambda. All tensors that any step changes count in
    the threshold. Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    parts = _trimmed(changes, bounds)
    found = elected(parts, _weights(changes), votes="total", divide="count")
    return base.add_(found, alpha=lambda_)


@reducer("dare-linear", step={"density": 1.0}, bounds=_SHARE, additive=True)
def dare_linear(
    base: Tensor,
    changes: Sequence[Change],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """``dare-linear``: values of each change dropped at random, the rest divided by density.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [at_random(change, seed, rescale=rescale) for change in changes]
    return base.add_(summed(parts, _weights(changes), normalize=normalize), alpha=lambda_)


@reducer("dare-ties", step={"density": 1.0}, bounds=_SHARE)
def dare_ties(
    base: Tensor,
    changes: Sequence[Change],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """``dare-ties``: as ``dare-linear``, and then only values of the majority's sign.

    Yu et al. 2023, https://arxiv.org/abs/2311.03099.
    """
    parts = [at_random(change, seed, rescale=rescale) for change in changes]
    found = elected(parts, _weights(changes), divide="weights" if normalize else "")
    return base.add_(found, alpha=lambda_)


_DELLA = {"density": 1.0, "epsilon": 0.15}


@reducer("della", step=_DELLA, bounds=_SHARE)
def della(
    base: Tensor,
    changes: Sequence[Change],
    *,
    seed: int = 0,
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """``della``: values dropped at random, the small of a row more often, then the majority's.

    A value's chance to stay goes from density − epsilon to density + epsilon by its rank in its
    row, and what stays is divided by it. Deep et al. 2024, https://arxiv.org/abs/2406.11617.
    """
    parts = [by_rank(change, seed, rescale=rescale) for change in changes]
    found = elected(parts, _weights(changes), divide="weights" if normalize else "")
    return base.add_(found, alpha=lambda_)


@reducer("della-linear", step=_DELLA, bounds=_SHARE, additive=True)
def della_linear(
    base: Tensor,
    changes: Sequence[Change],
    *,
    seed: int = 0,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """``della-linear``: as ``della``, but summed up without a vote on signs."""
    parts = [by_rank(change, seed, rescale=rescale) for change in changes]
    return base.add_(summed(parts, _weights(changes), normalize=normalize), alpha=lambda_)


_BREADCRUMBS = {"density": 1.0, "gamma": 0.01}


@reducer("breadcrumbs", step=_BREADCRUMBS, bounds=_SHARE, additive=True, measure=thresholds)
def breadcrumbs(
    base: Tensor,
    changes: Sequence[Change],
    bounds: Bounds,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """``breadcrumbs``: the largest gamma of each change left out, then the small ones.

    Davari & Belilovsky 2023, https://arxiv.org/abs/2312.06795.
    """
    parts = _trimmed(changes, bounds)
    return base.add_(summed(parts, _weights(changes), normalize=normalize), alpha=lambda_)


@reducer("breadcrumbs-ties", step=_BREADCRUMBS, bounds=_SHARE, measure=thresholds)
def breadcrumbs_ties(
    base: Tensor,
    changes: Sequence[Change],
    bounds: Bounds,
    *,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """``breadcrumbs-ties``: as ``breadcrumbs``, and then only values of the majority's sign."""
    found = elected(
        _trimmed(changes, bounds), _weights(changes), divide="weights" if normalize else ""
    )
    return base.add_(found, alpha=lambda_)
