"""``oft``: a weight's inputs are turned, block by block.

    delta = W Rᵀ − W        R = (I − Q)(I + Q)⁻¹,  Q skew-symmetric

or R by the first terms of the Neumann series of the inverse, as PEFT has it by default:
I + 2Q + … + 2Qⁿ⁻² + Qⁿ⁻¹. Qiu et al. 2023, https://arxiv.org/abs/2306.07280.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.adapters.matrix import rows
from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def prepare(inputs: Mapping[str, Tensor], term: Term, source: Tensor) -> Mapping[str, Tensor]:
    """Return R's blocks, (blocks, size, size)."""
    angles = inputs["r"]
    size = (1 + math.isqrt(1 + 8 * angles.shape[1])) // 2
    skew = angles.new_zeros(angles.shape[0], size, size)
    places = skew.new_ones(size, size).triu(1).nonzero()
    skew[:, places[:, 0], places[:, 1]] = angles
    skew = skew - skew.transpose(1, 2)
    if "eps" in term.parameters:
        skew = _near(skew, term.parameters["eps"])
    turn = _series(skew, term.parameters["terms"]) if "terms" in term.parameters else cayley(skew)
    return {"turn": turn.transpose(1, 2) if term.parameters.get("inverse") else turn}


def cayley(skew: Tensor) -> Tensor:
    """Return (I − Q)(I + Q)⁻¹ of each matrix."""
    unit = skew.new_ones(skew.shape[1]).diag()
    solved: Tensor = (unit + skew).transpose(1, 2).inverse().transpose(1, 2)
    return (unit - skew) @ solved


def _series(skew: Tensor, terms: int) -> Tensor:
    total = skew.new_ones(skew.shape[1]).diag().repeat(len(skew), 1, 1)
    if terms == 1:
        return total
    power = skew
    total += 2 * power
    if terms == 2:
        return total
    power = power @ skew
    total += 2 * power
    for _ in range(3, terms - 1):
        power = power @ skew
        total += 2 * power
    return total.add_(power @ skew)


def _near(skew: Tensor, eps: float) -> Tensor:
    """Return each block no farther from 0 than eps / √blocks (COFT)."""
    bound = eps / math.sqrt(len(skew))
    norms = skew.square().sum((1, 2), keepdim=True).sqrt_()
    return skew.where(norms <= bound, bound * skew / norms)


def turned(block: Tensor, turn: Tensor) -> Tensor:
    """Return rows times Rᵀ; one block of R stands for all."""
    size = turn.shape[1]
    parts = block.view(len(block), -1, size)
    if len(turn) == 1:
        return (parts @ turn[0].t()).flatten(1)
    return (turn @ parts.permute(1, 2, 0)).permute(2, 0, 1).flatten(1)


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W Rᵀ − W)."""
    block = rows(source, start, stop)
    return turned(block, inputs["turn"]).sub_(block).mul_(term.weight)


OFT = Operator(name="oft", bind=bind, delta=delta, prepare=prepare, null=("r",), multiplies=True)
