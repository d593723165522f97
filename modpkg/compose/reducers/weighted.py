"""Weighted sums and means: elementwise methods.

Models are seen from the base, x_i = base + delta_i, so that a mean of models is the base and the
mean of what they change: equal models give themselves, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modpkg.compose.reducers.reducer import Change, reducer

if TYPE_CHECKING:
    from torch import Tensor


def total(changes: Sequence[Change]) -> Tensor:
    """Return Σ weight_i · delta_i, in the order given (it is canonical)."""
    first = changes[0]
    found = first.delta * first.weight
    for change in changes[1:]:
        found.add_(change.delta, alpha=change.weight)
    return found


@reducer("sum", additive=True)
def sum_reducer(base: Tensor, changes: Sequence[Change]) -> Tensor:
    """``sum``: base + Σ weight_i · delta_i, the default; adapters are stacked so.

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089. The executor has the weights in the
    changes already.
    """
    found = changes[0].delta
    for change in changes[1:]:
        found = found + change.delta
    return base.add_(found)


@reducer("task-arithmetic", additive=True)
def task_arithmetic(
    base: Tensor, changes: Sequence[Change], *, normalize: bool = False, lambda_: float = 1.0
) -> Tensor:
    """``task-arithmetic``: base + lambda · Σ weight_i · delta_i  [/ Σ weight_i, if normalized].

    Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.
    """
    found = total(changes)
    if normalize:
        found.div_(divisor(sum(change.weight for change in changes)))
    return base.add_(found, alpha=lambda_)


def divisor(weights: float) -> float:
    """Return what to divide by; weights that cancel divide by nothing, as mergekit has it."""
    return weights if abs(weights) >= 1e-8 else 1.0


@reducer(
    "linear",
    additive=True,
    everywhere=lambda parameters: not parameters["normalize"],
)
def linear(
    base: Tensor, changes: Sequence[Change], *, normalize: bool = True, base_weight: float = 1.0
) -> Tensor:
    """``linear``: Σ weight_i · x_i / Σ weight_i, over the base (with base_weight) and the steps.

    Without normalize it is not divided. Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    weights = base_weight + sum(change.weight for change in changes)
    found = total(changes)
    if normalize:
        return base.add_(found.div_(weights))
    return base.mul_(weights).add_(found)


@reducer("mean", weighted=False)
def mean(base: Tensor, changes: Sequence[Change], *, with_base: bool = True) -> Tensor:
    """``mean``: the mean of the base (if with_base) and of every step's model: a uniform soup.

    Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    return base.add_(total(changes).div_(len(changes) + with_base))


def _has_scale(parameters: Mapping[str, Any]) -> bool:
    return bool(parameters["scale"] != 1.0)


@reducer("passthrough", steps=(0, 0), everywhere=_has_scale)
def passthrough(base: Tensor, changes: Sequence[Change], *, scale: float = 1.0) -> Tensor:
    """``passthrough``: scale · base. Tensors of layers from several models go through it."""
    return base.mul_(scale)


@reducer("fisher", step={"importance": 1.0})
def fisher(base: Tensor, changes: Sequence[Change], *, base_importance: float = 0.0) -> Tensor:
    """``fisher``: Σ weight_i · F_i · x_i / Σ weight_i · F_i, value by value.

    F_i is the importance of each value: of the module that the step's parameter ``importance``
    names, the tensor of the same name; or a number. The base counts with base_importance. Where
    all importances are 0, it is the mean by the weights. Matena & Raffel 2022,
    https://arxiv.org/abs/2111.09832.
    """
    factors = [change.importance * change.weight for change in changes]
    above = changes[0].delta * factors[0]
    below = above.new_zeros(()) + factors[0]
    for change, factor in zip(changes[1:], factors[1:], strict=True):
        above.add_(change.delta * factor)
        below = below + factor
    below = (below + base_importance).expand_as(above)
    nothing = below == 0
    if nothing.any():
        plain = total(changes) / divisor(sum(change.weight for change in changes))
        above, below = above.where(~nothing, plain), below.masked_fill(nothing, 1.0)
    return base.add_(above / below)
