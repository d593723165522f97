"""Weighted sums and means: elementwise methods.

Models are seen from the base, x_i = base + delta_i, so that a mean of models is the base and the
mean of what they change: equal models give themselves, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers import single
from modpkg.compose.reducers.numbers import np
from modpkg.compose.reducers.reducer import Contribution, reducer

if TYPE_CHECKING:
    from modpkg.compose.arrays import Array


def total(changes: Sequence[Contribution]) -> Array:
    """Return Σ weight_i · delta_i, in the order given (it is canonical)."""
    first = changes[0]
    found = first.delta * first.weight
    for change in changes[1:]:
        found += change.delta * change.weight
    return found


def added(base: Array, found: Array, factor: float = 1.0) -> Array:
    """Return base + factor · found; both may be overwritten."""
    if factor != 1.0:
        found *= factor
    base += found
    return base


@reducer("sum", additive=True, single=lambda narrow, weights, _: single.weighted(narrow, weights))
def sum_reducer(base: Array, changes: Sequence[Contribution]) -> Array:
    """``sum``: base + Σ weight_i · delta_i, the default; adapters are stacked so.

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089. The executor has the weights in the
    changes already.
    """
    found = changes[0].delta
    for change in changes[1:]:
        found = found + change.delta
    base += found
    return base


def _task(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    below = divisor(sum(weights)) if parameters["normalize"] else 1.0
    return single.weighted(narrow, weights, below, parameters["lambda"])


@reducer("task-arithmetic", additive=True, single=_task)
def task_arithmetic(
    base: Array, changes: Sequence[Contribution], *, normalize: bool = False, lambda_: float = 1.0
) -> Array:
    """``task-arithmetic``: base + lambda · Σ weight_i · delta_i  [/ Σ weight_i, if normalized].

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.
    """
    found = total(changes)
    if normalize:
        found /= divisor(sum(change.weight for change in changes))
    return added(base, found, lambda_)


def divisor(weights: float) -> float:
    """Return what to divide by; weights that cancel divide by nothing, as mergekit has it."""
    return weights if abs(weights) >= 1e-8 else 1.0


def _linear(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    if not parameters["normalize"]:
        return None  # the base is weighed too
    return single.weighted(narrow, weights, parameters["base_weight"] + sum(weights))


@reducer(
    "linear",
    additive=True,
    single=_linear,
    everywhere=lambda parameters: not parameters["normalize"],
)
def linear(
    base: Array,
    changes: Sequence[Contribution],
    *,
    normalize: bool = True,
    base_weight: float = 1.0,
) -> Array:
    """``linear``: Σ weight_i · x_i / Σ weight_i, over the base (with base_weight) and the steps.

    Without normalize it is not divided. Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    weights = base_weight + sum(change.weight for change in changes)
    found = total(changes)
    if normalize:
        found /= weights
    else:
        base *= weights
    return added(base, found)


def _mean(
    narrow: single.NarrowFloat, weights: Sequence[float], parameters: Mapping[str, Any]
) -> single.SinglePrecision | None:
    return single.weighted(narrow, weights, len(weights) + parameters["with_base"])


@reducer("mean", weighted=False, single=_mean)
def mean(base: Array, changes: Sequence[Contribution], *, with_base: bool = True) -> Array:
    """``mean``: the mean of the base (if with_base) and of every step's model: a uniform soup.

    Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    found = total(changes)
    found /= len(changes) + with_base
    return added(base, found)


def _has_scale(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters["scale"] != 1.0)


@reducer("passthrough", steps=(0, 0), everywhere=_has_scale)
def passthrough(base: Array, changes: Sequence[Contribution], *, scale: float = 1.0) -> Array:
    """``passthrough``: scale · base. Arrays of layers from several models go through it."""
    base *= scale
    return base


@reducer("fisher", step={"importance": 1.0})
def fisher(base: Array, changes: Sequence[Contribution], *, base_importance: float = 0.0) -> Array:
    """``fisher``: Σ weight_i · F_i · x_i / Σ weight_i · F_i, value by value.

    F_i is the importance of each value: of the module that the step's parameter ``importance``
    names, the tensor of the same name; or a number. The base counts with base_importance. Where
    all importances are 0, it is the mean by the weights. Matena & Raffel 2022,
    https://arxiv.org/abs/2111.09832.
    """
    factors = [change.importance * change.weight for change in changes]
    above = changes[0].delta * factors[0]
    below = factors[0] + np.zeros_like(above)
    for change, factor in zip(changes[1:], factors[1:], strict=True):
        above += change.delta * factor
        below += factor
    below += base_importance
    nothing = below == 0
    if nothing.any():
        plain = total(changes) / divisor(sum(change.weight for change in changes))
        above[nothing], below[nothing] = plain[nothing], 1.0
    above /= below
    return added(base, above)
