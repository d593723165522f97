"""Weighted sums and means: elementwise methods.

Models are written as x_i = base + delta_i, so a mean of models is the base plus the mean of the
deltas, and a mean of equal models is that model, bit for bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers import exactly, single, together
from modpkg.compose.reducers.reducer import Contribution, reducer
from modpkg.core.lazy_numpy import np

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


def total(contributions: Sequence[Contribution]) -> Array:
    """Return Σ weight_i · delta_i, in the order given (it is canonical)."""
    first = contributions[0]
    delta = first.delta * first.weight
    for contribution in contributions[1:]:
        delta += contribution.delta * contribution.weight
    return delta


def add_scaled(base: Array, delta: Array, factor: float = 1.0) -> Array:
    """Return base + factor · delta; both are overwritten."""
    if factor != 1.0:
        delta *= factor
    base += delta
    return base


@reducer(
    "sum",
    exact=exactly.SUM,
    additive=True,
    single=lambda narrow, weights, _: single.weighted_sum(narrow, weights),
)
def sum_reducer(base: Array, contributions: Sequence[Contribution]) -> Array:
    """``sum``: base + Σ weight_i · delta_i, the default; stacks adapters.

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089. The weights are folded into the deltas
    before this is called.
    """
    delta = contributions[0].delta
    for contribution in contributions[1:]:
        delta = delta + contribution.delta
    base += delta
    return base


def _task(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    below = exactly.usable_divisor(_sum_of(*weights)) if parameters["normalize"] else Fraction(1)
    return single.weighted_sum(narrow, weights, below, parameters["lambda"])


@functools.lru_cache(maxsize=64)
def _sum_of(*weights: float) -> Fraction:
    """Return the exact sum of weights; 0 if one is not finite."""
    if not all(map(math.isfinite, weights)):
        return Fraction(0)
    return sum(map(Fraction, weights), Fraction(0))


@reducer("task-arithmetic", exact=exactly.TASK_ARITHMETIC, additive=True, single=_task)
def task_arithmetic(
    base: Array,
    contributions: Sequence[Contribution],
    *,
    normalize: bool = False,
    lambda_: float = 1.0,
) -> Array:
    """``task-arithmetic``: base + lambda · Σ weight_i · delta_i  [/ Σ weight_i, if normalized].

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.
    """
    delta = total(contributions)
    if normalize:
        delta /= divisor(math.fsum(c.weight for c in contributions))
    return add_scaled(base, delta, lambda_)


def divisor(weights: float) -> float:
    """Return what to divide by: the sum of weights, or 1 if they cancel, as in mergekit."""
    return weights if abs(weights) >= 1e-8 else 1.0


def _linear(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    if not parameters["normalize"]:
        return None  # the base is scaled too
    return single.weighted_sum(narrow, weights, _sum_of(parameters["base_weight"], *weights))


@reducer(
    "linear",
    check=together.linear,
    exact=exactly.LINEAR,
    additive=True,
    single=_linear,
    everywhere=lambda parameters: not parameters["normalize"],
)
def linear(
    base: Array,
    contributions: Sequence[Contribution],
    *,
    normalize: bool = True,
    base_weight: float = 1.0,
) -> Array:
    """``linear``: Σ weight_i · x_i / Σ weight_i, over the base (with base_weight) and the steps.

    Not divided if normalize is false. Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    weights = math.fsum([base_weight, *(c.weight for c in contributions)])
    delta = total(contributions)
    if normalize:
        delta /= weights
    else:
        base *= weights
    return add_scaled(base, delta)


def _mean(
    narrow: single.NarrowFloat, weights: tuple[float, ...], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    return single.weighted_sum(narrow, weights, len(weights) + parameters["with_base"])


@reducer("mean", exact=exactly.MEAN, weighted=False, relative="linear", single=_mean)
def mean(base: Array, contributions: Sequence[Contribution], *, with_base: bool = True) -> Array:
    """``mean``: the mean of the base (if with_base) and every step's model: a uniform soup.

    Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    delta = total(contributions)
    delta /= len(contributions) + with_base
    return add_scaled(base, delta)


def _has_scale(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters["scale"] != 1.0)


@reducer(
    "passthrough",
    exact=exactly.PASSTHROUGH,
    steps=(0, 0),
    relative="linear",
    everywhere=_has_scale,
)
def passthrough(base: Array, contributions: Sequence[Contribution], *, scale: float = 1.0) -> Array:
    """``passthrough``: scale · base; for models assembled from the layers of several."""
    base *= scale
    return base


_AT_LEAST_0 = (0.0, math.inf)


@reducer(
    "fisher",
    exact=exactly.FISHER,
    step={"importance": 1.0},
    bounds={"importance": _AT_LEAST_0, "base_importance": _AT_LEAST_0},
)
def fisher(
    base: Array, contributions: Sequence[Contribution], *, base_importance: float = 0.0
) -> Array:
    """``fisher``: Σ weight_i · F_i · x_i / Σ weight_i · F_i, value by value.

    F_i is the importance of each value: a number, or the tensor of the same name in the module that
    the step's parameter ``importance`` names. The base counts with base_importance. Where all
    importances are 0, the result is the weighted mean. Matena & Raffel 2022,
    https://arxiv.org/abs/2111.09832.
    """
    factors = [contribution.importance * contribution.weight for contribution in contributions]
    above = contributions[0].delta * factors[0]
    below = factors[0] + np.zeros_like(above)
    for contribution, factor in zip(contributions[1:], factors[1:], strict=True):
        above += contribution.delta * factor
        below += factor
    below += base_importance
    nothing = below == 0
    if nothing.any():
        plain = total(contributions) / divisor(math.fsum(c.weight for c in contributions))
        above[nothing], below[nothing] = plain[nothing], 1.0
    above /= below
    return add_scaled(base, above)
