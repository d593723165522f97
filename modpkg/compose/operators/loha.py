"""``loha``: an element-wise product of two low-rank matrices.

    delta = alpha / rank · (W1a @ W1b) ⊙ (W2a @ W2b)

Hyeon-Woo, Ye-Bin & Oh 2021 (FedPara), https://arxiv.org/abs/2108.06098. Convolutions may have a
core t for each factor: Σ t[i, j] · Wa[i] · Wb[j].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from modpkg.compose.composition import Term
from modpkg.compose.operators.adapter import bind
from modpkg.compose.operators.operator import Operator

if TYPE_CHECKING:
    from torch import Tensor


def delta(
    inputs: Mapping[str, Tensor], term: Term, start: int, stop: int, source: Tensor
) -> Tensor:
    """Return rows of weight · (W1a @ W1b) ⊙ (W2a @ W2b)."""
    first = _factor(inputs, "1", start, stop)
    return first.mul_(_factor(inputs, "2", start, stop)).mul_(term.weight)


def _factor(inputs: Mapping[str, Tensor], which: str, start: int, stop: int) -> Tensor:
    a, b = inputs[f"w{which}_a"], inputs[f"w{which}_b"]
    if f"t{which}" not in inputs:
        return a[start:stop] @ b
    core = inputs[f"t{which}"]
    inner = (core.flatten(2).transpose(1, 2) @ b).transpose(1, 2).flatten(1)
    return a[:, start:stop].t() @ inner


LOHA = Operator(
    name="loha", bind=bind, delta=delta, null=("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")
)
